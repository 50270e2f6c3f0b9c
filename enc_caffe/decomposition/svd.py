"""Truncated singular value decomposition with the singular values split evenly between both factors."""

from __future__ import annotations

from typing import Iterator

import numpy as np
import scipy

#: Single-precision matrices of so many elements (AlexNet's fc6 and fc7, VGG-16's) go through their smaller Gram matrix.
LARGE = 1 << 23
#: Columns of a large matrix that are in double precision at a time: 128 MiB of 4,096 rows.
CHUNK = 4096


def decompose(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """U (m, k), the k singular values, V' (k, n) with k = min(m, n), in the precision of the matrix (m, n).

    Notes
    -----
    The eigenvectors of the smaller Gram matrix are several times faster to compute and halve the digits. In double precision these are still those
    of a matrix in single precision, so large ones of that are computed in this way. A singular value that is 0 then has a row of zeros in V'.
    """
    if not _is_large(matrix):
        return scipy.linalg.svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesdd")  # type: ignore[no-any-return]
    if matrix.shape[0] > matrix.shape[1]:
        left, s, right = decompose(matrix.T)
        return right.T, s, left.T
    u = scipy.linalg.eigh(_gram(matrix), driver="evd", overwrite_a=True, check_finite=False)[1][:, ::-1]
    vt = np.empty_like(matrix, shape=(u.shape[1], matrix.shape[1]))
    squares = np.zeros(len(vt))
    for part, columns in _columns(matrix):
        projected = u.T @ part
        squares += np.einsum("ij,ij->i", projected, projected)
        vt[:, columns] = projected
    s = np.sqrt(squares).astype(matrix.dtype)
    vt /= np.where(s > 0, s, 1)[:, None]
    return u.astype(matrix.dtype), s, vt


def split_evenly(u: np.ndarray, s: np.ndarray, vt: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """U sqrt(S) and sqrt(S) V' of the first ``rank`` singular values: the best factors of that rank (Eckart and Young 1936).

    The even split follows the published networks.
    """
    root = np.sqrt(s[:rank])
    return u[:, :rank] * root, root[:, None] * vt[:rank]


def group_spectra(matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Singular values of every group's matrix, largest first, in float64 of the given precision."""
    return [_singular_values(m) for m in matrices]


def _singular_values(matrix: np.ndarray) -> np.ndarray:
    if not _is_large(matrix):
        return scipy.linalg.svdvals(np.asarray(matrix, dtype=np.float64), check_finite=False)  # type: ignore[no-any-return]
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    squares = scipy.linalg.eigh(_gram(wide), eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)[
        ::-1
    ]
    return np.sqrt(np.maximum(squares, 0))  # type: ignore[no-any-return]


def _is_large(matrix: np.ndarray) -> bool:
    return matrix.dtype == np.float32 and matrix.size >= LARGE


def _gram(wide: np.ndarray) -> np.ndarray:
    """The rows' products with each other, in float64."""
    gram = np.zeros((len(wide), len(wide)))
    for part, _ in _columns(wide):
        gram += part @ part.T
    return gram


def _columns(wide: np.ndarray) -> Iterator[tuple[np.ndarray, slice]]:
    """Runs of columns in float64, and which they are."""
    for start in range(0, wide.shape[1], CHUNK):
        columns = slice(start, start + CHUNK)
        yield wide[:, columns].astype(np.float64), columns
