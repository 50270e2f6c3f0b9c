"""Three stages: Dh x 1 to r filters, 1 x Dw to p, a 1 x 1 convolution to all outputs. Ranks are written (r, p).

The channel scheme to p filters, whose Dh x Dw layer is split once more along its axes: the "asymmetric 3-D" form of Zhang, Zou, He and Sun
(IEEE TPAMI 38, 2016; [16] of the paper). For least error of the OUTPUT the channel part is reduced-rank regression on the responses, and the
split that of least error of the p responses, whose directions it makes orthonormal. Inputs are asymmetric with ``--decomposition asymmetric``,
and with ``asymmetric_relu`` the ReLU behind the layer is in the target too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np

from enc_caffe.decomposition.channel import Channel
from enc_caffe.decomposition.regression import Moments
from enc_caffe.decomposition.scheme import Factoriser, Factors, convolution, group_size
from enc_caffe.decomposition.spatial import Spatial
from enc_caffe.decomposition.tucker2 import Tucker2
from enc_caffe.errors import PlanError
from enc_caffe.form import Chain, Form, Stage
from enc_caffe.network import Convolution, Layer

_CHANNEL, _SPATIAL = Channel(), Spatial()


class Asym3d(Tucker2):
    """The ladder, the layers that it takes and its energy are those of two modes, as Tucker-2 has them."""

    name = "asym3d"
    title = "Dh x 1, 1 x Dw to fewer channels, 1 x 1 to all"
    modes = False

    def limits(self, layer: Layer) -> tuple[int, ...]:
        """Full rank of the split of all channels, and all channels, or as many as are independent."""
        o, i, dh, dw = group_size(layer)
        p = min(o, i * dh * dw)
        return min(i * dh, dw * p), p

    def check(self, layer: Layer, form: Form) -> None:
        """The first rank is limited by the second too."""
        super().check(layer, form)
        (r, p), (_, _, _, dw) = form.ranks, group_size(layer)
        if r > dw * p:
            raise PlanError(
                f"layer '{layer.name}': form '{form}': rank {r} is above {dw * p}, all that {p} channels have"
            )

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """Those of the split and of the channel scheme."""
        return [*_SPATIAL.matrices(layer, weights), *_CHANNEL.matrices(layer, weights)]

    def forms(self, layer: Layer, spectra: Sequence[np.ndarray], step: int = 1) -> tuple[Form, ...]:
        """As Tucker-2's, without those whose first rank is more than full."""
        dw = group_size(layer)[3]
        return tuple(f for f in super().forms(layer, spectra, step) if f.ranks[0] <= dw * f.ranks[1])

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """Both halves of the split, and the 1 x 1 layer with the bias."""
        conv, (r, p) = convolution(layer), form.ranks
        halves = _SPATIAL.chain(_inner(layer, p), Form(_SPATIAL.name, (r,)), placement).stages
        return Chain((*halves, Stage("_out", Convolution(conv.num_output, (1, 1), bias=conv.bias))))

    def factoriser(self, layer: Layer, weights: np.ndarray) -> Factoriser:
        """Truncated SVD of the layer, and of the first of its two factors."""
        outer = _CHANNEL.factoriser(layer, weights)

        def factors(form: Form) -> Factors:
            r, p = form.ranks
            core, last = outer(Form(_CHANNEL.name, (p,)))
            return [*_SPATIAL.factoriser(_inner(layer, p), core)(Form(_SPATIAL.name, (r,))), last]

        return factors

    def effective(self, layer: Layer, form: Form, factors: Sequence[np.ndarray]) -> np.ndarray:
        """The product of all stages."""
        r, p = form.ranks
        core = _SPATIAL.effective(_inner(layer, p), Form(_SPATIAL.name, (r,)), factors[:2])
        return _CHANNEL.effective(layer, Form(_CHANNEL.name, (p,)), [core, factors[2]])

    def work(self, layer: Layer, forms: Sequence[Form]) -> float:
        """An alternation for every form, behind one closed form."""
        split = sum(_SPATIAL.work(_inner(layer, f.ranks[1]), [Form(_SPATIAL.name, f.ranks[:1])]) for f in forms)
        return _CHANNEL.work(layer, [Form(_CHANNEL.name, f.ranks[1:]) for f in forms]) + split

    def solve_regular(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """Reduced-rank regression, then the split of least error of the responses that it leaves."""
        (r, p), (known,) = form.ranks, moments
        core, last = _CHANNEL.solve_regular(layer, weights, moments, Form(_CHANNEL.name, (p,)))
        flat = np.asarray(core, np.float64).reshape(p, -1)
        own = Moments(known.inputs, known.inputs @ flat.T, known.columns)
        return [*_SPATIAL.solve_regular(_inner(layer, p), core, [own], Form(_SPATIAL.name, (r,))), last]


def _inner(layer: Layer, outputs: int) -> Layer:
    """The layer with fewer outputs and no bias, which is split."""
    shape = layer.top_shapes[0]
    return replace(
        layer, convolution=replace(convolution(layer), num_output=outputs, bias=False), top_shapes=((shape[0], outputs, *shape[2:]),)
    )  # fmt: skip
