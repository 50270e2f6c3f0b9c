"""The three decomposition schemes: how weights become a matrix, and factors become two layers.

Weights of one group: W[o, i, a, b], shape (O/g, I/g, Dh, Dw).

=============  ==============================  =====================================  ==========================
scheme         matrix                          first layer ``_v``                     second layer ``_h``
=============  ==============================  =====================================  ==========================
spatial        M[(i,a),(b,o)]                  rank filters Dh x 1                    O filters 1 x Dw
channel        M[o,(i,a,b)]                    rank filters Dh x Dw                   O filters 1 x 1
inner_product  W, O x I                        rank outputs                           O outputs
=============  ==============================  =====================================  ==========================

The vertical half keeps the vertical stride, pad and dilation and the horizontal half the horizontal ones, so the
pair at full rank computes the very function of the original layer. ``placement="published"`` puts both strides on
``_v``, as the published networks do, which is another function as soon as the horizontal stride is not 1.
Source: the paper's section I with [12] (spatial) and [11] (channel).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable

import numpy as np

from enc_caffe.decomposition.svd import truncated_factors
from enc_caffe.errors import PlanError
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.rounding import round_half_up

PLACEMENTS = ("exact", "published")


@dataclass(frozen=True)
class Stage:
    """One of the two layers that replace a decomposed one: its geometry and where its output is H x W."""

    suffix: str
    convolution: Convolution | None = None
    inner_product: InnerProduct | None = None


@dataclass(frozen=True)
class Factors:
    """Weights of the two layers, in Caffe's blob layout (float32)."""

    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class Scheme:
    """One decomposition scheme as a row of functions."""

    name: str
    matrices: Callable[[Layer, np.ndarray], list[np.ndarray]]
    fold: Callable[[Layer, list[tuple[np.ndarray, np.ndarray]]], Factors]
    stages: Callable[[Layer, int, str], tuple[Stage, Stage]]
    matrix_shape: Callable[[Layer], tuple[int, int]]
    rank_cost: Callable[[Layer], int]

    def max_rank(self, layer: Layer) -> int:
        """Rank of one group at which the pair has as many weights as the original (METHOD section 1)."""
        rows, columns = self.matrix_shape(layer)
        original = rows * columns
        # The matrix holds one group's weights; a unit of rank costs rows + columns of them.
        return max(1, min(round_half_up(original / (rows + columns)), rows, columns))

    def factorise(self, layer: Layer, weights: np.ndarray, rank: int) -> Factors:
        """Truncate a layer's weights.

        Parameters
        ----------
        weights : ndarray, Caffe's blob of the layer: (O, I/g, Dh, Dw) or (O, I)
        rank : int
            Rank of one group.
        """
        limit = min(self.matrix_shape(layer))
        if not 1 <= rank <= limit:
            raise PlanError(f"layer '{layer.name}': rank {rank} is outside 1 to {limit}")
        return self.fold(layer, self.pairs(layer, weights, rank))

    def pairs(self, layer: Layer, weights: np.ndarray, rank: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Factors of every group's matrix, largest singular value first; a smaller rank takes the first of them."""
        return [truncated_factors(m, rank) for m in self.matrices(layer, weights)]

    def product(self, layer: Layer, pairs: list[tuple[np.ndarray, np.ndarray]], rank: int) -> np.ndarray:
        """The original layer's weights at this rank from the factors of :meth:`pairs`, flat in the blob's order."""
        return _UNFOLD[self.name](layer, [a[:, :rank] @ b[:rank] for a, b in pairs]).reshape(-1)

    def truncated(self, layer: Layer, weights: np.ndarray, rank: int) -> np.ndarray:
        """The original layer's weights at this rank, in the shape of the original blob."""
        return self.product(layer, self.pairs(layer, weights, rank), rank).reshape(weights.shape)


def _group_size(layer: Layer) -> tuple[int, int, int, int]:
    g = layer.groups
    return layer.out_channels // g, layer.in_channels // g, layer.kernel[0], layer.kernel[1]


def _per_group(layer: Layer, weights: np.ndarray) -> np.ndarray:
    o, i, dh, dw = _group_size(layer)
    return np.asarray(weights).reshape(layer.groups, o, i, dh, dw)


def _spatial_matrices(layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
    o, i, dh, dw = _group_size(layer)
    # M[(i,a),(b,o)]
    return [w.transpose(1, 2, 3, 0).reshape(i * dh, dw * o) for w in _per_group(layer, weights)]


def _spatial_fold(layer: Layer, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Factors:
    o, i, dh, dw = _group_size(layer)
    first = [left.T.reshape(-1, i, dh, 1) for left, _ in pairs]
    second = [right.reshape(-1, dw, o).transpose(2, 0, 1)[:, :, None, :] for _, right in pairs]
    return _factors(first, second)


def _spatial_unfold(layer: Layer, products: list[np.ndarray]) -> np.ndarray:
    o, i, dh, dw = _group_size(layer)
    return np.concatenate([m.reshape(i, dh, dw, o).transpose(3, 0, 1, 2) for m in products])


def _spatial_stages(layer: Layer, rank: int, placement: str) -> tuple[Stage, Stage]:
    conv = _convolution(layer)
    published = placement == "published"
    first = replace(
        conv,
        num_output=rank * conv.groups,
        kernel=(conv.kernel[0], 1),
        stride=conv.stride if published else (conv.stride[0], 1),
        pad=(conv.pad[0], 0),
        dilation=(conv.dilation[0], 1),
        bias=False,
    )
    second = replace(
        conv,
        kernel=(1, conv.kernel[1]),
        stride=(1, 1) if published else (1, conv.stride[1]),
        pad=(0, conv.pad[1]),
        dilation=(1, conv.dilation[1]),
    )
    return Stage("_v", convolution=first), Stage("_h", convolution=second)


def _channel_matrices(layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
    return [w.reshape(w.shape[0], -1) for w in _per_group(layer, weights)]


def _channel_fold(layer: Layer, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Factors:
    o, i, dh, dw = _group_size(layer)
    return _factors(
        [right.reshape(-1, i, dh, dw) for _, right in pairs],
        [left.reshape(o, -1, 1, 1) for left, _ in pairs],
    )


def _channel_unfold(layer: Layer, products: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(products)


def _channel_stages(layer: Layer, rank: int, placement: str) -> tuple[Stage, Stage]:
    conv = _convolution(layer)
    first = replace(conv, num_output=rank * conv.groups, bias=False)
    second = Convolution(conv.num_output, (1, 1), groups=conv.groups, bias=conv.bias)
    return Stage("_v", convolution=first), Stage("_h", convolution=second)


def _fc_matrices(layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
    w = np.asarray(weights)
    transposed = layer.inner_product is not None and layer.inner_product.transposed
    if transposed:
        return [w.reshape(layer.in_channels, layer.out_channels).T]
    return [w.reshape(layer.out_channels, layer.in_channels)]


def _fc_fold(layer: Layer, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Factors:
    left, right = pairs[0]
    return _factors([right], [left])


def _fc_unfold(layer: Layer, products: list[np.ndarray]) -> np.ndarray:
    transposed = layer.inner_product is not None and layer.inner_product.transposed
    return products[0].T if transposed else products[0]


def _fc_stages(layer: Layer, rank: int, placement: str) -> tuple[Stage, Stage]:
    return (
        Stage("_v", inner_product=InnerProduct(rank, bias=False)),
        Stage("_h", inner_product=InnerProduct(layer.out_channels, bias=layer.bias)),
    )


def _factors(first: list[np.ndarray], second: list[np.ndarray]) -> Factors:
    def join(parts: list[np.ndarray]) -> np.ndarray:
        return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)

    return Factors(join(first), join(second))


def _convolution(layer: Layer) -> Convolution:
    if layer.convolution is None:
        raise PlanError(f"layer '{layer.name}' ({layer.type}) is no convolution")
    return layer.convolution


def _spatial_shape(layer: Layer) -> tuple[int, int]:
    o, i, dh, dw = _group_size(layer)
    return i * dh, dw * o


def _channel_shape(layer: Layer) -> tuple[int, int]:
    o, i, dh, dw = _group_size(layer)
    return o, i * dh * dw


def _fc_shape(layer: Layer) -> tuple[int, int]:
    return layer.out_channels, layer.in_channels


def _rank_cost(shape: Callable[[Layer], tuple[int, int]]) -> Callable[[Layer], int]:
    # Weights that one more unit of rank (in every group) brings.
    return lambda layer: sum(shape(layer)) * layer.groups


_UNFOLD = {"spatial": _spatial_unfold, "channel": _channel_unfold, "inner_product": _fc_unfold}

SCHEMES: dict[str, Scheme] = {
    s.name: s
    for s in (
        Scheme(
            "spatial", _spatial_matrices, _spatial_fold, _spatial_stages, _spatial_shape, _rank_cost(_spatial_shape)
        ),
        Scheme(
            "channel", _channel_matrices, _channel_fold, _channel_stages, _channel_shape, _rank_cost(_channel_shape)
        ),
        Scheme("inner_product", _fc_matrices, _fc_fold, _fc_stages, _fc_shape, _rank_cost(_fc_shape)),
    )
}


def scheme_for(name: str) -> Scheme:
    """Scheme by name; :class:`PlanError` naming the known ones otherwise."""
    try:
        return SCHEMES[name]
    except KeyError:
        raise PlanError(f"unknown scheme '{name}'; known: {', '.join(SCHEMES)}") from None
