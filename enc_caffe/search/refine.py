"""Ranks refined by evaluations of whole networks: what the sum over layers leaves out.

The surrogate (a sum over layers, each truncated alone) knows the best trade-offs among like layers, but not how errors of
different parts of the network add up. So each run of consecutive layers of equal cost gets a weight, at first 1; raising
it and solving exactly again moves rank to that run from all others along the surrogate's best trade-offs. A change that
lowers the measured value of the whole network stays, and is tried again; after a round without any, changes become
smaller. Equal plans are never evaluated twice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Callable, Optional, Sequence

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.search import exact
from enc_caffe.search.problem import SearchProblem

#: First factor of a weight; its square root after a round without success.
FACTOR = 2.0
#: Below this factor the plans hardly differ.
LEAST = 1.05


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
    weights, factor, failed, turn = [1.0] * len(runs), FACTOR, 0, 0
    while len(known) < evaluations and factor >= LEAST and len(runs) > 1:
        run, direction = divmod(turn, 2)
        tried = list(weights)
        tried[run] *= factor if direction == 0 else 1.0 / factor
        ranks = _solve(problem, runs, tried)
        better = False
        if ranks is not None and ranks not in known:
            known[ranks] = value_of(ranks)
            better = known[ranks] < known[best]
        if better and ranks is not None:
            best, weights, failed = ranks, tried, 0
            continue
        failed += 1
        turn = (turn + 1) % (2 * len(runs))
        if failed == 2 * len(runs):
            factor, failed = math.sqrt(factor), 0
    return Refined(best, known[best], tuple(known.items()))


def _runs(problem: SearchProblem) -> list[int]:
    """First layer of every run of consecutive layers of equal cost."""
    units = [x.unit() or tuple(int(c[-1]) for c in x.costs.values()) for x in problem.layers]
    return [i for i in range(len(units)) if i == 0 or units[i] != units[i - 1]]


def _solve(problem: SearchProblem, runs: Sequence[int], weights: Sequence[float]) -> Optional[tuple[int, ...]]:
    layers = []
    for i, layer in enumerate(problem.layers):
        weight = weights[max(r for r, first in enumerate(runs) if first <= i)]
        layers.append(replace(layer, metric=layer.metric**weight))
    try:
        return exact.plans(replace(problem, layers=tuple(layers)))[0][0][0]
    except InfeasibleError:
        return None
