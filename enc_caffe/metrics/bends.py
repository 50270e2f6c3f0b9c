"""Where a measured curve bends: ranks that are worth measuring besides the first ones."""

from __future__ import annotations

from typing import Sequence

import numpy as np
import scipy

Points = tuple[Sequence[int], Sequence[float]]

#: A sample that its neighbours mispredict by this much in the logarithm (65%) is a bend.
TOLERANCE = 0.5
#: Part of the layers' median divergence at the lowest samples under which differences mean nothing to a sum.
FLOOR = 0.01


def floor_of(curves: Sequence[Points]) -> float:
    """Divergence under which no bend is looked for: so little that no plan is chosen by it."""
    lowest = [values[0] for _, values in curves if len(values)]
    return max(1e-12, FLOOR * float(np.median(lowest))) if lowest else 1e-12


def bent_ranks(points: Points, floor: float, tolerance: float = TOLERANCE) -> list[int]:
    """The middles of the intervals on both sides of every bend; increasing, none of them sampled.

    A sample is a bend if PCHIP of the logarithm through the others misses it by more than ``tolerance``: the interpolation
    that the search uses is then not to be trusted beside it either.

    Parameters
    ----------
    points : pair of sequences
        Increasing ranks and the divergences there.
    floor : float
        Lesser divergences count as this one.
    """
    ranks, values = np.asarray(points[0], dtype=float), np.log(np.maximum(np.asarray(points[1], dtype=float), floor))
    found: set[int] = set()
    for i in range(1, len(ranks) - 1):
        others = scipy.interpolate.PchipInterpolator(np.delete(ranks, i), np.delete(values, i))
        if abs(float(others(ranks[i])) - values[i]) > tolerance:
            for j in (i - 1, i):
                # Where both ends are at the floor, so is what lies between.
                if ranks[j + 1] - ranks[j] >= 2 and values[j] > np.log(floor):
                    found.add(int(ranks[j] + ranks[j + 1]) // 2)
    return sorted(found)
