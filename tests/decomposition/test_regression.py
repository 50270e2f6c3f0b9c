"""Factors by output error, as mathematics: optimal, exact at full rank, sane where inputs say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.regression import (
    Moments,
    group_weights,
    output_error,
    reduced_rank,
    regular,
    shrinkage,
    solve,
)
from enc_caffe.form import Form
from enc_caffe.network import Layer
from tests.decomposition.layers import conv, dense

NAMES = ("spatial", "spatial_t", "channel", "tucker2")


def setting(layer: Layer, seed: int, columns: int = 400, dead: int = 0):
    """Weights, and second moments of correlated inputs, one matrix for each group."""
    rng = np.random.default_rng(seed)
    shape = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
    d = int(np.prod(shape[1:]))
    moments = []
    for _ in range(layer.groups):
        x = rng.standard_normal((d, d)) * rng.uniform(0.01, 3, d)[:, None] @ rng.standard_normal((d, columns))
        x[:dead] = 0
        moments.append(x @ x.T / columns)
    return rng.standard_normal(shape), moments


def solved(layer: Layer, weights: np.ndarray, moments, form: Form) -> np.ndarray:
    """The layer's weights that the solved factors stand for."""
    scheme = scheme_for(form.scheme)
    factors = [np.asarray(f, np.float64) for f in scheme.solve(layer, weights, moments, form)]
    return scheme.effective(layer, form, factors).reshape(np.shape(weights))


def half(layer: Layer, name: str, rank: int) -> Form:
    """A form of this rank; of Tucker-2 with both ranks as near to it as its limits let."""
    return Form(name, tuple(min(rank, limit) for limit in scheme_for(name).limits(layer)))


def errors(layer: Layer, form: Form, weights: np.ndarray, moments: list[np.ndarray]) -> tuple[float, float]:
    """Output error, all groups together, of weighted and of plain factors."""
    flat = group_weights(layer, weights)
    known = [Moments.of_original(c, w) for c, w in zip(moments, flat)]
    found = []
    for w in (solved(layer, weights, known, form), scheme_for(form.scheme).truncated(layer, weights, form)):
        other = group_weights(layer, w)
        power = [float(np.sum((a @ c) * a)) for a, c in zip(flat, moments)]
        lost = [output_error(c, a, b) * p for a, b, c, p in zip(flat, other, moments, power)]
        found.append(sum(lost) / sum(power))
    return found[0], found[1]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layer, int]:
    """Small convolutions and a seed."""
    groups = draw(st.sampled_from((1, 2)))
    layer = conv(
        groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 4)),
        (draw(st.integers(1, 3)), draw(st.integers(1, 3))), groups,
    )  # fmt: skip
    return layer, draw(st.integers(0, 10_000))


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(NAMES), st.data())
def test_never_worse_than_plain_and_exact_at_full_rank(case, name: str, data: st.DataObject) -> None:
    layer, seed = case
    assume(not scheme_for(name).refuses(layer))
    weights, moments = setting(layer, seed)
    limits = scheme_for(name).limits(layer)
    form = Form(name, tuple(data.draw(st.integers(1, n)) for n in limits))
    ours, plain = errors(layer, form, weights, moments)
    # The ridge belongs to what is minimised; on the inputs alone it may cost its own size.
    assert ours <= plain * (1 + 1e-2) + 1e-6
    if form.ranks == limits:
        assert ours < 1e-9


def test_channel_factors_reach_the_bound_of_eckart_and_young() -> None:
    layer = conv(8, 3, (3, 3))
    weights, (c,) = setting(layer, 4)
    # Outputs' second moment: what is lost is the sum of its smallest eigenvalues.
    values = np.linalg.eigvalsh(weights.reshape(8, -1) @ c @ weights.reshape(8, -1).T)[::-1]
    for rank in (1, 3, 6):
        ours, _ = errors(layer, Form("channel", (rank,)), weights, [c])
        assert ours == pytest.approx(values[rank:].sum() / values.sum(), rel=2e-3)


def test_inputs_that_never_differ_from_zero_leave_plain_svd() -> None:
    for name in ("spatial", "spatial_t", "channel"):
        layer, scheme, form = conv(5, 3, (3, 3)), scheme_for(name), Form(name, (2,))
        weights = np.random.default_rng(0).standard_normal((5, 3, 3, 3))
        dead = Moments(np.zeros((27, 27)), np.zeros((27, 5)))
        got = solved(layer, weights, [dead], form)
        np.testing.assert_allclose(got, scheme.truncated(layer, weights, form), atol=1e-6)


def test_inputs_that_never_differ_from_zero_leave_tucker_no_worse_than_plain() -> None:
    # The higher-order SVD is not the best of its ranks; the alternation goes on from it.
    layer, scheme, form = conv(5, 4, (3, 3)), scheme_for("tucker2"), Form("tucker2", (2, 3))
    weights = np.random.default_rng(0).standard_normal((5, 4, 3, 3))
    got = solved(layer, weights, [Moments(np.zeros((36, 36)), np.zeros((36, 5)))], form)
    plain = scheme.truncated(layer, weights, form)
    assert np.sum((weights - got) ** 2) <= np.sum((weights - plain) ** 2) * (1 + 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_fewer_inputs_than_dimensions(name: str) -> None:
    layer = conv(6, 4, (3, 3))
    weights, (c,) = setting(layer, 3, columns=7, dead=9)
    limits = scheme_for(name).limits(layer)
    for form in (half(layer, name, 1), half(layer, name, min(limits) // 2), Form(name, limits)):
        ours, plain = errors(layer, form, weights, [c])
        assert np.isfinite(ours) and ours <= plain + 1e-6
    # Exact as a function too, not only on the few inputs that were seen.
    flat = group_weights(layer, weights)
    full = solved(layer, weights, [Moments.of_original(c, flat[0])], Form(name, limits))
    np.testing.assert_allclose(full, weights, atol=1e-5)


def test_transposed_inner_product_weights() -> None:
    rng = np.random.default_rng(1)
    w, x, products = rng.standard_normal((5, 7)), rng.standard_normal((7, 40)), []
    for transposed in (False, True):
        layer = dense(5, 7, transposed)
        stored = w.T if transposed else w
        flat = group_weights(layer, stored)
        np.testing.assert_array_equal(flat[0], w)
        known = [Moments.of_original(x @ x.T, flat[0])]
        first, second = scheme_for("inner_product").solve(layer, stored, known, Form("inner_product", (2,)))
        products.append(second @ first)
        effective = solved(layer, stored, known, Form("inner_product", (2,)))
        np.testing.assert_allclose(effective.T if transposed else effective, products[-1], atol=1e-5)
    np.testing.assert_allclose(products[0], products[1], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_asymmetric_reconstruction_makes_up_for_changed_inputs(name: str) -> None:
    layer, rng = conv(6, 4, (3, 3)), np.random.default_rng(5)
    weights, form = rng.standard_normal((6, 4, 3, 3)), half(layer, name, 3)
    w = weights.reshape(6, -1)
    x = rng.standard_normal((36, 36)) @ rng.standard_normal((36, 2000))
    changed = 0.7 * x + 0.3 * rng.standard_normal((36, 36)) @ x / 6
    wanted = w @ x

    def lost(moments: Moments) -> float:
        made = solved(layer, weights, [moments], form).reshape(6, -1) @ changed
        return float(np.sum((wanted - made) ** 2) / np.sum(wanted**2))

    own = lost(Moments.of_original(x @ x.T / 2000, w))
    assert lost(Moments(changed @ changed.T / 2000, changed @ wanted.T / 2000)) < own


def test_of_few_columns_the_second_moments_say_less() -> None:
    rng = np.random.default_rng(0)
    scale = np.linspace(0.2, 3, 24)
    columns = scale[:, None] * rng.standard_normal((24, 5000))
    inputs = [columns[:, :n] @ columns[:, :n].T / n for n in (30, 100, 470, 480)]
    parts = [shrinkage(m, n) for m, n in zip(inputs, (30, 100, 470, 480))]
    # Fewer columns, more of the identity; of 20 for each dimension, and where there is no end of them, nothing.
    assert 1 >= parts[0] > parts[1] > parts[2] > 0 and parts[3] == 0
    assert shrinkage(inputs[0], 0) == 0 and shrinkage(np.eye(1), 3) == 0 and shrinkage(np.zeros((4, 4)), 3) == 0
    assert shrinkage(np.eye(24), 30) == 1
    # Eq. 23 by hand: d = 2, n = 9, eigenvalues 3 and 1: (0 + 16) / (9 * (10 - 8)) is above a half, 16 / (38 * 2) below.
    assert shrinkage(np.diag([3.0, 1.0]), 9) == 1 and shrinkage(np.diag([3.0, 1.0]), 38) == pytest.approx(
        (16 / 76) / (60 / 76)
    )


def test_what_few_columns_choose_holds_on_others() -> None:
    # A layer of 40 inputs, 48 columns to choose by, 4,000 others: without shrinkage the chosen ones are met and the others missed.
    layer, rng = dense(16, 40), np.random.default_rng(1)
    mix = rng.standard_normal((40, 40)) * np.linspace(0.1, 2, 40)
    weights, x = rng.standard_normal((16, 40)), mix @ rng.standard_normal((40, 4048))
    # As in asymmetric reconstruction: what comes in is off by what the layers before lost.
    seen = x + 0.5 * rng.standard_normal(x.shape) * x.std()
    y, few, many = weights @ x, slice(0, 48), slice(48, None)
    moments = seen[:, few] @ seen[:, few].T / 48, seen[:, few] @ y[:, few].T / 48
    lost = {}
    for columns in (0, 48):
        (ready,) = regular(layer, weights, [Moments(*moments, columns)])
        first, second = reduced_rank(ready, 12)
        lost[columns] = [
            float(np.sum((y[:, at] - first @ second @ seen[:, at]) ** 2) / np.sum(y[:, at] ** 2)) for at in (few, many)
        ]
    assert lost[48][0] > lost[0][0] and lost[48][1] < lost[0][1] / 2, lost


@settings(max_examples=40, deadline=None)
@given(d=st.integers(1, 30), rank=st.integers(0, 30), seed=st.integers(0, 99))
def test_a_singular_system_has_the_least_norm_solution(d: int, rank: int, seed: int) -> None:
    """Second moments of images that are all the same: as many directions as they have say something, and rounding says nothing."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((d, min(rank, d)))
    matrix = x @ x.T
    right = matrix @ rng.standard_normal((d, 3))
    # Just below zero, as rounding leaves it: no Cholesky decomposition.
    matrix -= 1e-15 * np.trace(matrix) / d * np.eye(d)
    found, wanted = solve(matrix, right), np.linalg.pinv(x @ x.T, rcond=1e-9) @ right
    assume(np.linalg.cond(x) < 1e3 if x.size else True)
    np.testing.assert_allclose(found, wanted, atol=1e-6 * (1 + np.abs(wanted).max(initial=0)))
