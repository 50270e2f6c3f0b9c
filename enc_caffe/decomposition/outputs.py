"""Factors that know which outputs matter: least error of the outputs weighted by a matrix G on their side.

With A = E[x x'] of the inputs and G the second moments of what changes of the outputs cost, the stages minimise
tr(G (W - W') A (W - W')'), where plain regression has G = 1. With R' R = G it is the plain error of R y. The last stage of every chain is
a free linear map to the outputs, so that R W' has the very form that W' has: the scheme's own solver finds it for the targets R y,
and its last stage is multiplied by R^-1. Channel and fully connected layers so get the singular vectors of R W A^1/2, in closed form.

G is singular where outputs are dead, or where the scores feel fewer directions than there are outputs: a part of its mean diagonal is
added, and directions that do not matter are decomposed by their power.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import scipy

from enc_caffe.decomposition.regression import Moments, group_weights
from enc_caffe.decomposition.scheme import Factors, Scheme
from enc_caffe.form import Form
from enc_caffe.network import Layer

#: Added to G, as a part of its mean diagonal.
OUTPUT_RIDGE = 1e-1

#: R and its inverse, of one group.
Root = tuple[np.ndarray, np.ndarray]


def output_roots(moments: np.ndarray) -> list[Root]:
    """Symmetric roots of every group's G (g, O/g, O/g), made regular, and their inverses; of a G of 0 the identity."""
    found = []
    for g in np.asarray(moments, np.float64):
        mean = float(np.trace(g)) / len(g)
        if not mean > 0.0:
            found.append((np.eye(len(g)), np.eye(len(g))))
            continue
        values, vectors = scipy.linalg.eigh(g / mean)
        roots = np.sqrt(np.maximum(values, 0.0) + OUTPUT_RIDGE)
        found.append(((vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T))
    return found


def turned(moments: Sequence[Moments], roots: Sequence[Root]) -> list[Moments]:
    """Every group's moments with the targets R y."""
    found = []
    for own, (root, _) in zip(moments, roots):
        new = Moments(own.inputs, own.targets @ root)
        new.__dict__["best"] = own.best @ root
        found.append(new)
    return found


def solve_turned(
    scheme: Scheme, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], roots: Sequence[Root], form: Form
) -> Factors:  # fmt: skip
    """Factors of least weighted error, from moments of :func:`turned`.

    Parameters
    ----------
    weights : ndarray, Caffe's blob of the layer
    moments : sequence of Moments, one for each group
    roots : sequence of Root
        Those that ``moments`` were turned by.
    """
    flat = [root @ w for w, (root, _) in zip(group_weights(layer, weights), roots)]
    transposed = layer.inner_product is not None and layer.inner_product.transposed
    whole = (flat[0].T if transposed else np.concatenate(flat)).reshape(np.shape(weights))
    factors = scheme.solve_regular(layer, whole, moments, form)
    last = np.asarray(factors[-1], np.float64)
    parts = last.reshape(layer.groups, layer.out_channels // layer.groups, -1)
    back = np.concatenate([inverse @ part for part, (_, inverse) in zip(parts, roots)])
    return [*factors[:-1], np.ascontiguousarray(back.reshape(last.shape), dtype=np.float32)]


def weighted_error(inputs: np.ndarray, root: np.ndarray, weights: np.ndarray, other: np.ndarray) -> float:
    """tr(G (W - W') A (W - W')') of one group, G = R' R, for W, W' of shape (O/g, d)."""
    change = root @ (weights - other)
    return float(np.sum((change @ inputs) * change))
