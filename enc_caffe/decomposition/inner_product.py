"""Fully connected layers: rank outputs, then all of them; M = W, O x I."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from enc_caffe.decomposition.matrix import MatrixScheme, Pair
from enc_caffe.decomposition.regression import Moments, reduced_rank
from enc_caffe.decomposition.scheme import Factors, joined
from enc_caffe.form import Chain, Form, Stage
from enc_caffe.network import InnerProduct, Layer


class FullyConnected(MatrixScheme):
    """Two inner products."""

    name = "inner_product"
    title = "fully connected to fewer outputs, then to all"

    def refuses(self, layer: Layer) -> str:
        """Inner products alone."""
        return layer.keep_reason if layer.inner_product is not None else f"type {layer.type} is not fully connected"

    def matrix_shape(self, layer: Layer) -> tuple[int, int]:
        """O x I."""
        return layer.out_channels, layer.in_channels

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """W, turned where the layer stores it transposed."""
        w = np.asarray(weights)
        if _transposed(layer):
            return [w.reshape(layer.in_channels, layer.out_channels).T]
        return [w.reshape(layer.out_channels, layer.in_channels)]

    def weights_of(self, layer: Layer, matrices: Sequence[np.ndarray]) -> np.ndarray:
        """W as the layer stores it."""
        return matrices[0].T if _transposed(layer) else matrices[0]

    def fold(self, layer: Layer, pairs: Sequence[Pair]) -> Factors:
        """(rank, I) and (O, rank)."""
        left, right = pairs[0]
        return [joined([right]), joined([left])]

    def unfold(self, layer: Layer, factors: Sequence[np.ndarray]) -> list[Pair]:
        """(O, rank) and (rank, I)."""
        return [(factors[1].reshape(layer.out_channels, -1), factors[0].reshape(-1, layer.in_channels))]

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """Both are stored untransposed."""
        return Chain((
            Stage("_v", inner_product=InnerProduct(form.ranks[0], bias=False)),
            Stage("_h", inner_product=InnerProduct(layer.out_channels, bias=layer.bias)),
        ))  # fmt: skip

    def regress(self, layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
        """Reduced-rank regression, in closed form."""
        return reduced_rank(moments, rank)


def _transposed(layer: Layer) -> bool:
    return layer.inner_product is not None and layer.inner_product.transposed
