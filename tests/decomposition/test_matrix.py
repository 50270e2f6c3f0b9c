"""Schemes of one rank: the best truncation, r_max, and ranks outside of the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enc_caffe.complexity import layer_parameters
from enc_caffe.decomposition import form_cost, group_spectra, scheme_for
from enc_caffe.errors import PlanError
from enc_caffe.form import Form
from enc_caffe.network import Layer
from tests.decomposition.layers import conv, dense, random_weights


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """Convolutions with all kinds of channels, kernels and groups."""
    groups = draw(st.sampled_from((1, 2, 3)))
    return conv(
        groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4)),
        (draw(st.integers(1, 4)), draw(st.integers(1, 4))), groups,
    )  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(layers(), st.sampled_from(("spatial", "spatial_t", "channel")), st.data())
def test_truncation_is_the_best_of_its_rank_and_the_factors_multiply_to_it(
    layer: Layer, name: str, data: st.DataObject
) -> None:
    scheme = scheme_for(name)
    assume(not scheme.refuses(layer))
    weights = random_weights(layer, data.draw(st.integers(0, 99)))
    limit = min(scheme.matrix_shape(layer))
    rank = data.draw(st.integers(1, limit))
    form = Form(name, (rank,))
    factorise = scheme.factoriser(layer, weights)
    # Factors are single precision, as a caffemodel has them.
    cut = scheme.effective(layer, form, factorise(form)).reshape(weights.shape)
    # Eckart and Young: the squared error is the sum of the squared singular values that were cut off, over all groups.
    spectra = group_spectra(scheme.matrices(layer, weights))
    lost = sum(float(np.sum(s[rank:] ** 2)) for s in spectra)
    assert np.sum((weights - cut) ** 2) == pytest.approx(lost, rel=1e-6, abs=1e-6)
    first, second = factorise(form)
    stages = scheme.chain(layer, form).stages
    assert first.shape == (rank * layer.groups, layer.in_channels // layer.groups, *stages[0].convolution.kernel)
    assert second.shape == (layer.out_channels, rank, *stages[1].convolution.kernel)
    assert first.dtype == second.dtype == np.float32
    assert first.size + second.size == form_cost(layer, form)[1] == rank * form_cost(layer, Form(name, (1,)))[1]
    # By the definition of each scheme, group by group.
    product = {"spatial": "riab,orbc->oiac", "spatial_t": "riab,orca->oicb", "channel": "riab,orxy->oiab"}[name]
    joined = np.concatenate([
        np.einsum(product, v, h) for v, h in zip(np.split(first, layer.groups), np.split(second, layer.groups))
    ])  # fmt: skip
    np.testing.assert_allclose(joined, cut, atol=1e-4)


def test_r_max_is_where_the_pair_costs_what_the_layer_does() -> None:
    # METHOD section 1, by hand: I O D / (I + O), I O D^2 / (I D^2 + O), I O / (I + O).
    assert scheme_for("spatial").max_rank(conv(64, 64, (3, 3))) == 96
    assert scheme_for("spatial").max_rank(conv(128, 64, (3, 3))) == 128
    assert scheme_for("channel").max_rank(conv(64, 3, (3, 3))) == 19
    assert scheme_for("channel").max_rank(conv(16, 3, (3, 3))) == 10
    assert scheme_for("inner_product").max_rank(dense(4096, 9216)) == round(9216 * 4096 / (9216 + 4096))
    grouped = conv(256, 96, (5, 5), 2)
    assert scheme_for("spatial").max_rank(grouped) == round(48 * 128 * 5 / (48 + 128))
    assert layer_parameters(grouped) == 256 * 48 * 25
    # The half that comes first reads Dw columns now: I O Dh Dw / (I Dw + Dh O).
    assert scheme_for("spatial_t").max_rank(conv(64, 32, (5, 3))) == round(32 * 64 * 15 / (32 * 3 + 5 * 64))
    # A 1x1 convolution is a matrix of its channels.
    assert scheme_for("channel").max_rank(conv(64, 64, (1, 1))) == 32


def test_forms_are_the_ranks_from_one_to_r_max() -> None:
    scheme, layer = scheme_for("spatial"), conv(8, 8, (3, 3))
    assert scheme.forms(layer, ()) == tuple(Form("spatial", (r,)) for r in range(1, 13))


def test_ranks_outside_the_matrix_are_refused() -> None:
    layer = conv(4, 4, (3, 3))
    for rank in (0, 13):
        with pytest.raises(PlanError, match=f"rank {rank} is outside 1 to 12"):
            scheme_for("spatial").factorise(layer, np.zeros((4, 4, 3, 3), np.float32), Form("spatial", (rank,)))
    with pytest.raises(
        PlanError,
        match=r"unknown scheme 'tucker' \(did you mean tucker2\?\); known: spatial, spatial_t, channel, inner_product, tucker2",
    ):
        scheme_for("tucker")
