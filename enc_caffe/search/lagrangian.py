"""A budget by one price: every layer by itself takes the form of the best metric less the price of its cost.

The rule of BALF (arXiv 2509.25136), which has it beside a whitened SVD: here ``--metric output`` and ``--decomposition weighted``.
The price is the least one whose plan meets the budget. Only plans on the convex hull of metric over cost are found, so
that a part of the budget may be left; the exact search has no such gap.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.choices import logarithms
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult

#: Halvings of the interval of the price's logarithm.
STEPS = 200


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The plan at the least price that meets the budgets.

    With several budgets a price is on the sum of the costs as parts of their budgets. The metric is the product of the
    layers' (A_c's second half for the combined one).

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met.
    """
    problem.check_feasible()
    values = [np.maximum(logarithms(x.metric[x.ranks]), -1e9) for x in problem.layers]
    costs = [sum(x.costs[n][x.ranks] / max(b, 1.0) for n, b in problem.budgets.items()) for x in problem.layers]

    def at(price: float) -> tuple[int, ...]:
        # Of equal ones the cheaper: the first, since places rise in cost.
        return tuple(int(x.ranks[np.argmax(v - price * c)]) for x, v, c in zip(problem.layers, values, costs))

    free = at(0.0)
    if problem.fits(free):
        return SearchResult(free, problem.score(free), level=0.0)
    low, high = -80.0, 80.0
    if not problem.fits(at(float(np.exp(high)))):
        raise InfeasibleError(
            "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
        )
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if problem.fits(at(float(np.exp(middle)))) else (middle, high)
    price = float(np.exp(high))
    found = at(price)
    return SearchResult(found, problem.score(found), level=price)
