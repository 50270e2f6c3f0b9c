"""A hand-made policy: what is kept falls along a line from the first layer to the last.

The paper's Table I has a "heuristic" that [17] compares with; its rule is stated nowhere. This one is OURS, not theirs: early
layers have few channels and feed all that follows, so that practice spares them. The first layer keeps 1 + tilt times
the part of r_max that the middle one keeps, the last 1 - tilt times, and one common factor meets the budget.
"""

from __future__ import annotations

from typing import Optional

from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.uniform import scaled


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The largest factor of the policy's parts that stays within the budgets; no part is above 1.

    Raises
    ------
    InfeasibleError
        If a budget is below what the lowest ranks cost.
    """
    tilt, last = problem.options.own("tilt"), max(1, len(problem.layers) - 1)
    parts = [1.0 + tilt * (1.0 - 2.0 * at / last) for at in range(len(problem.layers))]
    # A tilt of 1 leaves an end of the network nothing but its lowest rank.
    parts = [max(p, 1e-6) for p in parts]
    wanted = [p * float(x.points[-1]) for x, p in zip(problem.layers, parts)]
    return scaled(problem, wanted, 1.0 / min(parts))
