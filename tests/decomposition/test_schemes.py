"""The decomposition as mathematics, without Caffe."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.complexity import layer_parameters, rank_parameters
from enc_caffe.decomposition import SCHEMES, group_spectra, scheme_for
from enc_caffe.errors import PlanError
from enc_caffe.network import Convolution, InnerProduct, Layer


def conv_layer(
    outputs: int, inputs: int, kernel: tuple[int, int], groups: int = 1, stride: tuple[int, int] = (1, 1)
) -> Layer:
    """A convolution on 8 x 8 images with "same" padding."""
    geometry = Convolution(outputs, kernel, stride, (kernel[0] // 2, kernel[1] // 2), groups=groups)
    return Layer("c", "Convolution", ("x",), ("c",), ((1, inputs, 8, 8),), ((1, outputs, 8, 8),), convolution=geometry)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Convolutions with all kinds of channels, kernels and groups."""
    groups = draw(st.sampled_from((1, 2, 3)))
    return conv_layer(
        groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4)),
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))), groups,
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(layers(), st.sampled_from(("spatial", "channel")), st.data())
def test_truncation_is_the_best_of_its_rank_and_the_factors_multiply_to_it(
    layer: Layer, name: str, data: st.DataObject
) -> None:
    scheme = SCHEMES[name]
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    weights = np.random.default_rng(data.draw(st.integers(0, 99))).standard_normal(shape)
    limit = min(scheme.matrix_shape(layer))
    rank = data.draw(st.integers(1, limit))
    cut = scheme.truncated(layer, weights, rank)
    # Eckart and Young: the squared error is the sum of the squared singular values that were cut off, over all groups.
    spectra = group_spectra(scheme.matrices(layer, weights))
    lost = sum(float(np.sum(s[rank:] ** 2)) for s in spectra)
    assert np.sum((weights - cut) ** 2) == pytest.approx(lost, abs=1e-9)
    factors = scheme.factorise(layer, weights.astype(np.float32), rank)
    first, second = scheme.stages(layer, rank, "exact")
    assert factors.first.shape == (rank * layer.groups, layer.in_channels // layer.groups, *first.convolution.kernel)
    assert factors.second.shape == (layer.out_channels, rank, *second.convolution.kernel)
    assert factors.first.size + factors.second.size == rank * rank_parameters(layer, name)
    if name == "spatial":
        joined = np.concatenate([
            np.einsum("riab,orbc->oiac", v, h)
            for v, h in zip(np.split(factors.first, layer.groups), np.split(factors.second, layer.groups))
        ])  # fmt: skip
    else:
        joined = np.concatenate([
            np.einsum("riab,orxy->oiab", v, h)
            for v, h in zip(np.split(factors.first, layer.groups), np.split(factors.second, layer.groups))
        ])  # fmt: skip
    np.testing.assert_allclose(joined, cut, atol=1e-4)


def test_r_max_is_where_the_pair_costs_what_the_layer_does() -> None:
    # METHOD section 1, by hand: I O D / (I + O), I O D^2 / (I D^2 + O), I O / (I + O).
    assert scheme_for("spatial").max_rank(conv_layer(64, 64, (3, 3))) == 96
    assert scheme_for("spatial").max_rank(conv_layer(128, 64, (3, 3))) == 128
    assert scheme_for("channel").max_rank(conv_layer(64, 3, (3, 3))) == 19
    assert scheme_for("channel").max_rank(conv_layer(16, 3, (3, 3))) == 10
    fc = Layer(
        "f", "InnerProduct", bottom_shapes=((1, 9216),), top_shapes=((1, 4096),), inner_product=InnerProduct(4096)
    )
    assert scheme_for("inner_product").max_rank(fc) == round(9216 * 4096 / (9216 + 4096))
    grouped = conv_layer(256, 96, (5, 5), 2)
    assert scheme_for("spatial").max_rank(grouped) == round(48 * 128 * 5 / (48 + 128))
    assert layer_parameters(grouped) == 256 * 48 * 25


def test_strides_pads_and_dilations_are_split() -> None:
    geometry = Convolution(8, (3, 5), (2, 3), (1, 2), (1, 2), 2)
    layer = Layer("c", "Convolution", bottom_shapes=((1, 4, 9, 9),), top_shapes=((1, 8, 5, 2),), convolution=geometry)
    first, second = scheme_for("spatial").stages(layer, 3, "exact")
    assert first.convolution == Convolution(6, (3, 1), (2, 1), (1, 0), (1, 1), 2, False)
    assert second.convolution == Convolution(8, (1, 5), (1, 3), (0, 2), (1, 2), 2, True)
    first, second = scheme_for("spatial").stages(layer, 3, "published")
    assert first.convolution.stride == (2, 3) and second.convolution.stride == (1, 1)
    first, second = scheme_for("channel").stages(layer, 3, "exact")
    assert first.convolution == Convolution(6, (3, 5), (2, 3), (1, 2), (1, 2), 2, False)
    assert second.convolution == Convolution(8, (1, 1), groups=2)


def test_ranks_outside_the_matrix_are_refused() -> None:
    layer = conv_layer(4, 4, (3, 3))
    for rank in (0, 13):
        with pytest.raises(PlanError, match=f"rank {rank} is outside 1 to 12"):
            scheme_for("spatial").factorise(layer, np.zeros((4, 4, 3, 3), np.float32), rank)
    with pytest.raises(PlanError, match="unknown scheme 'tucker'; known: spatial, channel, inner_product"):
        scheme_for("tucker")
