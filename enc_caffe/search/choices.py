"""Plans as choices of one option a stage: the N best by A_p, A_m or another product, and by A_c, with proof or bound.

A stage is a layer with its ranks, or a group of layers with its candidate splits. A product is a sum of logarithms and so
a knapsack (:mod:`enc_caffe.search.knapsack`). A_c = exp(u) C / C_orig + exp(v), with u and v the two sums of logarithms,
is not. For a fixed C it is convex and rises in u and v, so lists of the best plans by weighted sums w u + (1 - w) v
enclose it: no plan outside of the lists lies beyond the half-planes that their last values draw, and on what is left
the objective is largest at a corner. Source: METHOD section 7.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Sequence

import numpy as np

from enc_caffe.search.knapsack import Solution, solve
from enc_caffe.search.multipliers import Stage
from enc_caffe.search.problem import SearchProblem, log_combined

#: Logarithm that stands for a metric of 0 in A_c, where the other half can still be above 0.
ZERO = -690.0
#: Plans in one list of A_c's enclosure: where the best are not proven by so many, the gap says what may be missed.
LONGEST = 320
#: Lists of one enclosure, and the ratio and the difference of two weights between which there is none.
LISTS, CLOSE, NEAR = 12, 1.05, 1e-6
#: Difference of the objective's logarithm that counts as none: a part in 10^9 of the objective.
EQUAL = 1e-9

Plan = tuple[tuple[int, ...], float]


@dataclass(frozen=True)
class Options:
    """Options of one stage.

    Attributes
    ----------
    ranks : ndarray of int, shape (options, layers of the stage)
    costs : ndarray of int64, shape (options, limits)
    metric, energy : ndarray, shape (options,)
        Logarithms of the objective's metric and of the PCA energy, summed over the stage's layers.
    """

    ranks: np.ndarray
    costs: np.ndarray
    metric: np.ndarray
    energy: np.ndarray


def logarithms(values: np.ndarray) -> np.ndarray:
    """Logarithm, minus infinity for 0 and below."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(values, 0.0))


def best_plans(
    problem: SearchProblem, stages: Sequence[Options], limits: np.ndarray, number: int, most_macs: float
) -> tuple[list[Plan], float]:
    """The ``number`` best plans, best first, and how much better an unlisted plan could be than the last of them.

    Parameters
    ----------
    problem : SearchProblem
        Its score is the objective; ``stages`` hold its layers in their order.
    stages : sequence of Options
    limits : ndarray of int64, shape (limits,)
    number : int
    most_macs : float
        No plan has more; A_c is bounded with it.
    """
    if problem.combined:
        return _combined(problem, stages, limits, number, most_macs)
    found, _ = pick(stages, [s.metric for s in stages], limits, number)
    return [(ranks, problem.score(ranks)) for ranks, _ in found], max((s.gap for _, s in found), default=0.0)


def pick(
    stages: Sequence[Options],
    values: Sequence[np.ndarray],
    limits: np.ndarray,
    number: int,
    known: Sequence[tuple[int, ...]] = (),
) -> tuple[list[tuple[tuple[int, ...], Solution]], float]:
    """Best plans by a sum of these values of the options, and a bound of what the knapsack had to drop.

    Options of minus infinity are left out. ``known`` are solutions to begin with, where none is.
    """
    kept = [np.flatnonzero(v > -np.inf) for v in values]
    if not all(len(k) for k in kept):
        return [], -math.inf
    parts = [Stage(s.costs[k], v[k]) for s, v, k in zip(stages, values, kept)]
    found = solve(parts, limits, number, known=known)
    return [
        (tuple(int(r) for s, k, p in zip(stages, kept, solution.picks) for r in s.ranks[k[p]]), solution)
        for solution in found
    ], found.dropped


class _Enclosure:
    # Half-planes w u + (1 - w) v <= limits[w] that hold every plan which is not listed.

    def __init__(self, problem: SearchProblem, stages: Sequence[Options], budget: np.ndarray, most_macs: float) -> None:
        self.problem, self.stages, self.budget = problem, stages, budget
        self.energy = [np.maximum(s.energy, ZERO) for s in stages]
        self.metric = [np.maximum(s.metric, ZERO) for s in stages]
        self.ratio = most_macs / problem.originals["macs"]
        self.limits: dict[float, float] = {}
        self.lengths: dict[float, int] = {}
        self.plans: dict[tuple[int, ...], float] = {}
        self.picks: dict[tuple[int, ...], tuple[int, ...]] = {}

    def ask(self, weight: float, number: int) -> None:
        values = [weight * u + (1 - weight) * v for u, v in zip(self.energy, self.metric)]
        found, dropped = pick(self.stages, values, self.budget, number, tuple(self.picks.values()))
        for ranks, solution in found:
            if ranks not in self.plans:
                self.plans[ranks], self.picks[ranks] = self.problem.score(ranks), solution.picks
        # A list that is shorter than asked for holds every plan, unless some had to be dropped.
        last = found[-1][1] if len(found) >= number else None
        self.limits[weight] = last.value + last.gap if last is not None else dropped
        self.lengths[weight] = number

    def corners(self) -> list[tuple[float, float, float]]:
        # Corners of what the half-planes leave: the objective's bound there, and the two weights that meet in it.
        weights = sorted(self.limits)
        if any(self.limits[w] == -math.inf for w in weights):
            return []
        found = []
        for first, second in zip(weights, weights[1:]):
            u, v = self.corner(first, second)
            found.append((log_combined(u, v, self.ratio), first, second))
        return found

    def corner(self, first: float, second: float) -> tuple[float, float]:
        sides = np.array([[first, 1 - first], [second, 1 - second]])
        u, v = np.linalg.solve(sides, [self.limits[first], self.limits[second]])
        return float(u), float(v)

    def best(self, number: int) -> list[Plan]:
        return sorted(((r, s) for r, s in self.plans.items() if s > -math.inf), key=lambda p: (-p[1], p[0]))[:number]

    def narrow(self, first: float, second: float, number: int) -> bool:
        # Cuts the corner of two lists off, by a list between them or, where they are close, by longer ones; whether it could.
        if second > CLOSE * first + NEAR and len(self.limits) < LISTS:
            # The objective rises in the corner as this weighted sum does.
            u, v = self.corner(first, second)
            u, v = self.ratio * math.exp(u - max(u, v)), math.exp(v - max(u, v))
            weight = u / (u + v)
            # Away from both, so that the half-planes of two neighbours always meet in a point.
            apart = first + NEAR / 2 < weight < second - NEAR / 2
            self.ask(weight if apart else 0.5 * (first + second), number)
            return True
        shorter = min((first, second), key=lambda w: (self.lengths[w], w))
        if self.lengths[shorter] >= max(LONGEST, number):
            return False
        self.ask(shorter, 8 * self.lengths[shorter])
        return True


def _combined(
    problem: SearchProblem, stages: Sequence[Options], limits: np.ndarray, number: int, most_macs: float
) -> tuple[list[Plan], float]:
    # Lists by the two halves alone, then wherever a corner between two lists is above what is known.
    enclosure = _Enclosure(problem, stages, limits, most_macs)
    for weight in (0.0, 1.0):
        enclosure.ask(weight, number)
    while True:
        plans = enclosure.best(number)
        corners = enclosure.corners()
        if not corners:
            # A list that ended holds every plan.
            return plans, 0.0
        bound, first, second = max(corners)
        gap = bound - _last(plans, number)
        if gap <= EQUAL or not enclosure.narrow(first, second, number):
            return plans, gap if gap > EQUAL else 0.0


def _last(plans: Sequence[Plan], number: int) -> float:
    return plans[number - 1][1] if len(plans) >= number else -math.inf
