"""Layers for the tests of the decomposition, described by hand and drawn at random, and what they compute by definition."""

from __future__ import annotations

from typing import Optional

import numpy as np
from hypothesis import strategies as st

from enc_caffe.decomposition import schemes
from enc_caffe.form import Form
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.shapes import conv_output

Pair = tuple[int, int]


def conv(
    outputs: int, inputs: int, kernel: Pair, groups: int = 1, stride: Pair = (1, 1), pad: Optional[Pair] = None,
    dilation: Pair = (1, 1), size: Pair = (9, 8), bias: bool = True,
) -> Layer:  # fmt: skip
    """A convolution on images of ``size``, of "same" padding without another pad."""
    pads = (kernel[0] // 2, kernel[1] // 2) if pad is None else pad
    geometry = Convolution(outputs, kernel, stride, pads, dilation, groups, bias)
    out = tuple(conv_output(n, kernel[i], stride[i], pads[i], dilation[i]) for i, n in enumerate(size))
    return Layer("c", "Convolution", ("x",), ("c",), ((1, inputs, *size),), ((1, outputs, *out),), convolution=geometry)


def dense(outputs: int, inputs: int, transposed: bool = False) -> Layer:
    """A fully connected layer."""
    geometry = InnerProduct(outputs, transposed=transposed)
    return Layer("f", "InnerProduct", ("x",), ("f",), ((1, inputs),), ((1, outputs),), inner_product=geometry)


def random_weights(layer: Layer, seed: int) -> np.ndarray:
    """Weights in the shape of the layer's blob, float64."""
    rng = np.random.default_rng(seed)
    if layer.inner_product is not None:
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels)
        shape = shape[::-1] if layer.inner_product.transposed else shape
    else:
        shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    return rng.standard_normal(shape)


@st.composite
def drawn_layers(draw: st.DrawFn) -> Layer:
    """Convolutions of all kinds of channels, kernels, groups, strides, pads and dilations; now and then a dense layer."""
    if draw(st.integers(0, 7)) == 0:
        return dense(draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.booleans()))
    groups = draw(st.sampled_from((1, 1, 2, 3, 4)))
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 4)))
    pair = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    return conv(
        groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 4)), kernel, groups, pair(1, 3), pair(0, 2),
        pair(1, 2), (draw(st.integers(10, 14)), draw(st.integers(10, 14))), draw(st.booleans()),
    )  # fmt: skip


@st.composite
def drawn_forms(draw: st.DrawFn, layer: Layer, name: str = "") -> Form:
    """A form that the layer can take."""
    able = [s for s in schemes().values() if not s.refuses(layer) and name in ("", s.name)]
    scheme = draw(st.sampled_from(able))
    return Form(scheme.name, tuple(draw(st.integers(1, limit)) for limit in scheme.limits(layer)))


def convolved(x: np.ndarray, weights: np.ndarray, geometry: Convolution) -> np.ndarray:
    """What a convolution makes of images (n, C, H, W), position by position as its definition says; without the bias."""
    (sh, sw), (ph, pw), (eh, ew) = geometry.stride, geometry.pad, geometry.dilation
    groups, (dh, dw) = geometry.groups, geometry.kernel
    w = weights.reshape(groups, geometry.num_output // groups, -1, dh, dw)
    padded = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))).reshape(
        len(x), groups, -1, x.shape[2] + 2 * ph, x.shape[3] + 2 * pw
    )
    high = conv_output(x.shape[2], dh, sh, ph, eh)
    wide = conv_output(x.shape[3], dw, sw, pw, ew)
    out = np.zeros((len(x), geometry.num_output, high, wide))
    for i in range(high):
        for j in range(wide):
            window = padded[..., i * sh : i * sh + eh * dh : eh, j * sw : j * sw + ew * dw : ew][..., :dh, :dw]
            out[:, :, i, j] = np.einsum("ngiab,goiab->ngo", window, w).reshape(len(x), -1)
    return out


def run_chain(layer: Layer, stages, factors, x: np.ndarray) -> np.ndarray:
    """What the layers of a chain make of x, one after the other."""
    for stage, factor in zip(stages, factors):
        if stage.convolution is not None:
            x = convolved(x, np.asarray(factor, np.float64), stage.convolution)
        else:
            x = x @ np.asarray(factor, np.float64).reshape(stage.inner_product.num_output, -1).T
    return x


def run_layer(layer: Layer, weights: np.ndarray, x: np.ndarray) -> np.ndarray:
    """What the layer itself makes of x, without its bias."""
    if layer.convolution is not None:
        return convolved(x, weights, layer.convolution)
    return x @ (weights if layer.inner_product.transposed else weights.T)


def inputs_of(layer: Layer, seed: int, number: int = 2) -> np.ndarray:
    """Random inputs of the layer."""
    return np.random.default_rng(seed).standard_normal((number, *layer.bottom_shapes[0][1:]))
