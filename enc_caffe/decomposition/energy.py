"""PCA energy of a matrix over its rank (Eq. 1 and 2)."""

from __future__ import annotations

import numpy as np


def pca_energy(singular_values: list[np.ndarray], max_rank: int) -> np.ndarray:
    """Normalised PCA energy y_p at every rank.

    Parameters
    ----------
    singular_values : list of ndarray, one a group, each at least ``max_rank`` long, largest first
        Groups are averaged.
    max_rank : int

    Returns
    -------
    ndarray, shape (max_rank + 1,)
        ``y[r]`` for r = 0 to max_rank; ``y[0] = 0``, ``y[1] = 0`` and ``y[max_rank] = 1``. Singular values, not
        their squares, are summed. A layer with max_rank 1, or whose values after the first are all zero, has
        ``y[r] = 1`` from rank 1 on: one component carries all of it.

    Source: Eq. 1 and 2 of the paper.
    """
    length = min(len(s) for s in singular_values)
    if length < max_rank:
        raise ValueError(f"{length} singular values, but max_rank is {max_rank}")
    mean = np.mean([np.asarray(s, dtype=np.float64)[:max_rank] for s in singular_values], axis=0)
    total = np.cumsum(mean)
    span = total[-1] - total[0]
    energy = np.zeros(max_rank + 1)
    energy[1:] = (total - total[0]) / span if span > 0 else 1.0
    return energy
