"""ENC-Map: all layers at one common value of the metric (Eq. 12 to 14)."""

from __future__ import annotations

import numpy as np

from enc_caffe.rounding import round_half_up
from enc_caffe.search.problem import SearchProblem, SearchResult, log_product


def ranks_at(problem: SearchProblem, level: float) -> tuple[int, ...]:
    """Ranks R_e of Eq. 12: every layer at metric value ``level``, rounded and kept within its bounds."""
    return tuple(
        min(layer.high, max(layer.low, round_half_up(float(layer.rank_of(np.array(level))))))
        for layer in problem.layers
    )


def search(problem: SearchProblem) -> SearchResult:
    """Ranks for a complexity (f_C-R of Eq. 14).

    The largest common metric value whose ROUNDED ranks stay within the budget, by bisection: C(y) never falls as y
    rises, since no rank does.

    Raises
    ------
    InfeasibleError
        If the budget is below what the lowest ranks cost.
    """
    problem.check_feasible()
    low, high = 0.0, 1.0
    if problem.macs(ranks_at(problem, high)) <= problem.budget:
        low = high
    while high - low > 1e-9:
        middle = (low + high) / 2
        if problem.macs(ranks_at(problem, middle)) <= problem.budget:
            low = middle
        else:
            high = middle
    ranks = ranks_at(problem, low)
    return SearchResult(ranks, log_product(problem, ranks), level=low)
