"""Uniform rank reduction: the same part of r_max in every layer (the paper's baseline, section VI-C)."""

from __future__ import annotations

from enc_caffe.rounding import round_half_up
from enc_caffe.search.problem import SearchProblem, SearchResult, log_product


def ranks_at(problem: SearchProblem, part: float) -> tuple[int, ...]:
    """Every layer at ``part`` of its r_max, rounded and kept within its bounds."""
    return tuple(min(layer.high, max(layer.low, round_half_up(part * layer.high))) for layer in problem.layers)


def search(problem: SearchProblem) -> SearchResult:
    """The largest common part of r_max whose rounded ranks stay within the budget.

    Raises
    ------
    InfeasibleError
        If the budget is below what the lowest ranks cost.
    """
    problem.check_feasible()
    # Every part at which some layer's rank changes: few enough to look at, so no tolerance is needed.
    steps = sorted({(r + 0.5) / layer.high for layer in problem.layers for r in range(layer.high)} | {0.0})
    first, last = 0, len(steps) - 1
    while first < last:
        middle = (first + last + 1) // 2
        if problem.macs(ranks_at(problem, steps[middle])) <= problem.budget:
            first = middle
        else:
            last = middle - 1
    ranks = ranks_at(problem, steps[first])
    return SearchResult(ranks, log_product(problem, ranks), level=steps[first])
