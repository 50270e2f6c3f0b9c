"""From sampled points to a metric at every rank, and back from a metric value to a rank.

Both directions are SciPy's PCHIP, which keeps monotone points monotone.
"""

from __future__ import annotations

from typing import Callable

import numpy as np
import scipy

RankOf = Callable[[np.ndarray], np.ndarray]
#: Steps of a metric below this are none: the cubic's coefficients divide by their third power.
SMALLEST = 1e-50


def metric_over(points: np.ndarray, values: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """Metric along an axis that begins at 0: PCHIP from (0, 0) through the sampled points (the paper's section II).

    Parameters
    ----------
    points, values : ndarray, shape (n,), points increasing and above 0
    axis : ndarray
        Ranks 0 to r_max, or the cost of every form.
    """
    x = np.concatenate([[0], points])
    y = np.concatenate([[0.0], values])
    y = np.where(np.abs(y) < SMALLEST, 0.0, y)
    return scipy.interpolate.PchipInterpolator(x, y)(np.minimum(axis, x[-1]))


def rank_over_metric(ranks: np.ndarray, values: np.ndarray) -> RankOf:
    """Inverse mapping r(y) as in the published runs: PCHIP of rank over metric, from (0, 0).

    Points after the first value of 1 or more are dropped, and of equal or falling values the later point is, since
    an inverse needs increasing values. Beyond the last value the last rank is returned.
    """
    x, y = [0.0], [0.0]
    for rank, value in zip(np.asarray(ranks, dtype=float), np.asarray(values, dtype=float)):
        if value > x[-1] + SMALLEST:
            x.append(value)
            y.append(rank)
        if value >= 1:
            break
    if len(x) == 1:
        last = float(np.asarray(ranks)[-1])
        return lambda metric: np.full_like(np.asarray(metric, dtype=float), last)
    curve = scipy.interpolate.PchipInterpolator(x, y)
    top = x[-1]
    return lambda metric: curve(np.clip(metric, 0.0, top))


def inverse_of_curve(curve: np.ndarray, axis: np.ndarray) -> RankOf:
    """Inverse mapping r(y) of a metric that is known all along an axis (every rank 0 to r_max), as the paper's section IV has it.

    Linear between its points. Where the metric falls or stays, the lowest point that reaches a value counts.
    """
    highest = np.maximum.accumulate(np.asarray(curve, dtype=float))
    first = np.concatenate([[True], np.diff(highest) > 0])
    values, ranks = highest[first], np.asarray(axis, dtype=float)[first]
    return lambda metric: np.interp(metric, values, ranks)


def surrogate_over(points: np.ndarray, divergences: np.ndarray, axis: np.ndarray) -> np.ndarray:
    """exp(-d) along an axis that begins at 0, from divergences d >= 0 at sampled points: a product of these is exp of minus
    their sum.

    PCHIP of log d; below the lowest sample the curve goes on at its last slope (at least as steep as 1/x), so that nothing
    left (0) is worst.

    Parameters
    ----------
    points, divergences : ndarray, shape (n,), points increasing and above 0
    axis : ndarray
        Ranks 0 to r_max, or the cost of every form.
    """
    tiny = max(1e-12, 1e-6 * float(np.max(divergences, initial=0.0)))
    x, y = np.asarray(points, dtype=float), np.log(np.maximum(np.asarray(divergences, dtype=float), tiny))
    grid = np.asarray(axis, dtype=float)
    if len(x) == 1:
        values = np.full(len(grid), y[0])
        slope = 0.0
    else:
        values = scipy.interpolate.PchipInterpolator(x, y)(np.clip(grid, x[0], x[-1]))
        slope = (y[1] - y[0]) / (x[1] - x[0])
    below = grid < x[0]
    steep = min(slope, -1.0 / x[0])
    values[below] = y[0] + steep * (grid[below] - x[0])
    result = np.exp(-np.exp(values))
    result[0] = min(result[0], float(np.min(result)))
    return result
