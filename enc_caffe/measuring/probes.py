"""Directions of a network's scores along which gradients are taken, and what a change of the scores costs.

To second order the Kullback-Leibler divergence that a change of the scores makes is half of dz' F dz, F = diag(p) - p p', which
is half the mean, over labels y drawn from p, of (dz . grad log p(y))^2. With few classes the change of every score is wanted
itself: the columns of an orthonormal basis of what moves a softmax at all. With many, the leading eigenvectors of F, scaled by
the roots of their eigenvalues, and one random direction that has the expectation of all the rest, so that nothing is left out on
average. Outputs that are no class scores: random signs over the outputs, scaled to their mean squared error, of which each output's
part is that of its unit (:func:`enc_caffe.measuring.scores.squared_error`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
import scipy

from enc_caffe.measuring.scores import Units

#: Backward passes of an image: as many as there are independent directions where these are at most ``MOST``, else ``FEW``.
MOST, FEW = 12, 4


#: Changes of a score beyond which exp() would not do.
LARGE = 500.0


def number_of_probes(outputs: int, softmax: bool) -> int:
    """Directions for so many scores."""
    independent = outputs - 1 if softmax else outputs
    return max(1, independent) if independent <= MOST else FEW


@dataclass(frozen=True)
class Probes:
    """Directions of the scores of some images.

    Attributes
    ----------
    directions : ndarray, shape (n, m, K)
        What the diff of the scores is set to.
    roots : ndarray, shape (n, m, m)
        R such that half of |R s|^2 is the divergence to second order, s being the m directional changes.
    """

    directions: np.ndarray
    roots: np.ndarray


def complement(outputs: int) -> np.ndarray:
    """Orthonormal rows (outputs - 1, outputs) whose sums are 0: what moves a softmax."""
    return np.ascontiguousarray(scipy.linalg.helmert(outputs))


def probes_of(scores: np.ndarray, softmax: bool, first: int, units: Units = ()) -> Probes:
    """Directions for scores (n, K) of images, ``first`` the position of the first one, which the random ones depend on; ``units`` are
    those of outputs that are no class scores."""
    n, outputs = scores.shape
    m = number_of_probes(outputs, softmax)
    if not softmax:
        scale = np.sqrt(2.0 / outputs)
        if m == outputs:
            directions = np.broadcast_to(np.eye(outputs), (n, outputs, outputs))
        else:
            directions = np.stack([_signs(first + i, m, outputs) for i in range(n)])
            scale /= np.sqrt(m)
        return Probes(directions * unit_roots(outputs, units), np.broadcast_to(scale * np.eye(m), (n, m, m)))
    p = softmax_of(scores)
    if outputs == 1:
        return Probes(np.zeros((n, 1, 1)), np.zeros((n, 1, 1)))
    if m == outputs - 1:
        basis = complement(outputs)
        return Probes(np.broadcast_to(basis, (n, m, outputs)).copy(), np.stack([_root(basis, q) for q in p]))
    rows = [_leading(q, m, np.random.default_rng([17, first + i])) for i, q in enumerate(p)]
    return Probes(np.stack(rows), np.broadcast_to(np.eye(m), (n, m, m)))


def unit_roots(outputs: int, units: Units) -> np.ndarray:
    """Roots of what a squared change of each value counts, of the mean squared error over units times the number of values."""
    if not units:
        return np.ones(outputs)
    return np.sqrt(np.concatenate([np.full(size, outputs / (size * unit * len(units))) for size, unit in units]))


def softmax_of(scores: np.ndarray) -> np.ndarray:
    """Softmax along the last axis, float64."""
    shifted = np.exp(np.asarray(scores, np.float64) - scores.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def _signs(image: int, number: int, outputs: int) -> np.ndarray:
    return np.random.default_rng([17, image]).choice([-1.0, 1.0], (number, outputs))


def _root(basis: np.ndarray, p: np.ndarray) -> np.ndarray:
    """R with R' R = B F B'."""
    moved = basis * np.sqrt(p) - np.outer(basis @ p, np.sqrt(p))
    values, vectors = scipy.linalg.eigh(moved @ moved.T)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def _leading(p: np.ndarray, number: int, rng: np.random.Generator) -> np.ndarray:
    """Rows whose outer products have F as their sum's expectation: eigenvectors, and one random row of what they leave."""
    # F = L L' with the columns of L sqrt(p_k) (e_k - p); classes that hardly occur are left to the random row.
    root = np.sqrt(p)
    likely = np.argsort(-p, kind="stable")[: min(len(p), 64)]
    inner = np.diag(p[likely]) - np.outer(p[likely], p[likely])
    _, vectors = scipy.linalg.eigh(inner)
    rows = np.zeros((number, len(p)))
    chosen = np.zeros((number - 1, len(p)))
    chosen[:, likely] = vectors[:, ::-1][:, : number - 1].T
    # L' u, orthonormalised: the part of L's columns that these directions take.
    taken = (chosen * root) - np.outer(chosen @ p, root)
    q = scipy.linalg.qr(taken.T, mode="economic")[0].T
    rows[:-1] = _spread(q, p, root)
    z = rng.choice([-1.0, 1.0], len(p))
    rows[-1] = _spread((z - q.T @ (q @ z))[None], p, root)[0]
    return rows


def _spread(q: np.ndarray, p: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Rows L q for rows q: sum_k q_k sqrt(p_k) (e_k - p)."""
    scaled = q * root
    return np.asarray(scaled - np.outer(scaled.sum(axis=1), p))


def predicted(changes: np.ndarray, roots: np.ndarray, scores: Optional[np.ndarray] = None) -> float:
    """Mean over the images of :func:`predicted_each`."""
    return float(np.mean(predicted_each(changes, roots, scores)))


def predicted_each(changes: np.ndarray, roots: np.ndarray, scores: Optional[np.ndarray] = None) -> np.ndarray:
    """Divergence of each image that directional changes (n, m) make: to second order, or with ``scores`` (n, m + 1) of the softmax
    itself."""
    if scores is None:
        moved = np.einsum("nab,nb->na", roots, changes)
        return np.asarray(0.5 * np.sum(moved**2, axis=1))
    shift = changes @ complement(scores.shape[1])
    p = softmax_of(scores)
    # log sum p exp(shift) less sum p shift, in a form that does not cancel.
    apart = shift - np.sum(p * shift, axis=1, keepdims=True)
    found = np.log1p(np.sum(p * np.expm1(np.minimum(apart, LARGE)), axis=1))
    far = apart.max(axis=1) > LARGE
    if far.any():
        # Where a softmax is certain and the change moves a thousandfold, its parts are beyond float64; their logarithms are not.
        logs = np.asarray(scores[far], np.float64) - scores[far].max(axis=1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        found[far] = np.logaddexp.reduce(logs + apart[far], axis=1)
    return np.asarray(found)
