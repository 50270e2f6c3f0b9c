"""Ranks refined by evaluations of whole networks: what the sum over layers leaves out.

The surrogate (a sum over layers, each truncated alone) knows the best trade-offs among like layers, but not how errors of
different parts of the network add up, nor how much of them the layers behind make up for. So each run of consecutive layers of equal
cost gets a weight, at first 1; raising those of one part of the network, lowering those of another and solving exactly again
moves rank between both along the surrogate's best trade-offs. First the network's halves, then the halves of these, down to single runs (a
Haar basis). A change that lowers the measured value of the whole network stays, and is tried again where it brought much; after a round
without any, changes become smaller. Equal plans are never evaluated twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable, Optional, Sequence

import numpy as np

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.search import exact
from enc_caffe.search.problem import SearchProblem

#: First factor between the weights of two parts; its square root after a round without success.
FACTOR = 2.0
#: Below this factor the plans hardly differ.
LEAST = 1.05
#: Part of the value that a change has to bring to be tried again at once.
MUCH = 0.02


@dataclass(frozen=True)
class Refined:
    """The best ranks, and every plan that was evaluated with its value, in the order of the evaluations."""

    ranks: tuple[int, ...]
    value: float
    evaluated: tuple[tuple[tuple[int, ...], float], ...]


def refine(
    problem: SearchProblem, start: Sequence[int], value_of: Callable[[Sequence[int]], float], evaluations: int
) -> Refined:
    """Lower the measured value of a whole network within the budgets.

    Parameters
    ----------
    problem : SearchProblem
    start : sequence of int
        Ranks of ``problem.layers`` to begin with.
    value_of : callable of ranks
        What is to become small, such as the network's mean divergence from the original.
    evaluations : int
        Calls of ``value_of`` at most, the start included.

    Raises
    ------
    UsageError
        For a number below 1.
    """
    if evaluations < 1:
        raise UsageError(f"--refine {evaluations}: at least 1 evaluation is needed")
    if "macs" not in problem.budgets and (problem.options.target_accuracy is not None or not problem.budgets):
        # The least MACs were asked for: other plans may not cost more.
        problem = replace(problem, budgets={**problem.budgets, "macs": problem.cost("macs", start)})
    known = {tuple(start): value_of(tuple(start))}
    best, runs = tuple(start), _runs(problem)
    parts = _parts(len(runs))
    weights, factor, failed, turn = np.ones(len(runs)), FACTOR, 0, 0
    while len(known) < evaluations and factor >= LEAST and parts:
        at, direction = divmod(turn, 2)
        tried = weights * factor ** (parts[at] if direction == 0 else -parts[at])
        ranks, before = _solve(problem, runs, tried), known[best]
        if ranks is not None and ranks not in known:
            known[ranks] = value_of(ranks)
        gained = before - known[ranks] if ranks is not None else 0.0
        if ranks is not None and gained > 0.0:
            best, weights, failed = ranks, tried, 0
            if gained >= MUCH * before:
                continue
        else:
            failed += 1
        turn = (turn + 1) % (2 * len(parts))
        if failed == 2 * len(parts):
            factor, failed = math.sqrt(factor), 0
    return Refined(best, known[best], tuple(known.items()))


def _parts(runs: int) -> list[np.ndarray]:
    """Exponents of a factor, run by run: 1/2 for the first half of a part and -1/2 for its other half; the network's halves first, single
    runs last."""
    found, level = [], [(0, runs)]
    while level:
        halves = []
        for first, stop in level:
            middle = (first + stop) // 2
            if first < middle:
                found.append(np.zeros(runs))
                found[-1][first:middle], found[-1][middle:stop] = 0.5, -0.5
                halves += [(first, middle), (middle, stop)]
        level = halves
    return found


def _runs(problem: SearchProblem) -> list[int]:
    """First layer of every run of consecutive layers of equal cost."""
    units = [x.unit() or tuple(int(c[-1]) for c in x.costs.values()) for x in problem.layers]
    return [i for i in range(len(units)) if i == 0 or units[i] != units[i - 1]]


def _solve(problem: SearchProblem, runs: Sequence[int], weights: np.ndarray) -> Optional[tuple[int, ...]]:
    layers = []
    for i, layer in enumerate(problem.layers):
        weight = float(weights[max(r for r, first in enumerate(runs) if first <= i)])
        layers.append(replace(layer, metric=layer.metric**weight))
    try:
        return exact.plans(replace(problem, layers=tuple(layers)))[0][0][0]
    except InfeasibleError:
        return None
