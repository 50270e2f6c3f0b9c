"""The exact optimum of ENC-Model's product metric over ALL integer ranks within a budget.

Maximising sum_l log y_l(r_l) subject to sum_l c_l r_l <= budget is a multiple-choice knapsack. The c_l share a large
common divisor (VGG-16: 602,112 MACs, ResNet-56: 6,144), so dynamic programming over integer cost units is exact and
small. Where the divisor is so small that the table would not be, costs are rounded UP to a grid: the plan stays within
the budget, and the gap to what costs rounded DOWN would reach bounds the loss. Source: METHOD section 7; Bellman (1957).
"""

from __future__ import annotations

import math
from functools import reduce

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.problem import SearchProblem, SearchResult, log_product

#: Cost units of the largest table; the time grows with units x ranks x layers.
MAX_UNITS = 50_000


def search(problem: SearchProblem, max_units: int = MAX_UNITS) -> SearchResult:
    """Ranks with the largest product of the layers' metrics (Eq. 6 or 7) within the budget.

    Parameters
    ----------
    max_units : int
        Cost units of the table; above it costs are rounded up to a grid.

    Returns
    -------
    SearchResult
        ``proven_optimal`` is true where no rounding was needed or its bound shows that nothing was lost; ``gap`` is the
        most by which another plan's logarithm of the objective could be larger.

    Raises
    ------
    InfeasibleError
        If the budget is below what the lowest ranks cost, or every plan within it has an objective of 0.
    """
    problem.check_feasible()
    unit = reduce(math.gcd, (layer.macs for layer in problem.layers))
    room = int(min(problem.budget, problem.macs([layer.high for layer in problem.layers])) - problem.fixed_macs)
    units = room // unit
    exact = units <= max_units
    grid = unit if exact else -(-room // max_units)
    ranks = _solve(problem, room // grid, grid, round_up=True)
    if ranks is None:
        raise InfeasibleError(
            f"every rank configuration within {problem.budget / problem.original_macs:.4f} of the MACs has a layer whose metric "
            "is 0; raise the target or the floor"
        )
    objective = log_product(problem, ranks)
    gap = 0.0
    if not exact:
        bound = _solve(problem, room // grid, grid, round_up=False)
        gap = max(0.0, log_product(problem, bound) - objective) if bound is not None else 0.0
    return SearchResult(ranks, objective, proven_optimal=gap == 0.0, gap=gap)


def _solve(problem: SearchProblem, units: int, grid: int, round_up: bool) -> tuple[int, ...] | None:
    """Best ranks with every cost in whole units of ``grid``; None where all plans within the budget have objective 0."""
    best = np.zeros(units + 1)
    choices = []
    for layer in problem.layers:
        ranks = np.arange(layer.low, layer.high + 1)
        with np.errstate(divide="ignore"):
            values = np.log(np.maximum(layer.metric[ranks], 0.0))
        costs = (ranks * layer.macs + (grid - 1 if round_up else 0)) // grid
        new = np.full(units + 1, -np.inf)
        choice = np.zeros(units + 1, dtype=np.int32)
        for rank, value, cost in zip(ranks, values, costs):
            if cost > units or value == -np.inf:
                continue
            reached = best[: units + 1 - cost] + value
            part = new[cost:]
            better = reached > part
            part[better] = reached[better]
            choice[cost:][better] = rank
        best = new
        choices.append((choice, costs, layer.low))
    if best[units] == -np.inf:
        return None
    left = units
    picked: list[int] = []
    for choice, costs, low in reversed(choices):
        chosen = int(choice[left])
        picked.append(chosen)
        left -= int(costs[chosen - low])
    return tuple(reversed(picked))
