"""From sampled points to a metric at every rank, and back from a metric value to a rank.

Both directions are SciPy's PCHIP, which keeps monotone points monotone.
"""

from __future__ import annotations

from typing import Callable

import numpy as np
from scipy.interpolate import PchipInterpolator

RankOf = Callable[[np.ndarray], np.ndarray]


def metric_at_every_rank(ranks: np.ndarray, values: np.ndarray, max_rank: int) -> np.ndarray:
    """Metric at 0 to max_rank: PCHIP from (0, 0) through the sampled points (the paper's section II).

    Parameters
    ----------
    ranks, values : ndarray, shape (n,), ranks increasing and at least 1
    """
    x = np.concatenate([[0], ranks])
    y = np.concatenate([[0.0], values])
    grid = np.arange(max_rank + 1)
    return PchipInterpolator(x, y)(np.minimum(grid, x[-1]))


def rank_over_metric(ranks: np.ndarray, values: np.ndarray) -> RankOf:
    """Inverse mapping r(y) as in the published runs: PCHIP of rank over metric, from (0, 0).

    Points after the first value of 1 or more are dropped, and of equal or falling values the later point is, since
    an inverse needs increasing values. Beyond the last value the last rank is returned.
    """
    x, y = [0.0], [0.0]
    for rank, value in zip(np.asarray(ranks, dtype=float), np.asarray(values, dtype=float)):
        if value > x[-1]:
            x.append(value)
            y.append(rank)
        if value >= 1:
            break
    if len(x) == 1:
        last = float(np.asarray(ranks)[-1])
        return lambda metric: np.full_like(np.asarray(metric, dtype=float), last)
    curve = PchipInterpolator(x, y)
    top = x[-1]
    return lambda metric: curve(np.clip(metric, 0.0, top))
