"""The three-stage form: exact at full rank, what its chain computes, counted, and no worse with moments than without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import check_form, form_cost, on_request, scheme_for, schemes
from enc_caffe.decomposition.regression import Moments, group_weights, output_power
from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Form
from tests.decomposition.layers import conv, inputs_of, random_weights, run_chain, run_layer
from tests.decomposition.test_scheme import moments_of

NAME = "asym3d"


def test_only_a_list_asks_for_it() -> None:
    assert list(on_request()) == [NAME] and NAME not in schemes() and scheme_for(NAME) is on_request()[NAME]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from([(3, 3), (5, 3), (1, 7), (2, 3)]),
    st.sampled_from([1, 2]),
    st.data(),
)
def test_its_chain_computes_what_its_effective_weights_do(
    outputs: int, inputs: int, kernel: tuple[int, int], stride: int, data: st.DataObject
) -> None:
    layer, scheme = conv(outputs, inputs, kernel, 1, (stride, stride), (1, 1), (1, 1), (11, 15)), scheme_for(NAME)
    weights, x = random_weights(layer, 0), inputs_of(layer, 1, 1)
    limits = scheme.limits(layer)
    p = data.draw(st.integers(1, limits[1]))
    form = Form(NAME, (data.draw(st.integers(1, min(limits[0], kernel[1] * p))), p))
    factors = scheme.factorise(layer, weights, form)
    cut = scheme.effective(layer, form, factors).reshape(weights.shape)
    made, wanted = (
        run_chain(layer, scheme.chain(layer, form).stages, factors, x),
        run_layer(layer, cut.astype(np.float64), x),
    )
    assert np.abs(made - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    assert form_cost(layer, form)[1] == sum(f.size for f in factors)
    full = Form(NAME, limits)
    np.testing.assert_allclose(
        scheme.effective(layer, full, scheme.factorise(layer, weights, full)).reshape(weights.shape), weights, atol=1e-4
    )


@pytest.mark.parametrize("seed", range(3))
def test_with_moments_it_loses_much_less(seed: int) -> None:
    layer, scheme = conv(12, 8, (3, 3)), scheme_for(NAME)
    weights, form = random_weights(layer, seed), Form(NAME, (10, 6))
    (flat,) = group_weights(layer, weights)
    seen, held_out = (moments_of(layer, seed, 20_000, sample)[0] for sample in (0, 1))
    solved = scheme.effective(layer, form, scheme.solve(layer, weights, [Moments.of_original(seen, flat)], form))
    lost = [
        output_power(held_out, flat - w.reshape(flat.shape)) for w in (solved, scheme.truncated(layer, weights, form))
    ]
    assert lost[0] < 0.9 * lost[1]


def test_the_ladder_is_of_legal_forms_in_order_of_cost() -> None:
    layer, scheme = conv(24, 16, (3, 3)), scheme_for(NAME)
    spectra = [np.linalg.svd(m, compute_uv=False) for m in scheme.matrices(layer, random_weights(layer, 0))]
    forms = scheme.forms(layer, spectra)
    costs = [form_cost(layer, f)[0] for f in forms]
    assert len(forms) > 5 and costs == sorted(set(costs)) and costs[-1] < form_cost(layer, WHOLE)[0]
    for form in forms:
        check_form(layer, form)
    with pytest.raises(PlanError, match="rank 7 is above 6, all that 2 channels have"):
        check_form(layer, Form(NAME, (7, 2)))
