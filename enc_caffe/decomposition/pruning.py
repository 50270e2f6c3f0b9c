"""Channels taken out of what a layer reads: which ones, by second moments, and the weights of those that stay by least squares.

With x the inputs that one output sees, in blocks of one channel each, A = E[x x'] and G = E[x y'], three rules choose the channels:

* ``least_error``: backward elimination. The channel goes whose absence adds least to E |y - W x|^2 after all other weights were solved for
  again; dead channels add nothing and go first.
* ``lasso``: one factor for every channel's part z_c = W_c x_c of the response, and a penalty on their absolute values that is raised until no
  more than the number asked for are left (He, Zhang, Sun, ICCV 2017, Eq. 2). Only the Gram matrix of the z_c is needed.
* ``magnitude``: the least sum of absolute weights goes first (AMC's rule; He et al., ECCV 2018).
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from enc_caffe.decomposition.regression import Moments, solve

#: Sweeps of coordinate descent at one penalty, penalties of a path, each a part of the one before, and steps of a bisection between two.
SWEEPS, PENALTIES, FALL, HALVINGS = 100, 60, 0.85, 12
#: Change of the largest factor at which a descent has arrived.
ARRIVED = 1e-6

#: Penalty and the factors that it leaves.
Point = tuple[float, np.ndarray]


def magnitude_order(weights: np.ndarray, channels: int) -> np.ndarray:
    """Channels of weights (O, d), the largest sum of absolute values first; of equals the earlier one."""
    sums = np.abs(np.asarray(weights, np.float64)).reshape(len(weights), channels, -1).sum(axis=(0, 2))
    return np.argsort(-sums, kind="stable")


def elimination_order(moments: Moments, channels: int) -> np.ndarray:
    """Channels, the one that backward elimination would keep to the last first."""
    inverse = solve(moments.inputs, np.eye(len(moments.inputs)))
    weights = np.asarray(moments.best, np.float64).copy()
    size = len(inverse) // channels
    left, gone = list(range(channels)), []
    while len(left) > 1:
        blocks = np.arange(len(left) * size).reshape(len(left), size)
        own = inverse[blocks[:, :, None], blocks[:, None, :]]
        parts = weights.reshape(len(left), size, -1)
        # What the error grows by: B' (P_cc)^-1 B, traced.
        half = np.linalg.solve(own, parts)
        at = int(np.argmin(np.einsum("cso,cso->c", parts, half)))
        block = blocks[at]
        column = inverse[:, block]
        weights = weights - column @ half[at]
        inverse = inverse - column @ np.linalg.solve(own[at], column.T)
        kept = np.delete(np.arange(len(inverse)), block)
        weights, inverse = weights[kept], inverse[np.ix_(kept, kept)]
        gone.append(left.pop(at))
    return np.array([*left, *gone[::-1]])


def responses(moments: Moments, weights: np.ndarray, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """E[z_c . z_k] (channels, channels) and E[y . z_c] (channels,) of the parts z_c = W_c x_c of the response; W is (O, d)."""
    w = np.asarray(weights, np.float64)
    size = w.shape[1] // channels
    gram = (moments.inputs * (w.T @ w)).reshape(channels, size, channels, size).sum(axis=(1, 3))
    along = (moments.targets * w.T).reshape(channels, -1).sum(axis=1)
    return gram, along


def lasso(gram: np.ndarray, along: np.ndarray, penalty: float, start: np.ndarray) -> np.ndarray:
    """Factors b of least b' Q b / 2 - b' q + penalty |b|_1 by coordinate descent."""
    diagonal = np.diag(gram)
    alive = np.flatnonzero(diagonal > 1e-12 * max(float(diagonal.max()), 1e-300))
    factors = np.zeros(len(along))
    factors[alive] = start[alive]
    product = gram @ factors
    # Sweeps over those that are not 0 until they rest, then one over all.
    every, rows = alive.tolist(), alive.tolist()
    for _ in range(SWEEPS):
        most = 0.0
        for c in rows:
            old = factors[c]
            pull = along[c] - product[c] + diagonal[c] * old
            new = (pull - penalty if pull > penalty else pull + penalty if pull < -penalty else 0.0) / diagonal[c]
            if new != old:
                product += gram[c] * (new - old)
                factors[c] = new
                most = max(most, abs(new - old))
        if most >= ARRIVED:
            rows = np.flatnonzero(factors).tolist()
        elif rows is every or len(rows) == len(every):
            break
        else:
            rows = every
    return factors


def lasso_path(gram: np.ndarray, along: np.ndarray) -> list[Point]:
    """Factors at falling penalties, from the one that leaves nothing."""
    penalty, factors = float(np.abs(along).max()), np.zeros(len(along))
    path = [(penalty, factors)]
    for _ in range(PENALTIES):
        penalty *= FALL
        factors = lasso(gram, along, penalty, factors)
        path.append((penalty, factors))
    return path


def lasso_choice(gram: np.ndarray, along: np.ndarray, number: int, path: Sequence[Point] = ()) -> np.ndarray:
    """Exactly ``number`` channels, in their order: those that are left at the largest penalty that leaves so many.

    Where a penalty that leaves just so many is not to be found, the weakest of those at the penalty after it go, and where fewer than
    the number have any response, the earliest others fill it up.

    Parameters
    ----------
    path : sequence of Point
        Of :func:`lasso_path`, where it is known.
    """
    path = path or lasso_path(gram, along)
    at = next((i for i, (_, f) in enumerate(path) if np.count_nonzero(f) >= number), len(path) - 1)
    low, factors = path[at]
    high = path[max(0, at - 1)][0]
    for _ in range(HALVINGS):
        if np.count_nonzero(factors) <= number:
            break
        middle = 0.5 * (low + high)
        tried = lasso(gram, along, middle, factors)
        if np.count_nonzero(tried) >= number:
            low, factors = middle, tried
        else:
            high = middle
    strength = np.abs(factors) * np.sqrt(np.maximum(np.diag(gram), 0.0))
    return np.sort(np.argsort(-strength, kind="stable")[:number])


def refitted(moments: Moments, kept: np.ndarray) -> tuple[np.ndarray, Moments]:
    """Weights (O, kept) of least error that read these inputs alone, and their moments."""
    own = Moments(moments.inputs[np.ix_(kept, kept)], moments.targets[kept], moments.columns)
    return own.best.T, own


def columns_of(channels: np.ndarray, size: int) -> np.ndarray:
    """Places of the channels' inputs, ``size`` of each."""
    return np.asarray((channels[:, None] * size + np.arange(size)).reshape(-1))
