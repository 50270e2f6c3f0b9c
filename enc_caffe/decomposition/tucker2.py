"""Tucker-2: a 1x1 convolution to fewer input channels, the Dh x Dw core, a 1x1 convolution to all output channels.

W[o,i,a,b] = sum over p, q of U[o,p] K[p,q,a,b] V[i,q]. A mode whose rank is all its channels needs no 1x1 layer: with the input mode
whole this is the channel scheme, with the output mode whole its mirror image. Ranks are written (input, output).

Plain factors are the higher-order SVD: U and V are leading singular vectors of the two unfoldings. For least error of the OUTPUT the
input mode is a strip of one position (:mod:`separable`): given V, core and U follow by reduced-rank regression, given those,
V by conjugate gradients. Source: Kim et al., ICLR 2016 ([13] of the paper), for the form.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np
import scipy

from enc_caffe.decomposition.energy import pca_energy
from enc_caffe.decomposition.regression import ROUNDS, Moments, reduced_rank, solve
from enc_caffe.decomposition.scheme import (
    Factoriser,
    Factors,
    Scheme,
    convolution,
    group_size,
    no_convolution,
    per_group,
    spread,
)
from enc_caffe.decomposition.separable import by_place, first_half, quadratic, whitened_start, work
from enc_caffe.decomposition.svd import decompose
from enc_caffe.form import Chain, Form, Stage, whole_chain
from enc_caffe.network import Convolution, Layer

#: Values of each rank that the ladder looks at, at most.
GRID = 24


class Tucker2(Scheme):
    """Both channel modes cut, each by its own rank."""

    name = "tucker2"
    title = "1 x 1 to fewer channels, Dh x Dw, 1 x 1 to all"
    ranks = 2
    modes = True

    def refuses(self, layer: Layer) -> str:
        """Convolutions of one group whose kernel is larger than 1x1."""
        why = no_convolution(layer)
        if why:
            return why
        if layer.groups > 1:
            return f"{layer.groups} groups; it takes convolutions of one group"
        return "1x1 convolution" if layer.kernel == (1, 1) else ""

    def limits(self, layer: Layer) -> tuple[int, ...]:
        """All channels of each mode, or as many as the other mode and the kernel leave independent."""
        o, i, dh, dw = group_size(layer)
        return min(i, o * dh * dw), min(o, i * dh * dw)

    def matrices(self, layer: Layer, weights: np.ndarray) -> list[np.ndarray]:
        """The unfoldings of the input and of the output mode: (I, O Dh Dw) and (O, I Dh Dw)."""
        w = per_group(layer, weights)[0]
        return [w.transpose(1, 0, 2, 3).reshape(w.shape[1], -1), w.reshape(w.shape[0], -1)]

    def matrix_shapes(self, layer: Layer) -> list[tuple[int, int]]:
        """Of both unfoldings."""
        o, i, dh, dw = group_size(layer)
        return [(i, o * dh * dw), (o, i * dh * dw)]

    def stepped(self, layer: Layer, spectra: Sequence[np.ndarray], step: int) -> tuple[Form, ...]:
        """Of as many multiples as the ladder has values."""
        return tuple(f for f in self.forms(layer, spectra, step) if self.fits_step(layer, f, step))

    def forms(self, layer: Layer, spectra: Sequence[np.ndarray], step: int = 1) -> tuple[Form, ...]:
        """Pairs of ranks of which no other costs as little at as small an error, by the bound of the higher-order SVD.

        The bound is the sum of both modes' lost squares (De Lathauwer et al., 2000, property 10).
        """
        limits, found = self.limits(layer), []
        tails = [_tail(s, n) for s, n in zip(spectra, limits)] or [1 - np.arange(n + 1) / n for n in limits]
        most = whole_chain(layer).macs(layer)
        for q in _values(limits[0], step):
            for p in _values(limits[1], step):
                form = Form(self.name, (q, p))
                cost = self.chain(layer, form).macs(layer)
                if cost < most:
                    found.append((cost, float(tails[0][q] + tails[1][p]), form))
        ladder: list[Form] = []
        least = np.inf
        for _, error, form in sorted(found):
            if error < least:
                ladder.append(form)
                least = error
        return tuple(ladder)

    def energy(self, layer: Layer, spectra: Sequence[np.ndarray], forms: Sequence[Form]) -> np.ndarray:
        """The mean of both modes' Eq. 2."""
        limits = self.limits(layer)
        curves = [pca_energy([s], n) for s, n in zip(spectra, limits)]
        return np.array([np.mean([curve[r] for curve, r in zip(curves, f.ranks)]) for f in forms])

    def chain(self, layer: Layer, form: Form, placement: str = "exact") -> Chain:
        """One to three layers; the core keeps stride, pad and dilation."""
        conv, (q, p) = convolution(layer), form.ranks
        first, last = q < layer.in_channels, p < layer.out_channels
        stages = [Stage("_in", Convolution(q, (1, 1), bias=False))] if first else []
        core = Convolution(p, conv.kernel, conv.stride, conv.pad, conv.dilation, 1, conv.bias and not last)
        stages.append(Stage("_core", core))
        if last:
            stages.append(Stage("_out", Convolution(conv.num_output, (1, 1), bias=conv.bias)))
        return Chain(tuple(stages))

    def factoriser(self, layer: Layer, weights: np.ndarray) -> Factoriser:
        """The higher-order SVD; every form takes leading vectors of the same two."""
        w = per_group(layer, weights)[0]
        v, u = (decompose(m)[0] for m in self.matrices(layer, weights))

        def factors(form: Form) -> Factors:
            q, p = form.ranks
            inner = v[:, :q] if q < layer.in_channels else np.eye(q, dtype=w.dtype)
            outer = u[:, :p] if p < layer.out_channels else np.eye(p, dtype=w.dtype)
            core = np.einsum("oiab,op,iq->pqab", w, outer, inner, optimize=True)
            return _stages(layer, form, inner, core, outer)

        return factors

    def effective(self, layer: Layer, form: Form, factors: Sequence[np.ndarray]) -> np.ndarray:
        """The product of all stages."""
        q, p = form.ranks
        left = list(factors)
        if q < layer.in_channels:
            inner = left.pop(0).reshape(q, -1)
            left[0] = np.einsum("pqab,qi->piab", left[0], inner, optimize=True)
        if p < layer.out_channels:
            left[0] = np.einsum("op,piab->oiab", left[1].reshape(-1, p), left[0], optimize=True)
        return np.asarray(left[0])

    def work(self, layer: Layer, forms: Sequence[Form]) -> float:
        """An alternation for every form that cuts the input mode; a closed form for the others."""
        o, i, dh, dw = group_size(layer)
        cut = [f for f in forms if f.ranks[0] < i]
        whole = [f for f in forms if f.ranks[0] == i]
        return sum(work(i, dh * dw, o, f.ranks[0]) for f in cut) + (super().work(layer, whole) if whole else 0.0)

    def solve_regular(self, layer: Layer, weights: np.ndarray, moments: Sequence[Moments], form: Form) -> Factors:
        """Alternating: core and output mode in closed form, the input mode by conjugate gradients."""
        o, i, dh, dw = group_size(layer)
        (q, p), places, (known,) = form.ranks, dh * dw, moments
        if q == layer.in_channels:
            outer, core = _behind(known, p, o)
            return _stages(layer, form, np.eye(q), core.reshape(p, q, dh, dw), outer)
        inputs, targets = by_place(known, places)
        start, right, mean = whitened_start(known, inputs, q)
        plain = decompose(np.asarray(self.matrices(layer, np.asarray(weights, np.float64))[0]))[0][:, :q]
        inverse = solve(mean, np.eye(i))
        starts = [scipy.linalg.qr(x, mode="economic")[0] for x in (start, plain)]
        inner = min(starts, key=lambda x: _lost(x, known, inputs, targets, p, o))
        for at in range(ROUNDS):
            outer, core = _behind(_seen(known, inner, places), p, o)
            if at < ROUNDS - 1:
                # (position, input rank, output), as the second half of a split kernel has it.
                spread = (outer @ core).reshape(o, q, places).transpose(1, 2, 0).reshape(q, -1)
                inner = scipy.linalg.qr(first_half((inner, spread), inverse, inputs, targets), mode="economic")[0]
        return _stages(layer, form, inner, core.reshape(p, q, dh, dw), outer)


def _values(limit: int, step: int = 1) -> list[int]:
    return sorted({*spread(limit, step, GRID), limit})


def _tail(spectrum: np.ndarray, limit: int) -> np.ndarray:
    """Part of the squares behind the first r singular values, r = 0 to limit."""
    squares = np.asarray(spectrum, np.float64)[:limit] ** 2
    total = float(squares.sum()) or 1.0
    return np.concatenate([[total], total - np.cumsum(squares)]).clip(0.0) / total


def _stages(layer: Layer, form: Form, inner: np.ndarray, core: np.ndarray, outer: np.ndarray) -> Factors:
    q, p = form.ranks
    parts = [inner.T[:, :, None, None]] if q < layer.in_channels else []
    parts.append(core)
    if p < layer.out_channels:
        parts.append(outer[:, :, None, None])
    return [np.ascontiguousarray(x, dtype=np.float32) for x in parts]


def _seen(moments: Moments, inner: np.ndarray, places: int) -> Moments:
    """Moments of what the core reads: V' x at every position, in the order (input rank, position)."""
    i, q = inner.shape
    half = np.einsum("iq,iax->qax", inner, moments.inputs.reshape(i, places, -1), optimize=True)
    inputs = np.einsum("qajb,jr->qarb", half.reshape(q, places, i, places), inner, optimize=True)
    targets = np.einsum("iq,iao->qao", inner, moments.targets.reshape(i, places, -1), optimize=True)
    return Moments(inputs.reshape(q * places, q * places), targets.reshape(q * places, -1))


def _behind(moments: Moments, p: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """The output mode (O, p) and core (p, d) of least error on these inputs."""
    if p == outputs:
        return np.eye(p), moments.best.T
    return reduced_rank(moments, p)


def _lost(
    inner: np.ndarray, moments: Moments, inputs: np.ndarray, targets: np.ndarray, p: int, outputs: int
) -> float:  # fmt: skip
    places, q = len(inputs), inner.shape[1]
    outer, core = _behind(_seen(moments, inner, places), p, outputs)
    spread = (outer @ core).reshape(outputs, q, places).transpose(1, 2, 0).reshape(q, -1)
    return quadratic((inner, spread), inputs, targets)
