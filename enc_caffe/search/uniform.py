"""Uniform reduction: the same part of r_max in every layer (the paper's baseline, section VI-C), or of its cost on a frontier."""

from __future__ import annotations

from typing import Optional, Sequence

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult


def ranks_at(problem: SearchProblem, part: float) -> tuple[int, ...]:
    """Every layer at ``part`` of its r_max, rounded and kept within its bounds."""
    return tuple(x.allowed(part * float(x.points[-1])) for x in problem.layers)


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The largest common part of r_max whose rounded ranks stay within the budgets.

    Raises
    ------
    InfeasibleError
        If a budget is below what the lowest ranks cost.
    """
    return scaled(problem, [float(x.points[-1]) for x in problem.layers], 1.0)


def scaled(problem: SearchProblem, ranks: Sequence[float], highest: float) -> SearchResult:
    """The largest common factor, up to ``highest``, of given ranks that stays within the budgets."""
    problem.check_feasible()

    def at(factor: float) -> tuple[int, ...]:
        return tuple(x.allowed(factor * r) for x, r in zip(problem.layers, ranks))

    # Every factor at which some layer's rank changes, so that no tolerance is needed.
    steps = sorted({0.0, highest} | {
        (a + b) / 2 / r for x, r in zip(problem.layers, ranks)
        for a, b in zip(x.points[x.ranks].tolist(), x.points[x.ranks][1:].tolist()) if (a + b) / 2 / r <= highest
    })  # fmt: skip
    if not problem.fits(at(0.0)):
        raise InfeasibleError(
            "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
        )
    first, last = 0, len(steps) - 1
    while first < last:
        middle = (first + last + 1) // 2
        if problem.fits(at(steps[middle])):
            first = middle
        else:
            last = middle - 1
    found = at(steps[first])
    return SearchResult(found, problem.score(found), level=steps[first])
