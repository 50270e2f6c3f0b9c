"""Least error of the outputs for kernels that are split along one axis: strips of the window first, then across them.

Neighbouring strips share the first half, so that the error couples both halves, and there is no closed form. It begins at
the better of plain SVD and the SVD whitened by the second moment of the strips, and alternates: the second half by
least squares, the first by conjugate gradients on its normal equations. It ends near a local optimum, which need not be
the best one. The words below are those of the vertical half first.
"""

from __future__ import annotations

import numpy as np
import scipy

from enc_caffe.decomposition.regression import ROUNDS, STEPS, Moments, solve

Pair = tuple[np.ndarray, np.ndarray]


def separable_pair(matrix: np.ndarray, moments: Moments, columns: int, rank: int) -> Pair:
    """Factors (strip, rank) and (rank, columns x O) with the least error of the outputs, or nearly.

    Parameters
    ----------
    matrix : ndarray, shape (strip, columns x O)
        The weights: rows are the inputs of one strip of the window, columns run over (strip's place, output).
    moments : Moments
        Their inputs in the order (input channel, place along the strip, place of the strip).
    columns : int
        Strips of one window.
    rank : int
    """
    inputs, targets = by_place(moments, columns)
    start, right, mean = whitened_start(moments, inputs, rank)
    if rank >= min(matrix.shape):
        return start, right
    directions = leading_rows(matrix, rank)
    plain = matrix @ directions.T, directions
    left = min((start, right), plain, key=lambda pair: quadratic(pair, inputs, targets))[0]
    pair, inverse = (left, right), solve(mean, np.eye(len(mean)))
    for at in range(ROUNDS):
        left = scipy.linalg.qr(left, mode="economic")[0]
        right = second_half(left, inputs, targets)
        pair = (left, right.transpose(1, 0, 2).reshape(rank, -1))
        if at < ROUNDS - 1:
            left = first_half(pair, inverse, inputs, targets)
    return pair


def work(strip: int, columns: int, outputs: int, rank: int) -> float:
    """Floating-point operations of :func:`separable_pair`, nearly; the rounds count, and both starts."""
    each = 2.0 * (STEPS + 2) * columns**2 * strip**2 * rank + 2.0 * (columns * rank) ** 2 * (columns * rank + outputs)
    start = (columns * strip) ** 2 * (columns * strip / 3 + 2 * outputs)
    return ROUNDS * each + start + 20.0 * strip * columns * outputs * min(strip, columns * outputs)


def by_place(moments: Moments, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Moments by the strips' places: inputs[b, c] = E[s_b s_c'] (strip, strip), targets[b] = E[s_b y'] (strip, O)."""
    strip = len(moments.inputs) // columns
    inputs = moments.inputs.reshape(strip, columns, strip, columns).transpose(1, 3, 0, 2)
    targets = moments.targets.reshape(strip, columns, -1).transpose(1, 0, 2)
    return np.ascontiguousarray(inputs), np.ascontiguousarray(targets)


def whitened_start(moments: Moments, inputs: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both halves by the SVD that the strips' own second moment whitens, and that moment."""
    columns, strip = len(inputs), inputs.shape[2]
    whole = moments.best.reshape(strip, -1)
    mean = inputs[np.arange(columns), np.arange(columns)].mean(axis=0)
    values, vectors = scipy.linalg.eigh(mean)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    right = leading_rows(root @ whole, rank)
    return whole @ right.T, right, mean


def leading_rows(matrix: np.ndarray, rank: int) -> np.ndarray:
    """The first right singular vectors (rank, n) of a matrix (m, n), or of all ranks a basis of its rows.

    By the smaller Gram matrix, several times as fast as the SVD. It halves the digits of small singular values; of the first vectors an
    alternation only begins with what they span.
    """
    rows, columns = matrix.shape
    if columns <= rows:
        return np.asarray(scipy.linalg.eigh(matrix.T @ matrix, driver="evd")[1][:, ::-1][:, :rank].T)
    left = scipy.linalg.eigh(matrix @ matrix.T, driver="evd")[1][:, ::-1][:, :rank]
    return np.asarray(scipy.linalg.qr(matrix.T @ left, mode="economic")[0].T)


def second_half(left: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The horizontal half (Dw, rank, O) that is best with this vertical half (strip, rank)."""
    dw, rank = len(inputs), left.shape[1]
    gram = (left.T @ inputs @ left).transpose(0, 2, 1, 3).reshape(dw * rank, dw * rank)
    return solve(gram, (left.T @ targets).reshape(dw * rank, -1)).reshape(dw, rank, -1)


def first_half(pair: Pair, inverse: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A better vertical half for this horizontal half, by conjugate gradients that ``inverse`` preconditions."""
    dw, rank = len(inputs), pair[0].shape[1]
    strip = len(inverse)
    # Orthonormal rows of the horizontal half, so that the strips' own second moment is a good preconditioner.
    rows, rest = scipy.linalg.qr(pair[1].T, mode="economic")
    left, right = pair[0] @ rest.T, rows.T.reshape(rank, dw, -1).transpose(1, 0, 2)
    # sum over b, c of C_bc X (R_b R_c')' as two products: all (R_b R_c')' side by side, all C_bc of one b side by side.
    coupling = np.einsum("bpo,cqo->qbcp", right, right, optimize=True).reshape(rank, dw * dw * rank)
    wide = inputs.transpose(0, 2, 1, 3).reshape(dw, strip, dw * strip)

    def apply(x: np.ndarray) -> np.ndarray:
        spread = (x @ coupling).reshape(strip, dw, dw, rank).transpose(1, 2, 0, 3).reshape(dw, dw * strip, rank)
        return np.asarray(sum(w @ y for w, y in zip(wide, spread)))

    goal = np.asarray(sum(t @ r.T for t, r in zip(targets, right)))
    residual = goal - apply(left)
    step = direction = inverse @ residual
    size, enough = float(np.sum(residual * step)), 1e-6 * float(np.linalg.norm(goal))
    for _ in range(STEPS):
        if np.linalg.norm(residual) <= enough or size <= 0.0:
            break
        image = apply(direction)
        length = size / float(np.sum(direction * image))
        left, residual = left + length * direction, residual - length * image
        step = inverse @ residual
        before, size = size, float(np.sum(residual * step))
        direction = step + size / before * direction
    return left


def quadratic(pair: Pair, inputs: np.ndarray, targets: np.ndarray) -> float:
    """E |y - W' x|^2 less what does not depend on W'."""
    dw, rank = len(inputs), pair[0].shape[1]
    right = pair[1].reshape(rank, dw, -1).transpose(1, 0, 2)
    product = pair[0] @ right
    through = np.asarray(sum(inputs[:, c] @ product[c] for c in range(dw)))
    return float(np.sum(product * through) - 2 * np.sum(product * targets))
