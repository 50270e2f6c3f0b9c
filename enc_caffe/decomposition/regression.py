"""Factors that change a layer's OUTPUT least on real inputs, instead of its weights.

With x the inputs that one output position sees (a column of :mod:`patches`) and y what the original layer makes of them,
the stages are chosen to minimise E |y - W' x|^2 over all W' of the form. Only second moments are needed:
C = E[x x'] and G = E[x y'], primes on vectors and moments being transposes. When x are the original's own inputs, G is C
times the original's weights; when they come from an already compressed network while y stays the original's, the error
of the layers before is made up for (the asymmetric reconstruction of [16], Zhang et al., "Accelerating very deep
convolutional networks", section 3.4).

* channel and inner product: reduced-rank regression, in closed form. With M = C^-1 G the best W' is V V' M', V the
  leading eigenvectors of M' C M, which is the principal component analysis of the outputs.
* kernels that are split: no closed form (:mod:`separable`, :mod:`tucker2`).

A small multiple of the identity is added to C, and of the original weights to G: directions that the inputs never take
(dead channels, fewer images than dimensions) are then decomposed as plain SVD would, and full rank stays exact. Where C comes from
few columns, it says more of these than of others: the multiple is then as large as chance makes its eigenvalues differ (Chen,
Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", IEEE Trans. Signal Processing 58, 2010, Eq. 23).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Optional, Sequence

import numpy as np
import scipy

from enc_caffe.network import Layer

#: Added to the second moments, as a part of their mean diagonal.
RIDGE = 1e-4
#: Columns for each dimension below which the second moments are taken to be of few columns.
FEW = 20
#: Rounds of an alternation, and steps of conjugate gradients in each; more rounds change the error by a few percent.
ROUNDS, STEPS = 4, 10


@dataclass(frozen=True)
class Moments:
    """Second moments of one group's inputs x (d,) and wanted outputs y (O/g,), float64, and their means.

    Attributes
    ----------
    inputs : ndarray, shape (d, d), E[x x']
    targets : ndarray, shape (d, O/g), E[x y']
    columns : int
        How many x they are means of; 0 where there is no end of them.
    """

    inputs: np.ndarray
    targets: np.ndarray
    columns: int = 0

    @classmethod
    def of_original(cls, inputs: np.ndarray, weights: np.ndarray, columns: int = 0) -> Moments:
        """Where the outputs wanted are those of ``weights`` (O/g, d) on these very inputs."""
        return cls(inputs, inputs @ weights.T, columns)

    @cached_property
    def best(self) -> np.ndarray:
        """The weights (d, O/g) that least squares without a limit of rank would take."""
        return solve(self.inputs, self.targets)

    @cached_property
    def components(self) -> np.ndarray:
        """Principal components (O/g, O/g) of the outputs that :attr:`best` gives, the strongest first, one a column."""
        return scipy.linalg.eigh(self.targets.T @ self.best)[1][:, ::-1]


def output_error(inputs: np.ndarray, weights: np.ndarray, other: np.ndarray) -> float:
    """E |(W - W') x|^2 over E |W x|^2 for W, W' of shape (O/g, d) and E[x x'] of shape (d, d); 0 for dead inputs."""
    power = output_power(inputs, weights)
    return output_power(inputs, weights - other) / power if power > 0 else 0.0


def output_power(inputs: Optional[np.ndarray], weights: np.ndarray) -> float:
    """E |W x|^2 for W of shape (O/g, d); of the weights themselves where nothing is known of the inputs."""
    return float(np.sum((weights if inputs is None else weights @ inputs) * weights))


def group_weights(layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
    """Every group's weights as (O/g, d), float64, d in the order of :func:`enc_caffe.decomposition.patches.patches`."""
    flat = np.asarray(weights, np.float64)
    if layer.inner_product is not None:
        transposed = layer.inner_product.transposed
        return [flat.reshape(layer.in_channels, -1).T if transposed else flat.reshape(layer.out_channels, -1)]
    return list(flat.reshape(layer.groups, layer.out_channels // layer.groups, -1))


def regular(layer: Layer, weights: np.ndarray, moments: Sequence[Moments]) -> list[Moments]:
    """Every group's moments with a small multiple of the identity added to the inputs, and of its weights to the targets.

    What solving for several forms of a layer has in common is kept in these.
    """
    return [_regular(m, w) for m, w in zip(moments, group_weights(layer, weights))]


def _regular(moments: Moments, weights: np.ndarray) -> Moments:
    d = len(moments.inputs)
    # No input ever differed from zero: any weight is as large as nothing, and plain SVD is left.
    part = max(RIDGE, shrinkage(moments.inputs, moments.columns))
    ridge = part * float(np.trace(moments.inputs)) / d or 1.0
    return Moments(moments.inputs + ridge * np.eye(d), moments.targets + ridge * weights.T, moments.columns)


def shrinkage(inputs: np.ndarray, columns: int) -> float:
    """Multiple of the mean diagonal to add to second moments (d, d) that are means of few columns; 0 for many.

    That of the identity over that of the second moments in the estimate of least expected error, for normally distributed columns.
    """
    d, trace = len(inputs), float(np.trace(inputs))
    if d < 2 or not 0 < columns < FEW * d or trace <= 0:
        return 0.0
    square = float(np.sum(inputs**2))
    spread = square - trace**2 / d
    # All eigenvalues are equal: the identity is what they say.
    if spread <= 1e-12 * square:
        return 1.0
    part = ((1 - 2 / d) * square + trace**2) / ((columns + 1 - 2 / d) * spread)
    return part / (1 - part) if part < 0.5 else 1.0


def reduced_rank(moments: Moments, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors (O, rank) and (rank, d) of the W' of this rank with the least E |y - W' x|^2, in closed form."""
    left = moments.components[:, :rank]
    return left, left.T @ moments.best.T


def solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """X of ``matrix X = right`` for a symmetric matrix that should be positive definite."""
    try:
        return np.asarray(scipy.linalg.cho_solve(scipy.linalg.cho_factor(matrix), right))
    except scipy.linalg.LinAlgError:
        # Rounding made it indefinite: the least-norm solution, without the directions that are but rounding.
        values, vectors = scipy.linalg.eigh(matrix, driver="evd")
        kept = np.abs(values) > len(values) * np.finfo(np.float64).eps * np.abs(values).max(initial=0.0)
        return np.asarray(vectors[:, kept] @ (vectors[:, kept].T @ right / values[kept, None]))
