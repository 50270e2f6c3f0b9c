"""What a decomposition scheme is: one file each beside this one, one row each in :mod:`table`.

A scheme turns a layer's weights into the weights of a chain of layers (:class:`enc_caffe.form.Chain`). No module outside
of this package asks for a scheme by its name: what differs between schemes stands here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Callable, Optional, Sequence

import numpy as np

from enc_caffe.decomposition.patches import patch_size
from enc_caffe.decomposition.regression import Moments, regular
from enc_caffe.errors import PlanError
from enc_caffe.form import Chain, Form
from enc_caffe.network import Convolution, Layer

PLACEMENTS = ("exact", "published")

#: Weights of a chain's stages in Caffe's blob layout, float32, one array a stage; biases are not among them.
Factors = list[np.ndarray]
#: The factors of one layer at a form.
Factoriser = Callable[[Form], Factors]


class Scheme(ABC):
    """One decomposition scheme.

    Attributes
    ----------
    name : str
        As in ``spatial:12``.
    title : str
        For a person.
    ranks : int
        How many ranks a form has.
    modes : bool
        Whether each of several ranks is that of its own matrix of :meth:`matrices`.
    """

    name: str = ""
    title: str = ""
    ranks: int = 1
    modes: bool = False

    @abstractmethod
    def refuses(self, layer: Layer) -> str:
        """Why this layer cannot be decomposed so; empty where it can."""

    @abstractmethod
    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """The matrices whose singular values say how well ranks do: one a group, or one a mode."""

    @abstractmethod
    def forms(self, layer: Layer, spectra: Sequence[np.ndarray]) -> tuple[Form, ...]:
        """The forms that are worth looking at, a ladder in order of MACs; none costs more than the layer whole.

        Parameters
        ----------
        spectra : sequence of ndarray
            Singular values of :meth:`matrices`; where a scheme has one rank the forms do not depend on them.
        """

    def stepped(self, layer: Layer, spectra: Sequence[np.ndarray], step: int) -> tuple[Form, ...]:
        """The ladder of forms whose ranks, or widths, are multiples of a number (:meth:`fits_step`)."""
        return tuple(f for f in self.forms(layer, spectra) if self.fits_step(layer, f, step))

    def fits_step(self, layer: Layer, form: Form, step: int) -> bool:
        """Whether every rank of a form is a multiple of a number, or all channels, which no layer of the chain then has fewer of."""
        channels = (layer.in_channels, layer.out_channels)
        return all(r % step == 0 or (r == most and r in channels) for r, most in zip(form.ranks, self.limits(layer)))

    @abstractmethod
    def energy(self, layer: Layer, spectra: Sequence[np.ndarray], forms: Sequence[Form]) -> np.ndarray:
        """PCA energy y_p (Eq. 2) of every form; comparable within this scheme only."""

    @abstractmethod
    def limits(self, layer: Layer) -> tuple[int, ...]:
        """Largest value of each rank of a form: beyond it there is nothing to factorise."""

    @abstractmethod
    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """The layers that stand for ``layer``.

        Parameters
        ----------
        placement : {'exact', 'published'}
            ``exact``: the chain at full rank computes the layer's function for every stride. ``published``: where the
            published networks put strides (METHOD section 1).
        """

    @abstractmethod
    def factoriser(self, layer: Layer, weights: np.ndarray) -> Factoriser:
        """Factors of least error of the weights, by form; what forms share is computed once.

        Parameters
        ----------
        weights : ndarray, Caffe's blob of the layer: (O, I/g, Dh, Dw) or (O, I)
        """

    @abstractmethod
    def effective(self, layer: Layer, form: Form, factors: Sequence[np.ndarray]) -> np.ndarray:
        """The original layer's weights that compute what the chain with these factors does, in the shape of its blob."""

    @abstractmethod
    def solve_regular(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """As :meth:`solve`, from moments that :func:`regular` made."""

    def solve(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """Factors of least error of the layer's OUTPUT.

        Parameters
        ----------
        weights : ndarray, Caffe's blob of the layer
        moments : sequence of Moments, one for each group
        """
        return self.solve_regular(layer, weights, regular(layer, weights, moments), form)

    def work(self, layer: Layer, forms: Sequence[Form]) -> float:
        """Floating-point operations that :meth:`solve` takes for these forms, nearly; here those of a closed form, whose
        decomposition all forms share.
        """
        d, o = patch_size(layer), layer.out_channels // layer.groups
        shared = d * d * (d / 3 + 2 * o) + 2.0 * d * o * o + 9.0 * o**3
        return layer.groups * (shared + sum(2.0 * d * o * max(f.ranks) for f in forms))

    def matrix_shape(self, layer: Layer) -> Optional[tuple[int, int]]:
        """Rows and columns of one group's matrix, where a form is one rank of it; else None."""
        return None

    def matrix_shapes(self, layer: Layer) -> list[tuple[int, int]]:
        """Rows and columns of each of :meth:`matrices`; here of schemes whose form is one rank."""
        shape = self.matrix_shape(layer)
        return [] if shape is None else [shape] * layer.groups

    def max_rank(self, layer: Layer) -> int:
        """Forms of the ladder; of a scheme whose form is one rank of a matrix r_max, where the chain costs what the layer costs
        (METHOD section 1).
        """
        return len(self.forms(layer, ()))

    def check(self, layer: Layer, form: Form) -> None:
        """Raise :class:`PlanError` where the layer cannot take this form."""
        why = self.refuses(layer)
        if why:
            raise PlanError(f"layer '{layer.name}' ({layer.type}) cannot have scheme '{self.name}': {why}")
        if len(form.ranks) != self.ranks:
            raise PlanError(
                f"layer '{layer.name}': form '{form}' has {len(form.ranks)} rank(s); scheme '{self.name}' takes {self.ranks}"
            )
        for rank, limit in zip(form.ranks, self.limits(layer)):
            if not 1 <= rank <= limit:
                raise PlanError(f"layer '{layer.name}': form '{form}': rank {rank} is outside 1 to {limit}")

    def factorise(self, layer: Layer, weights: np.ndarray, form: Form) -> Factors:
        """Factors at one form by plain SVD."""
        self.check(layer, form)
        return self.factoriser(layer, weights)(form)

    def truncated(self, layer: Layer, weights: np.ndarray, form: Form) -> np.ndarray:
        """The original layer's weights at this form, in the shape of the original blob."""
        return self.effective(layer, form, self.factorise(layer, weights, form)).reshape(np.shape(weights))


def spread(most: int, step: int, number: int) -> list[int]:
    """Multiples of a number up to ``most``, evenly, so many at most; of 1 from 1 to ``most``."""
    first, last = (1, most) if step == 1 else (1, most // step)
    return [step * int(round(v)) for v in np.linspace(first, last, min(last, number))]


def group_size(layer: Layer) -> tuple[int, int, int, int]:
    """Outputs and inputs of one group, kernel height and width."""
    g = layer.groups
    return layer.out_channels // g, layer.in_channels // g, layer.kernel[0], layer.kernel[1]


def per_group(layer: Layer, weights: np.ndarray) -> np.ndarray:
    """A convolution's weights as (g, O/g, I/g, Dh, Dw)."""
    return np.asarray(weights).reshape(layer.groups, *group_size(layer))


def convolution(layer: Layer) -> Convolution:
    """A layer's geometry; :class:`PlanError` where it is no convolution."""
    if layer.convolution is None:
        raise PlanError(f"layer '{layer.name}' ({layer.type}) is no convolution")
    return layer.convolution


def no_convolution(layer: Layer) -> str:
    """Why no scheme for convolutions takes this layer; empty where one may."""
    if layer.convolution is None:
        return f"type {layer.type} is no convolution"
    if layer.groups == layer.in_channels > 1:
        return "depthwise convolution"
    return layer.keep_reason


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Weights of all groups as one blob, float32."""
    return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)
