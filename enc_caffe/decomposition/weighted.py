"""Factors that change a layer's OUTPUT least on real inputs, instead of its weights.

With x the inputs that one output position sees (a column of :mod:`patches`) and y what the original layer makes of them,
both halves of the pair are chosen to minimise E |y - W' x|^2 over all W' of the rank. Only second moments are needed:
C = E[x x'] and G = E[x y'], primes on vectors and moments being transposes. When x are the original's own inputs, G is C
times the original's weights; when they come from an already compressed
network while y stays the original's, the error of the layers before is made up for (the asymmetric reconstruction of
[16], Zhang et al., "Accelerating very deep convolutional networks", section 3.4).

* channel and inner product: reduced-rank regression, in closed form. With M = C^-1 G the best W' is V V' M', V the
  leading eigenvectors of M' C M, which is the principal component analysis of the outputs.
* spatial: neighbouring columns share the vertical half, so that the error couples both sides, and there is no closed
  form. It begins at the better of plain SVD and the SVD whitened by the second moment of the vertical strips, and
  alternates: the horizontal half by least squares, the vertical half by conjugate gradients on its normal equations. It
  ends near a local optimum, which need not be the best one.

A small multiple of the identity is added to C, and of the original weights to G: directions that the inputs never take
(dead channels, fewer images than dimensions) are then decomposed as plain SVD would, and full rank stays exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import scipy.linalg

from enc_caffe.decomposition.schemes import Scheme
from enc_caffe.decomposition.svd import truncated_factors
from enc_caffe.network import Layer

Pair = tuple[np.ndarray, np.ndarray]

#: Added to the second moments, as a part of their mean diagonal.
RIDGE = 1e-4
#: Rounds of the alternation, and steps of conjugate gradients in each; more rounds change the error by a few percent.
ROUNDS, STEPS = 4, 10


@dataclass(frozen=True)
class Moments:
    """Second moments of one group's inputs x (d,) and wanted outputs y (O/g,), float64, and their means.

    Attributes
    ----------
    inputs : ndarray, shape (d, d), E[x x']
    targets : ndarray, shape (d, O/g), E[x y']
    """

    inputs: np.ndarray
    targets: np.ndarray

    @classmethod
    def of_original(cls, inputs: np.ndarray, weights: np.ndarray) -> Moments:
        """Where the outputs wanted are those of ``weights`` (O/g, d) on these very inputs."""
        return cls(inputs, inputs @ weights.T)


def output_error(inputs: np.ndarray, weights: np.ndarray, other: np.ndarray) -> float:
    """E |(W - W') x|^2 over E |W x|^2 for W, W' of shape (O/g, d) and E[x x'] of shape (d, d); 0 for dead inputs."""
    change = weights - other
    power = float(np.sum((weights @ inputs) * weights))
    return float(np.sum((change @ inputs) * change)) / power if power > 0 else 0.0


def weighted_pairs(
    scheme: Scheme, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], rank: int
) -> list[Pair]:
    """Factors of every group's matrix for this very rank, in the layout of :meth:`Scheme.pairs`.

    Parameters
    ----------
    weights : ndarray
        Caffe's blob of the layer, or the same in float64.
    moments : sequence of Moments, one for each group
    rank : int
        Rank of one group. Factors of a smaller rank are not the first of these.
    """
    matrices = scheme.matrices(layer, np.asarray(weights, np.float64))
    flat = group_weights(scheme, layer, weights)
    solve = _spatial if scheme.name == "spatial" else _one_sided
    return [solve(layer, m, _regular(k, w), rank) for m, w, k in zip(matrices, flat, moments)]


def group_weights(scheme: Scheme, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
    """Every group's weights as (O/g, d), float64, d in the order of :func:`enc_caffe.decomposition.patches.patches`."""
    if layer.convolution is None:
        return scheme.matrices(layer, np.asarray(weights, np.float64))
    return list(np.asarray(weights, np.float64).reshape(layer.groups, layer.out_channels // layer.groups, -1))


def _regular(moments: Moments, weights: np.ndarray) -> Moments:
    d = len(moments.inputs)
    # No input ever differed from zero: any weight is as large as nothing, and plain SVD is left.
    ridge = RIDGE * float(np.trace(moments.inputs)) / d or 1.0
    return Moments(moments.inputs + ridge * np.eye(d), moments.targets + ridge * weights.T)


def _one_sided(layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
    best = _solve(moments.inputs, moments.targets)  # (d, O): what least squares without a limit of rank would take
    _, vectors = scipy.linalg.eigh(moments.targets.T @ best)
    left = vectors[:, ::-1][:, :rank]
    return left, left.T @ best.T


def _spatial(layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
    dh, dw = layer.kernel
    strip, outputs = len(moments.inputs) // dw, matrix.shape[1] // dw
    # Blocks by column of the kernel: inputs[b, c] = E[s_b s_c'] for vertical strips s, targets[b] = E[s_b y'].
    inputs = np.ascontiguousarray(moments.inputs.reshape(strip, dw, strip, dw).transpose(1, 3, 0, 2))
    targets = np.ascontiguousarray(moments.targets.reshape(strip, dw, outputs).transpose(1, 0, 2))
    whole = _solve(moments.inputs, moments.targets).reshape(strip, dw * outputs)
    mean = inputs[np.arange(dw), np.arange(dw)].mean(axis=0)
    values, vectors = scipy.linalg.eigh(mean)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    right = scipy.linalg.svd(root @ whole, full_matrices=False)[2][:rank]
    start = whole @ right.T
    if rank >= min(matrix.shape):
        return start, right
    plain = truncated_factors(matrix, rank)
    left = min((start, right), plain, key=lambda pair: _quadratic(pair, inputs, targets))[0]
    pair, inverse = (left, right), _solve(mean, np.eye(strip))
    for at in range(ROUNDS):
        left = scipy.linalg.qr(left, mode="economic")[0]
        right = _horizontal(left, inputs, targets)
        pair = (left, right.transpose(1, 0, 2).reshape(rank, -1))
        if at < ROUNDS - 1:
            left = _vertical(pair, inverse, inputs, targets)
    return pair


def _horizontal(left: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The horizontal half (Dw, rank, O) that is best with this vertical half (strip, rank)."""
    dw, rank = len(inputs), left.shape[1]
    gram = (left.T @ inputs @ left).transpose(0, 2, 1, 3).reshape(dw * rank, dw * rank)
    return _solve(gram, (left.T @ targets).reshape(dw * rank, -1)).reshape(dw, rank, -1)


def _vertical(pair: Pair, inverse: np.ndarray, inputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """A better vertical half for this horizontal half, by conjugate gradients that ``inverse`` preconditions."""
    dw, rank = len(inputs), pair[0].shape[1]
    strip = len(inverse)
    # Orthonormal rows of the horizontal half, so that the strips' own second moment is a good preconditioner.
    u, s, vt = scipy.linalg.svd(pair[1], full_matrices=False)
    left, right = (pair[0] @ u) * s, vt.reshape(rank, dw, -1).transpose(1, 0, 2)
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


def _quadratic(pair: Pair, inputs: np.ndarray, targets: np.ndarray) -> float:
    """E |y - W' x|^2 less what does not depend on W'."""
    dw, rank = len(inputs), pair[0].shape[1]
    right = pair[1].reshape(rank, dw, -1).transpose(1, 0, 2)
    product = pair[0] @ right
    through = np.asarray(sum(inputs[:, c] @ product[c] for c in range(dw)))
    return float(np.sum(product * through) - 2 * np.sum(product * targets))


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    try:
        return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right))
    except scipy.linalg.LinAlgError:
        # Rounding made it indefinite: the least-norm solution.
        return np.asarray(scipy.linalg.lstsq(matrix, right)[0])
