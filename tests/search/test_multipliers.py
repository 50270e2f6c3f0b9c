"""Multipliers bound the knapsack from above, and nearly as low as its best solution."""

from __future__ import annotations

import numpy as np

from enc_caffe.search.knapsack import solve
from enc_caffe.search.multipliers import Stage, dual_multipliers


def test_multipliers_bound_from_above() -> None:
    rng = np.random.default_rng(0)
    stages = [Stage(rng.integers(1, 50, (20, 2)), np.log(rng.random(20))) for _ in range(8)]
    budget = np.array([150, 170])
    multipliers = dual_multipliers(stages, budget)
    assert np.all(multipliers >= 0)
    bound = sum(float(np.max(s.values - s.costs @ multipliers)) for s in stages) + float(budget @ multipliers)
    best = solve(stages, budget)[0]
    assert best.value <= bound + 1e-9 and bound - best.value < 1.0
