"""What a unit of each budget is worth: the multipliers of the knapsack's Lagrangian relaxation, by which it is bounded.

Source: Fisher, The Lagrangian relaxation method for solving integer programming problems (1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np
import scipy

#: Linear relaxations that are solved for the prices of several budgets.
ROUNDS = 30


@dataclass(frozen=True)
class Stage:
    """Options of one stage: costs (n, budgets) of int64, and values (n,), finite."""

    costs: np.ndarray
    values: np.ndarray


def dual_multipliers(stages: Sequence[Stage], budget: np.ndarray) -> np.ndarray:
    """Multipliers (budgets,) of the Lagrangian relaxation, at least 0, that make its upper bound least.

    One budget: bisection on the price. Several: the linear relaxation, by HiGHS over a few options of every stage, to
    which those that its prices call for are added. Any multipliers bound; good ones prune.
    """
    if len(budget) == 1:
        return np.array([_price(stages, float(budget[0]))])
    chosen = [_spread(s) for s in stages]
    multipliers = np.zeros(len(budget))
    for _ in range(ROUNDS):
        solved = _relaxed([Stage(s.costs[c], s.values[c]) for s, c in zip(stages, chosen)], budget)
        if solved is None:
            break
        multipliers, level = solved
        added = False
        for i, stage in enumerate(stages):
            gains = stage.values - stage.costs @ multipliers
            best = int(np.argmax(gains))
            if gains[best] > level[i] + 1e-9 and best not in chosen[i]:
                chosen[i] = np.append(chosen[i], best)
                added = True
        if not added:
            break
    return multipliers


def _spread(stage: Stage, number: int = 12) -> np.ndarray:
    # The cheapest option in every cost, the best one, and some between them.
    ends = [int(np.argmin(c)) for c in stage.costs.T] + [int(np.argmax(stage.values))]
    between = np.linspace(0, len(stage.values) - 1, min(number, len(stage.values))).astype(int)
    return np.unique(np.concatenate([ends, between]))


def _relaxed(stages: Sequence[Stage], budget: np.ndarray) -> Optional[tuple[np.ndarray, np.ndarray]]:
    """Prices of the budgets, and every stage's level, of the linear relaxation; None where it cannot be met."""
    costs, values = np.vstack([s.costs for s in stages]).astype(float), np.concatenate([s.values for s in stages])
    scale = np.maximum(np.abs(budget.astype(float)), 1.0)
    sizes = [len(s.values) for s in stages]
    choose = scipy.sparse.csr_matrix(
        (np.ones(len(values)), (np.repeat(np.arange(len(stages)), sizes), np.arange(len(values))))
    )
    done = scipy.optimize.linprog(
        -values, A_ub=scipy.sparse.csr_matrix((costs / scale).T), b_ub=budget / scale, A_eq=choose, b_eq=np.ones(len(stages)), method="highs"
    )  # fmt: skip
    if done.status != 0:
        return None
    return np.maximum(-done.ineqlin.marginals, 0.0) / scale, -done.eqlin.marginals


def _price(stages: Sequence[Stage], budget: float) -> float:
    starts = np.cumsum([0, *[len(s.values) for s in stages]])[:-1]
    costs = np.concatenate([s.costs[:, 0] for s in stages]).astype(float)
    values = np.concatenate([s.values for s in stages])
    owner = np.repeat(np.arange(len(stages)), [len(s.values) for s in stages])

    def cheapest(price: float) -> float:
        # Of options that are equally good at this price, the cheapest: the total then falls as the price rises.
        gains = values - price * costs
        top = np.maximum.reduceat(gains, starts)
        best = np.where(gains >= top[owner] - 1e-13 * np.maximum(1.0, np.abs(top[owner])), costs, np.inf)
        return float(np.minimum.reduceat(best, starts).sum())

    if cheapest(0.0) <= budget:
        return 0.0
    high = (values.max() - values.min() + 1e-12) / max(1.0, costs[costs > 0].min(initial=np.inf) if np.any(costs > 0) else 1.0)  # fmt: skip
    low = 0.0
    while cheapest(high) > budget and high < 1e300:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        if cheapest(middle) <= budget:
            high = middle
        else:
            low = middle
        if high - low <= 1e-9 * high:
            break
    return high
