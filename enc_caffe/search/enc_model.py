"""ENC-Model: the plan with the largest A_p, A_m or A_c (Eq. 19), over all ranks or over the paper's candidate space."""

from __future__ import annotations

from typing import Optional

from enc_caffe.search import exact, space
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The best plan by the objective; ``--solver`` says among which.

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met, or no candidate of the space meets them.
    """
    return listed(problem, 1)


def listed(problem: SearchProblem, number: int) -> SearchResult:
    """The ``number`` best plans, in ``best``."""
    if problem.options.solver == "space":
        return space.search(problem, number)
    plans, gap = exact.plans(problem, number)
    return SearchResult(plans[0][0], plans[0][1], len(plans), gap == 0.0, gap, best=tuple(plans))
