"""Gradients of a network's scores with respect to single layers' weights, image by image, by Caffe's own backward pass.

A layer's weight gradient for one image is dY X', with dY the diff of its top and X the columns of its bottom: what Caffe's
convolution computes, before it adds up the images. A backward pass gives dY of all layers at once, so that a pass for each
direction of the scores serves every layer and form: the change of the scores along it, when the weights change by dW, is the sum
of the products of gradient and dW. What all positions of an image add up to is kept, signs and all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Mapping, Sequence

import numpy as np

from enc_caffe.decomposition.patches import patch_size, patches
from enc_caffe.errors import CaffeError
from enc_caffe.form import Form
from enc_caffe.measuring.factors import read_factors
from enc_caffe.measuring.passes import Engine
from enc_caffe.measuring.probes import Probes, probes_of
from enc_caffe.network import Layer
from enc_caffe.workers.executor import beat

#: Forms that are multiplied at once, whatever their number, so that what a form gives does not depend on the others.
WIDTH = 32
#: Bytes of columns that are unfolded at once.
COLUMNS = 64 * 2**20
#: Outputs of one group up to which their gradients' second moments are kept.
MOST_OUTPUTS = 2048


@dataclass(frozen=True)
class BatchGradients:
    """Diffs of the layers' tops for some images, n, along m directions.

    Attributes
    ----------
    probes : Probes
    scores : ndarray, shape (n, K)
    diffs : dict of layer to ndarray, shape (n, m, O, positions), float32
    """

    probes: Probes
    scores: np.ndarray
    diffs: Mapping[str, np.ndarray]


def backward(engine: Engine, data: np.ndarray, first: int, names: Sequence[str]) -> BatchGradients:
    """Run some images forward, and backward along every direction.

    Parameters
    ----------
    engine : Engine
        Of a network that :func:`enc_caffe.caffe_io.backward.backward_net` made.
    data : ndarray
        Images.
    first : int
        Position of the first of them.
    names : sequence of str
        Layers whose diffs are kept.

    Raises
    ------
    CaffeError
        If a score or a gradient is not finite.
    """
    scores, net = engine.run(data), engine.net
    if not np.isfinite(scores).all():
        raise CaffeError("the network's scores are not finite; do the images have the scale that it expects?")
    probes = probes_of(scores, engine.task.softmax, first, engine.task.units)
    start = net.blobs[engine.task.scores]
    diffs: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for at in range(probes.directions.shape[1]):
        start.diff[...] = probes.directions[:, at].reshape(start.diff.shape)
        net._backward(len(engine.names) - 1, 0)
        for name in names:
            diff = net.blobs[net.top_names[name][0]].diff
            diffs[name].append(diff.reshape(len(data), engine.layers[name].out_channels, -1).copy())
        beat()
    found = {name: np.stack(parts, axis=1) for name, parts in diffs.items()}
    for name, diff in found.items():
        if not np.isfinite(diff).all():
            raise CaffeError(
                f"the gradient of the network's scores at layer '{name}' is not finite, which its scores are; search by "
                "divergences that are measured instead (--metric divergence)"
            )
    return BatchGradients(probes, scores, found)


class Changes:
    """What forms change in a layer's weights, ready to be multiplied with gradients.

    Parameters
    ----------
    engine : Engine
    name : str
        The layer.
    forms : sequence of Form
    """

    def __init__(self, engine: Engine, name: str, forms: Sequence[Form]) -> None:
        self.layer, self.forms = engine.layers[name], tuple(forms)
        self._weights = np.array(engine.net.params[name][0].data)
        self._blocks: list[np.ndarray] = []
        self._chains: list[list[np.ndarray]] = []
        if self.layer.inner_product is not None:
            self._chains = [_stages(engine, self.layer, form) for form in forms]
            return
        flat = self._weights.reshape(-1)
        for at in range(0, len(forms), WIDTH):
            block = np.zeros((flat.size, WIDTH), np.float32)
            for i, form in enumerate(forms[at : at + WIDTH]):
                block[:, i] = engine.truncated(name, form) - flat
            self._blocks.append(block)

    def along(self, bottom: np.ndarray, diffs: np.ndarray) -> np.ndarray:
        """Changes of the scores along the directions, shape (forms, n, m).

        Parameters
        ----------
        bottom : ndarray, the layer's bottom, n images
        diffs : ndarray, shape (n, m, O, positions)
        """
        if not self.forms:
            return np.zeros((0, *diffs.shape[:2]), np.float32)
        if self._chains:
            return self._inner(bottom, diffs)
        n, m = diffs.shape[:2]
        gradients = np.empty((n, m, self.layer.out_channels, patch_size(self.layer)), np.float32)
        for i in range(n):
            image_gradient(bottom[i : i + 1], self.layer, diffs[i], gradients[i])
        flat = gradients.reshape(n * m, -1)
        found = np.concatenate([flat @ block for block in self._blocks], axis=1)
        return found[:, : len(self.forms)].T.reshape(len(self.forms), n, m)

    def _inner(self, bottom: np.ndarray, diffs: np.ndarray) -> np.ndarray:
        # A gradient of rank 1 is never formed: a fully connected layer may have 10^8 weights.
        x = bottom.reshape(len(bottom), -1).T
        ip = self.layer.inner_product
        whole = (
            self._weights.reshape(self.layer.in_channels, -1).T if ip is not None and ip.transposed else self._weights
        )
        before, rows = whole.reshape(self.layer.out_channels, -1) @ x, []
        for factors in self._chains:
            y = x
            for factor in factors:
                y = factor @ y
            rows.append(np.einsum("nmo,on->nm", diffs[..., 0], y - before))
        return np.stack(rows)


def _stages(engine: Engine, layer: Layer, form: Form) -> list[np.ndarray]:
    """Matrices of a fully connected layer's chain."""
    if engine.task.factors:
        factors = read_factors(engine.task.factors, layer.name, form)
    else:
        factors = engine.plain(layer, form)
    return [f.reshape(f.shape[0], -1) for f in factors]


def image_gradient(bottom: np.ndarray, layer: Layer, diffs: np.ndarray, out: np.ndarray) -> None:
    """Write the weight gradients (m, O, d) of one image's bottom (1, C, H, W) for diffs (m, O, positions) of its top to ``out``."""
    groups, own = layer.groups, layer.out_channels // layer.groups
    m, d = len(diffs), out.shape[2]
    for group in range(groups):
        part = slice(group * own, (group + 1) * own)
        wanted, total = diffs[:, part], out[:, part]
        for number, positions in enumerate(_positions(layer, wanted.shape[2])):
            whole = len(positions) == wanted.shape[2]
            columns = patches(bottom, layer, group, None if whole else positions)
            rows = wanted if whole else np.ascontiguousarray(wanted[..., positions])
            rows = rows.reshape(m * own, -1)
            if number == 0 and groups == 1:
                # Most of the time goes into these products: no copies of them.
                np.matmul(rows, columns.T, out=total.reshape(m * own, d))
            elif number == 0:
                total[...] = (rows @ columns.T).reshape(m, own, d)
            else:
                total += (rows @ columns.T).reshape(m, own, d)


def _positions(layer: Layer, number: int) -> Iterator[np.ndarray]:
    most = max(1, COLUMNS // (4 * patch_size(layer)))
    for at in range(0, number, most):
        yield np.arange(at, min(number, at + most))


def output_moments(groups: int, diffs: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Sum over images and positions of what changes of a group's outputs cost, shape (g, O/g, O/g), float64."""
    n, m, outputs = diffs.shape[:3]
    own = outputs // groups
    turned = np.einsum("nab,nbop->oapn", roots, diffs, optimize=True).reshape(outputs, -1)
    return np.stack([x @ x.T for x in np.asarray(turned, np.float64).reshape(groups, own, -1)])
