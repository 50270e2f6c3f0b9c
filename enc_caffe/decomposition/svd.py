"""Truncated singular value decomposition with the singular values split evenly between both factors."""

from __future__ import annotations

import numpy as np
import scipy


def truncated_factors(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Best rank-``rank`` factors of a matrix.

    Parameters
    ----------
    matrix : ndarray, shape (m, n)
    rank : int, 1 to min(m, n)

    Returns
    -------
    left : ndarray, shape (m, rank), U sqrt(S)
    right : ndarray, shape (rank, n), sqrt(S) V'

    Raises
    ------
    ValueError
        If the rank is outside 1 to min(m, n).

    Notes
    -----
    Computed through the eigenvectors of the smaller Gram matrix would be faster but halves the digits; the SVD
    itself is kept, in the precision of the input. Source: Eckart and Young (1936); the even split follows the
    published networks.
    """
    if not 1 <= rank <= min(matrix.shape):
        raise ValueError(f"rank {rank} is outside 1 to {min(matrix.shape)} of a {matrix.shape} matrix")
    return split_evenly(*decompose(matrix), rank)


def decompose(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (m, k), the k singular values, V' (k, n) with k = min(m, n), in the precision of the matrix (m, n)."""
    return scipy.linalg.svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesdd")  # type: ignore[no-any-return]


def split_evenly(u: np.ndarray, s: np.ndarray, vt: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """U sqrt(S) and sqrt(S) V' of the first ``rank`` singular values."""
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def group_spectra(matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Singular values of every group's matrix, largest first, in float64 of the given precision."""
    return [scipy.linalg.svdvals(np.asarray(m, dtype=np.float64), check_finite=False) for m in matrices]
