"""Channel scheme: rank filters Dh x Dw, then O filters 1 x 1; M[o,(i,a,b)]. Source: the paper's section I with [11]."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np

from enc_caffe.decomposition.matrix import MatrixScheme, Pair
from enc_caffe.decomposition.regression import Moments, reduced_rank
from enc_caffe.decomposition.scheme import Factors, convolution, group_size, joined, no_convolution, per_group
from enc_caffe.form import Chain, Form, Stage
from enc_caffe.network import Convolution, Layer


class Channel(MatrixScheme):
    """Fewer output channels, then a 1x1 convolution back to all of them."""

    name = "channel"
    title = "Dh x Dw to fewer channels, then 1 x 1"

    def refuses(self, layer: Layer) -> str:
        """Any convolution but a depthwise one."""
        return no_convolution(layer)

    def matrix_shape(self, layer: Layer) -> tuple[int, int]:
        """O/g rows and I/g Dh Dw columns."""
        o, i, dh, dw = group_size(layer)
        return o, i * dh * dw

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """M[o,(i,a,b)] of every group."""
        return [w.reshape(w.shape[0], -1) for w in per_group(layer, weights)]

    def weights_of(self, layer: Layer, matrices: Sequence[np.ndarray]) -> np.ndarray:
        """W from M."""
        o, i, dh, dw = group_size(layer)
        return np.concatenate(matrices).reshape(-1, i, dh, dw)

    def fold(self, layer: Layer, pairs: Sequence[Pair]) -> Factors:
        """(rank, i, Dh, Dw) and (o, rank, 1, 1)."""
        o, i, dh, dw = group_size(layer)
        return [
            joined([right.reshape(-1, i, dh, dw) for _, right in pairs]),
            joined([left.reshape(o, -1, 1, 1) for left, _ in pairs]),
        ]

    def unfold(self, layer: Layer, factors: Sequence[np.ndarray]) -> list[Pair]:
        """(o, rank) and (rank, i Dh Dw)."""
        rows, columns = self.matrix_shape(layer)
        first = factors[0].reshape(layer.groups, -1, columns)
        second = factors[1].reshape(layer.groups, rows, -1)
        return list(zip(second, first))

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """The first stage keeps stride, pad and dilation."""
        conv = convolution(layer)
        first = replace(conv, num_output=form.ranks[0] * conv.groups, bias=False)
        second = Convolution(conv.num_output, (1, 1), groups=conv.groups, bias=conv.bias)
        return Chain((Stage("_v", first), Stage("_h", second)))

    def regress(self, layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
        """Reduced-rank regression, in closed form."""
        return reduced_rank(moments, rank)
