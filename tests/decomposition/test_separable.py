"""The alternation for split kernels ends near a local optimum, whichever half comes first, and so does Tucker-2's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.regression import Moments, group_weights, output_error
from enc_caffe.decomposition.separable import leading_rows
from enc_caffe.form import Form
from tests.decomposition.layers import conv
from tests.decomposition.test_regression import errors, setting


@pytest.mark.parametrize("form", [Form("spatial", (2,)), Form("spatial_t", (2,)), Form("tucker2", (1, 2))], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_factors_are_near_a_local_optimum(form: Form, seed: int) -> None:
    layer = conv(4, 2, (3, 3))
    weights, (c,) = setting(layer, seed)
    w, scheme = group_weights(layer, weights)[0], scheme_for(form.scheme)
    factors = scheme.solve(layer, weights, [Moments.of_original(c, w)], form)
    shapes, ends = [f.shape for f in factors], np.cumsum([f.size for f in factors])[:-1]

    def error(flat: np.ndarray) -> float:
        parts = [p.reshape(s) for p, s in zip(np.split(flat, ends), shapes)]
        return output_error(c, w, scheme.effective(layer, form, parts).reshape(4, -1))

    start = np.concatenate([np.asarray(f, np.float64).reshape(-1) for f in factors])
    polished = minimize(error, start, method="L-BFGS-B", options={"maxiter": 200}).fun
    ours, plain = errors(layer, form, weights, [c])
    # What a general optimiser still gains from here, against what was gained on plain SVD.
    assert ours - polished < 0.05 * (plain - polished)


def test_a_turned_layer_has_turned_factors() -> None:
    # The horizontal half first on a kernel is the vertical half first on its transpose.
    layer, turned = conv(5, 3, (3, 4)), conv(5, 3, (4, 3))
    weights, (c,) = setting(layer, 7)
    order = np.arange(36).reshape(3, 3, 4).transpose(0, 2, 1).reshape(-1)
    other = np.ascontiguousarray(weights.transpose(0, 1, 3, 2))
    for rank in (1, 3, 6):
        found = []
        for x, w, moments, name in (
            (layer, weights, c, "spatial_t"), (turned, other, c[np.ix_(order, order)], "spatial"),
        ):  # fmt: skip
            scheme, form = scheme_for(name), Form(name, (rank,))
            factors = scheme.solve(x, w, [Moments.of_original(moments, group_weights(x, w)[0])], form)
            found.append(scheme.effective(x, form, factors).reshape(w.shape))
        np.testing.assert_allclose(found[0], found[1].transpose(0, 1, 3, 2), atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 1000), st.floats(-3, 3))
def test_leading_rows_span_what_those_of_the_svd_span(
    rows: int, columns: int, inner: int, seed: int, size: float
) -> None:
    # Of any rank, dead rows and columns among them.
    rng = np.random.default_rng(seed)
    matrix = 10**size * rng.standard_normal((rows, inner)) @ rng.standard_normal((inner, columns))
    matrix[rng.random(rows) < 0.2] = 0.0
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    for rank in range(1, min(rows, columns) + 1):
        found = leading_rows(matrix, rank)
        np.testing.assert_allclose(found @ found.T, np.eye(rank), atol=1e-10)
        lost = np.linalg.norm(matrix - matrix @ found.T @ found)
        assert lost <= np.linalg.norm(s[rank:]) + 1e-7 * s[0]
    # All of them: nothing is lost, however small.
    assert lost <= 1e-12 * max(s[0], 1e-300) * 10
