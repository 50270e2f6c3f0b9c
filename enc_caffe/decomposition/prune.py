"""Pruning as a form: ``prune:k`` reads k of the layer's input channels, ``prune:k+spatial:r`` decomposes what is left.

The other channels need not be made at all: the layers before it lose those outputs when the network is written
(:mod:`enc_caffe.caffe_io.narrow`). Factors are those of the network before that, as wide as the layer, with 0 for every channel that is
not read: so they can be put in the original's place like those of any form. The forms of the layers before stand for all of their outputs.

Three schemes differ in how channels are chosen (:mod:`pruning`); the weights of those that stay are solved for again. Without moments
(plain SVD) all of them go by the weights' magnitude and keep the weights as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Sequence

import numpy as np

from enc_caffe.decomposition.patches import patch_size
from enc_caffe.decomposition.pruning import (
    columns_of,
    elimination_order,
    lasso_choice,
    lasso_path,
    magnitude_order,
    refitted,
    responses,
)
from enc_caffe.decomposition.regression import Moments, group_weights
from enc_caffe.decomposition.scheme import Factoriser, Factors, Scheme, spread
from enc_caffe.errors import PlanError
from enc_caffe.form import Chain, Form, whole_chain
from enc_caffe.network import Layer

#: Numbers of channels that the ladder looks at, at most.
GRID = 16

#: The channels that are kept, in order, of a layer's weights (O, d).
Choice = Callable[[Moments, np.ndarray, int, int], np.ndarray]


def channels_of(layer: Layer) -> int:
    """Channels of a layer's bottom; each may be several inputs of a fully connected layer."""
    return layer.bottom_shapes[0][1]


def narrowed(layer: Layer, channels: int) -> Layer:
    """The layer as it would be with fewer channels in its bottom."""
    shape = layer.bottom_shapes[0]
    return replace(layer, bottom_shapes=((shape[0], channels, *shape[2:]), *layer.bottom_shapes[1:]))


def least_error(moments: Moments, weights: np.ndarray, channels: int, number: int) -> np.ndarray:
    """By backward elimination; its order is found once for all numbers."""
    known = moments.__dict__
    if "elimination" not in known:
        known["elimination"] = elimination_order(moments, channels)
    return np.sort(known["elimination"][:number])


def by_lasso(moments: Moments, weights: np.ndarray, channels: int, number: int) -> np.ndarray:
    """By a penalty on the channels' responses; the path of penalties is followed once for all numbers."""
    known, gram_and_along = moments.__dict__, responses(moments, weights, channels)
    if "lasso" not in known:
        known["lasso"] = lasso_path(*gram_and_along)
    return lasso_choice(*gram_and_along, number, known["lasso"])


def by_magnitude(moments: Moments, weights: np.ndarray, channels: int, number: int) -> np.ndarray:
    """By the weights alone."""
    return np.sort(magnitude_order(weights, channels)[:number])


class Prune(Scheme):
    """Some input channels alone.

    Parameters
    ----------
    name, title : str
    rule : str
        What ``--prune_by`` calls it.
    choice : callable
    scheme_of : callable of a name
        Finds the scheme of the form inside.
    """

    ranks = 1

    def __init__(self, name: str, title: str, rule: str, choice: Choice, scheme_of: Callable[[str], Scheme]) -> None:
        self.name, self.title, self.rule, self._choice, self._scheme_of = name, title, rule, choice, scheme_of

    def refuses(self, layer: Layer) -> str:
        """Convolutions of one group, and fully connected layers whose weights stand as they are; the graph has the last word."""
        if layer.keep_reason:
            return layer.keep_reason
        if not layer.has_weights:
            return f"type {layer.type} has no channels to read"
        if layer.groups > 1:
            return "depthwise convolution" if layer.groups == layer.in_channels else f"{layer.groups} groups"
        if layer.inner_product is not None and layer.inner_product.transposed:
            return "its weights are transposed"
        if len(layer.bottom_shapes[0]) < 2 or layer.in_channels % channels_of(layer):
            return "its inputs are no channels"
        return "it reads one channel" if channels_of(layer) < 2 else ""

    def limits(self, layer: Layer) -> tuple[int, ...]:
        """All channels."""
        return (channels_of(layer),)

    def max_rank(self, layer: Layer) -> int:
        """All channels: fewer cost less, however many."""
        return channels_of(layer)

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """A diagonal of every channel's sum of absolute weights."""
        flat = group_weights(layer, weights)[0]
        return [np.diag(np.abs(flat).reshape(len(flat), channels_of(layer), -1).sum(axis=(0, 2)))]

    def stepped(self, layer: Layer, spectra: Sequence[np.ndarray], step: int) -> tuple[Form, ...]:
        """As many multiples as the ladder has numbers; the layers before have as many channels left."""
        return self.forms(layer, spectra, step)

    def fits_step(self, layer: Layer, form: Form, step: int) -> bool:
        """Whether the number of channels is a multiple, and what is inside fits."""
        small = narrowed(layer, form.ranks[0])
        return form.ranks[0] % step == 0 and all(
            self._scheme_of(f.scheme).fits_step(small, f, step) for f in form.inside
        )

    def forms(self, layer: Layer, spectra: Sequence[np.ndarray], step: int = 1) -> tuple[Form, ...]:
        """Numbers of channels below all of them."""
        most = channels_of(layer)
        numbers = set(spread(most, step, GRID)) - {most}
        return tuple(Form(self.name, (k,)) for k in sorted(numbers))

    def energy(self, layer: Layer, spectra: Sequence[np.ndarray], forms: Sequence[Form]) -> np.ndarray:
        """Part of the sum of absolute weights that the largest channels have."""
        sums = np.cumsum(spectra[0])
        return np.array([sums[f.ranks[0] - 1] / sums[-1] if sums[-1] > 0 else 1.0 for f in forms])

    def check(self, layer: Layer, form: Form) -> None:
        """Raise :class:`PlanError` where the layer cannot take this form, or what is left not the form inside."""
        super().check(layer, form)
        for own in form.inside:
            scheme = self._scheme_of(own.scheme)
            if isinstance(scheme, Prune):
                raise PlanError(f"layer '{layer.name}': form '{form}' takes channels out twice; one number is needed")
            scheme.check(narrowed(layer, form.ranks[0]), own)

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """The layer, or the chain of the form inside, reading fewer channels."""
        small = narrowed(layer, form.ranks[0])
        chain = whole_chain(layer)
        for own in form.inside:
            chain = self._scheme_of(own.scheme).chain(small, own, placement)
        return replace(chain, reads=small.in_channels)

    def factoriser(self, layer: Layer, weights: np.ndarray) -> Factoriser:
        """By magnitude, the weights of the others unchanged."""
        flat = group_weights(layer, weights)[0]
        order = magnitude_order(flat, channels_of(layer))

        def factors(form: Form) -> Factors:
            kept = np.sort(order[: form.ranks[0]])
            small = narrowed(layer, len(kept))
            parts = flat[:, self._columns(layer, kept)].astype(np.float32).reshape(_shape(small))
            made = [parts]
            for own in form.inside:
                made = self._scheme_of(own.scheme).factorise(small, parts, own)
            return widened(layer, made, kept)

        return factors

    def solve_regular(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """Channels by the scheme's rule, weights by least squares on what is left."""
        (known,), flat = moments, group_weights(layer, weights)[0]
        kept = self._choice(known, flat, channels_of(layer), form.ranks[0])
        small = narrowed(layer, len(kept))
        best, own_moments = refitted(known, self._columns(layer, kept))
        made = [np.ascontiguousarray(best, np.float32).reshape(_shape(small))]
        for own in form.inside:
            made = self._scheme_of(own.scheme).solve_regular(small, best.reshape(_shape(small)), [own_moments], own)
        return widened(layer, made, kept)

    def effective(self, layer: Layer, form: Form, factors: Sequence[np.ndarray]) -> np.ndarray:
        """Weights of the layer, 0 for channels that are not read."""
        kept = kept_channels(layer, factors[0], form.ranks[0])
        small = narrowed(layer, len(kept))
        columns = self._columns(layer, kept)
        first = np.asarray(factors[0]).reshape(len(factors[0]), channels_of(layer), -1)[:, kept]
        parts: Sequence[np.ndarray] = [first.reshape(_first_shape(small, factors[0], len(kept))), *factors[1:]]
        made = parts[0]
        for own in form.inside:
            made = self._scheme_of(own.scheme).effective(small, own, parts)
        wide = np.zeros((layer.out_channels, layer.in_channels * int(np.prod(layer.kernel))), made.dtype)
        wide[:, columns] = made.reshape(layer.out_channels, -1)
        return wide.reshape(_shape(layer))

    def work(self, layer: Layer, forms: Sequence[Form]) -> float:
        """One elimination, and a solution for every form."""
        d, o = patch_size(layer), layer.out_channels
        own = sum(
            (f.ranks[0] / channels_of(layer) * d) ** 2 * (d / 3 + 2 * o)
            + sum(self._scheme_of(i.scheme).work(narrowed(layer, f.ranks[0]), [i]) for i in f.inside)
            for f in forms
        )
        return float(2.0 * d**3 + own)

    @staticmethod
    def _columns(layer: Layer, kept: np.ndarray) -> np.ndarray:
        return columns_of(kept, patch_size(layer) // channels_of(layer))


def kept_channels(layer: Layer, first: np.ndarray, number: int) -> np.ndarray:
    """The ``number`` channels that a first factor as wide as the layer reads; where some of them have no weights, the earliest others
    fill it up."""
    used = np.any(np.asarray(first).reshape(len(first), channels_of(layer), -1) != 0, axis=(0, 2))
    return np.sort(np.argsort(~used, kind="stable")[:number])


def widened(layer: Layer, factors: Sequence[np.ndarray], kept: np.ndarray) -> Factors:
    """Factors whose first one is as wide as the layer, with 0 for the channels that are not kept."""
    first = np.asarray(factors[0])
    parts = first.reshape(len(first), len(kept), -1)
    wide = np.zeros((len(first), channels_of(layer), parts.shape[2]), np.float32)
    wide[:, kept] = parts
    return [wide.reshape(_first_shape(layer, first, channels_of(layer))), *factors[1:]]


def _first_shape(layer: Layer, first: np.ndarray, channels: int) -> tuple[int, ...]:
    if first.ndim == 2:
        return len(first), layer.in_channels
    return len(first), channels, *first.shape[2:]


def _shape(layer: Layer) -> tuple[int, ...]:
    if layer.convolution is None:
        return layer.out_channels, layer.in_channels
    return layer.out_channels, layer.in_channels, *layer.kernel
