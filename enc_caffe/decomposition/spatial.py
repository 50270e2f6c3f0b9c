"""Spatial scheme, the vertical half first: rank filters Dh x 1, then O filters 1 x Dw.

M[(i,a),(b,o)] of one group's weights W[o,i,a,b]. The vertical half keeps the vertical stride, pad and dilation and the
horizontal half the horizontal ones, so the pair at full rank computes the very function of the original layer.
``published`` puts both strides on the vertical half, which is another function as soon as the horizontal stride is not 1.
Source: the paper's section I with [12].
"""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np

from enc_caffe.decomposition.matrix import MatrixScheme, Pair
from enc_caffe.decomposition.regression import Moments
from enc_caffe.decomposition.scheme import Factors, convolution, group_size, joined, no_convolution, per_group
from enc_caffe.decomposition.separable import separable_pair, work
from enc_caffe.form import Chain, Form, Stage
from enc_caffe.network import Convolution, Layer

Axes = tuple[int, int]


def along(conv: Convolution, axis: int, num_output: int, stride: Axes, bias: bool) -> Convolution:
    """The half of a convolution that works along one axis (0: height), with these strides."""

    def only(pair: Axes, rest: int) -> Axes:
        return (pair[0], rest) if axis == 0 else (rest, pair[1])

    return replace(
        conv, num_output=num_output, kernel=only(conv.kernel, 1), stride=stride, pad=only(conv.pad, 0),
        dilation=only(conv.dilation, 1), bias=bias,
    )  # fmt: skip


class Spatial(MatrixScheme):
    """Vertical, then horizontal."""

    name = "spatial"
    title = "Dh x 1, then 1 x Dw"
    #: Axis of the first half, and what both layers' names end in.
    first_axis = 0
    suffixes = ("_v", "_h")

    def refuses(self, layer: Layer) -> str:
        """1x1 kernels have nothing to split."""
        return no_convolution(layer) or ("1x1 convolution" if layer.kernel == (1, 1) else "")

    def matrix_shape(self, layer: Layer) -> tuple[int, int]:
        """I/g Dh rows and Dw O/g columns."""
        o, i, *kernel = group_size(layer)
        return i * kernel[self.first_axis], kernel[1 - self.first_axis] * o

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """M[(i,a),(b,o)] of every group."""
        order = (1, 2, 3, 0) if self.first_axis == 0 else (1, 3, 2, 0)
        return [w.transpose(order).reshape(self.matrix_shape(layer)) for w in per_group(layer, weights)]

    def weights_of(self, layer: Layer, matrices: Sequence[np.ndarray]) -> np.ndarray:
        """W[o,i,a,b] from M."""
        o, i, dh, dw = group_size(layer)
        if self.first_axis == 0:
            return np.concatenate([m.reshape(i, dh, dw, o).transpose(3, 0, 1, 2) for m in matrices])
        return np.concatenate([m.reshape(i, dw, dh, o).transpose(3, 0, 2, 1) for m in matrices])

    def fold(self, layer: Layer, pairs: Sequence[Pair]) -> Factors:
        """(rank, i, Dh, 1) and (o, rank, 1, Dw)."""
        o, i, dh, dw = group_size(layer)
        if self.first_axis == 0:
            first = [left.T.reshape(-1, i, dh, 1) for left, _ in pairs]
            second = [right.reshape(-1, dw, o).transpose(2, 0, 1)[:, :, None, :] for _, right in pairs]
        else:
            first = [left.T.reshape(-1, i, 1, dw) for left, _ in pairs]
            second = [right.reshape(-1, dh, o).transpose(2, 0, 1)[:, :, :, None] for _, right in pairs]
        return [joined(first), joined(second)]

    def unfold(self, layer: Layer, factors: Sequence[np.ndarray]) -> list[Pair]:
        """(i Dh, rank) and (rank, Dw o)."""
        rows, columns = self.matrix_shape(layer)
        g, o = layer.groups, layer.out_channels // layer.groups
        first = factors[0].reshape(g, -1, rows)
        second = factors[1].reshape(g, o, first.shape[1], -1)
        return [
            (np.ascontiguousarray(a.T), b.transpose(1, 2, 0).reshape(-1, columns)) for a, b in zip(first, second)
        ]  # fmt: skip

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """Both halves; see the module for the strides."""
        conv, axis = convolution(layer), self.first_axis
        stride = conv.stride
        first: Axes = (stride[0], 1) if axis == 0 else (1, stride[1])
        second: Axes = (1, stride[1]) if axis == 0 else (stride[0], 1)
        if placement == "published":
            first, second = stride, (1, 1)
        return Chain((
            Stage(self.suffixes[0], along(conv, axis, form.ranks[0] * conv.groups, first, False)),
            Stage(self.suffixes[1], along(conv, 1 - axis, conv.num_output, second, conv.bias)),
        ))  # fmt: skip

    def work(self, layer: Layer, forms: Sequence[Form]) -> float:
        """An alternation for every form."""
        strip, wide = self.matrix_shape(layer)
        columns, outputs = layer.kernel[1 - self.first_axis], layer.out_channels // layer.groups
        return layer.groups * sum(work(strip, columns, outputs, f.ranks[0]) for f in forms)

    def regress(self, layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
        """Alternating least squares (:mod:`separable`)."""
        dh, dw = layer.kernel
        if self.first_axis == 0:
            return separable_pair(matrix, moments, dw, rank)
        d = len(moments.inputs)
        # From (i, a, b) to (i, b, a): the strips lie along the rows now.
        order = np.arange(d).reshape(-1, dh, dw).transpose(0, 2, 1).reshape(-1)
        turned = Moments(moments.inputs[np.ix_(order, order)], moments.targets[order])
        turned.__dict__["best"] = moments.best[order]
        return separable_pair(matrix, turned, dh, rank)
