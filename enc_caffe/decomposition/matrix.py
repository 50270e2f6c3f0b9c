"""Schemes of one rank: a matrix of the weights (one a group) is cut after its first singular values, and makes two layers."""

from __future__ import annotations

from abc import abstractmethod
from typing import Sequence

import numpy as np

from enc_caffe.decomposition.energy import pca_energy
from enc_caffe.decomposition.regression import Moments
from enc_caffe.decomposition.scheme import Factoriser, Factors, Scheme
from enc_caffe.decomposition.svd import decompose, split_evenly
from enc_caffe.form import Form
from enc_caffe.network import Layer
from enc_caffe.rounding import round_half_up

#: Both factors of one group's matrix: (rows, rank) and (rank, columns).
Pair = tuple[np.ndarray, np.ndarray]


class MatrixScheme(Scheme):
    """A scheme whose form has one rank, that of a matrix."""

    ranks = 1

    @abstractmethod
    def matrix_shape(self, layer: Layer) -> tuple[int, int]:
        """Rows and columns of one group's matrix."""

    @abstractmethod
    def fold(self, layer: Layer, pairs: Sequence[Pair]) -> Factors:
        """Weights of both stages from the factors of every group's matrix."""

    @abstractmethod
    def unfold(self, layer: Layer, factors: Sequence[np.ndarray]) -> list[Pair]:
        """The factors of every group's matrix from the weights of both stages."""

    @abstractmethod
    def weights_of(self, layer: Layer, matrices: Sequence[np.ndarray]) -> np.ndarray:
        """The layer's blob from every group's matrix."""

    @abstractmethod
    def regress(self, layer: Layer, matrix: np.ndarray, moments: Moments, rank: int) -> Pair:
        """Factors of one group's matrix with the least error of its outputs."""

    def limits(self, layer: Layer) -> tuple[int, ...]:
        """The smaller side of the matrix."""
        return (min(self.matrix_shape(layer)),)

    def max_rank(self, layer: Layer) -> int:
        """Rank of one group at which both stages have as many weights as the original (METHOD section 1)."""
        rows, columns = self.matrix_shape(layer)
        # The matrix holds one group's weights; a unit of rank costs rows + columns of them.
        return max(1, min(round_half_up(rows * columns / (rows + columns)), rows, columns))

    def forms(self, layer: Layer, spectra: Sequence[np.ndarray]) -> tuple[Form, ...]:
        """Every rank from 1 to r_max."""
        return tuple(Form(self.name, (r,)) for r in range(1, self.max_rank(layer) + 1))

    def energy(self, layer: Layer, spectra: Sequence[np.ndarray], forms: Sequence[Form]) -> np.ndarray:
        """Eq. 2 over the groups' mean singular values up to the highest of the forms' ranks."""
        ranks = np.array([f.ranks[0] for f in forms])
        return pca_energy(list(spectra), int(ranks.max()))[ranks]

    def factoriser(self, layer: Layer, weights: np.ndarray) -> Factoriser:
        """Truncated SVD, the singular values split evenly between both stages."""
        whole = [decompose(m) for m in self.matrices(layer, weights)]
        return lambda form: self.fold(layer, [split_evenly(*parts, form.ranks[0]) for parts in whole])

    def effective(self, layer: Layer, form: Form, factors: Sequence[np.ndarray]) -> np.ndarray:
        """The product of both factors, group by group."""
        return self.weights_of(layer, [a @ b for a, b in self.unfold(layer, factors)])

    def solve_regular(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """Factors of every group for this very rank: those of a smaller one are not the first of these."""
        matrices = self.matrices(layer, np.asarray(weights, np.float64))
        return self.fold(layer, [self.regress(layer, m, k, form.ranks[0]) for m, k in zip(matrices, moments)])
