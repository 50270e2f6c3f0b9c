"""Pruning as a form: which channels stay, the refit, and forms inside, against computations by definition."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import check_form, check_worth, form_cost, pruning, schemes
from enc_caffe.decomposition.prune import channels_of, kept_channels, narrowed
from enc_caffe.decomposition.pruning import columns_of, elimination_order, lasso_choice, magnitude_order, responses
from enc_caffe.decomposition.regression import Moments, group_weights, output_power, regular
from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Form, parse_form
from tests.decomposition.layers import conv, dense, random_weights
from tests.decomposition.test_scheme import moments_of

RULES = ("prune", "prune_lasso", "prune_magnitude")


def known(layer, seed: int):  # noqa: ANN001, ANN201
    weights = random_weights(layer, seed)
    flat = group_weights(layer, weights)
    return weights, flat[0], Moments.of_original(moments_of(layer, seed, 4000, 0)[0], flat[0])


def test_these_are_the_rules_and_no_policy_has_them() -> None:
    assert tuple(pruning()) == RULES and not set(RULES) & set(schemes())


def test_a_form_inside_is_written_and_read() -> None:
    form = Form("prune", (8,), (Form("tucker2", (4, 6)),))
    assert str(form) == "prune:8+tucker2:4x6" and parse_form("prune:8+tucker2:4x6") == form
    for text in (
        "prune:8+",
        "prune+spatial:2",
        "prune:8+whole",
        "whole+spatial:2",
        "prune:8+spatial:2+channel:1",
        "+spatial:2",
    ):
        with pytest.raises(PlanError):
            parse_form(text)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("layer", [conv(5, 6, (3, 3)), dense(8, 4)])
def test_all_channels_are_the_layer_itself(name: str, layer) -> None:  # noqa: ANN001
    scheme = pruning()[name]
    weights, _, moments = known(layer, 3)
    form = Form(name, scheme.limits(layer))
    for factors in (scheme.factorise(layer, weights, form), scheme.solve(layer, weights, [moments], form)):
        np.testing.assert_allclose(scheme.effective(layer, form, factors).reshape(weights.shape), weights, atol=1e-5)
    assert form_cost(layer, form) == form_cost(layer, WHOLE)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(RULES), st.integers(0, 10_000), st.data())
def test_exactly_as_many_channels_stay_and_are_solved_for(name: str, seed: int, data: st.DataObject) -> None:
    layer = conv(
        data.draw(st.integers(2, 7)), data.draw(st.integers(2, 5)), data.draw(st.sampled_from([(1, 1), (3, 3), (1, 3)]))
    )
    weights, flat, moments = known(layer, seed)
    k = data.draw(st.integers(1, channels_of(layer)))
    form = Form(name, (k,))
    scheme = pruning()[name]
    (factor,) = scheme.solve(layer, weights, [moments], form)
    used = np.flatnonzero(np.any(factor != 0, axis=(0, 2, 3)))
    assert len(used) == k and list(kept_channels(layer, factor, k)) == list(used)
    # No other weights on these channels lose less: the gradient is 0 there.
    ready = regular(layer, weights, [moments])[0]
    columns = columns_of(used, flat.shape[1] // channels_of(layer))
    new = scheme.effective(layer, form, [factor]).reshape(flat.shape)
    slope = (ready.inputs @ new.T - ready.targets)[columns]
    assert np.abs(slope).max() <= 1e-4 * np.abs(ready.targets).max()
    assert form_cost(layer, form)[1] == k * flat.shape[1] // channels_of(layer) * layer.out_channels


def lost(moments: Moments, flat: np.ndarray, kept: tuple[int, ...], size: int) -> float:
    columns = columns_of(np.array(kept), size)
    new = np.zeros_like(flat)
    new[:, columns] = np.linalg.solve(moments.inputs[np.ix_(columns, columns)], moments.targets[columns]).T
    return output_power(moments.inputs, flat - new)


def test_elimination_takes_the_channel_that_costs_least_each_time() -> None:
    layer = conv(4, 6, (3, 3))
    _, flat, moments = known(layer, 5)
    order = elimination_order(moments, 6)
    left = tuple(range(6))
    for gone in order[:0:-1]:
        rivals = {c: lost(moments, flat, tuple(x for x in left if x != c), 9) for c in left}
        assert min(rivals, key=rivals.__getitem__) == gone
        left = tuple(x for x in left if x != gone)


def test_elimination_is_near_the_best_of_all_choices_and_better_than_the_others_on_average() -> None:
    parts: dict[str, list[float]] = {name: [] for name in RULES}
    for seed in range(8):
        layer = conv(4, 7, (3, 3))
        weights, flat, moments = known(layer, seed)
        best = min(lost(moments, flat, kept, 9) for kept in itertools.combinations(range(7), 3))
        for name in RULES:
            form = Form(name, (3,))
            new = pruning()[name].effective(layer, form, pruning()[name].solve(layer, weights, [moments], form))
            parts[name].append(output_power(moments.inputs, flat - new.reshape(flat.shape)) / best)
    means = {name: float(np.mean(v)) for name, v in parts.items()}
    assert min(map(min, parts.values())) > 0.999 and max(parts["prune"]) < 1.1
    assert means["prune"] <= means["prune_lasso"] <= means["prune_magnitude"]


def test_lasso_leaves_the_number_asked_for_whatever_the_responses() -> None:
    rng = np.random.default_rng(0)
    for seed in range(15):
        number = int(rng.integers(2, 14))
        mixing = rng.standard_normal((number, int(rng.integers(1, 30))))
        gram = mixing @ mixing.T
        if seed % 3 == 0:
            # Dead channels, and two that are the same.
            gram[: number // 2] = gram[:, : number // 2] = 0.0
            gram[-1], gram[:, -1] = gram[-2], gram[:, -2]
        for k in range(1, number + 1):
            chosen = lasso_choice(gram, gram.sum(axis=1), k)
            assert len(chosen) == k and len(set(chosen.tolist())) == k and list(chosen) == sorted(chosen)


def test_lasso_is_at_its_optimum() -> None:
    from enc_caffe.decomposition.pruning import lasso

    layer = conv(5, 6, (3, 3))
    _, flat, moments = known(layer, 1)
    gram, along = responses(moments, flat, 6)
    penalty = 0.3 * float(np.abs(along).max())
    factors = lasso(gram, along, penalty, np.ones(6))
    slope = along - gram @ factors
    # Zero: the slope is within the penalty. Else it is the penalty's.
    assert np.all(np.abs(slope) <= penalty * (1 + 1e-6))
    np.testing.assert_allclose(slope[factors != 0], penalty * np.sign(factors[factors != 0]), rtol=1e-5)
    assert 0 < np.count_nonzero(factors) < 6


@pytest.mark.parametrize("name", ["prune", "prune_lasso"])
def test_dead_channels_go_first_and_cost_nothing(name: str) -> None:
    layer = conv(5, 6, (3, 3))
    weights, flat, _ = known(layer, 2)
    a = moments_of(layer, 2, 4000, 0)[0].reshape(6, 9, 6, 9)
    a[[1, 4]] = 0.0
    a[:, :, [1, 4]] = 0.0
    moments = Moments.of_original(a.reshape(54, 54), flat)
    factors = pruning()[name].solve(layer, weights, [moments], Form(name, (4,)))
    assert list(kept_channels(layer, factors[0], 4)) == [0, 2, 3, 5]
    new = pruning()[name].effective(layer, Form(name, (4,)), factors).reshape(flat.shape)
    assert output_power(moments.inputs, flat - new) < 1e-6 * output_power(moments.inputs, flat)


def test_magnitude_is_the_sum_of_absolute_weights() -> None:
    weights = np.array([[1.0, -1.0, 5.0, 0.0, -3.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]])
    assert list(magnitude_order(weights, 3)) == [2, 1, 0]


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(["spatial", "channel", "tucker2"]), st.integers(0, 10_000), st.data())
def test_a_form_inside_is_that_of_what_is_left(inside: str, seed: int, data: st.DataObject) -> None:
    layer = conv(6, 5, (3, 3))
    weights, flat, moments = known(layer, seed)
    k = data.draw(st.integers(2, 5))
    small = narrowed(layer, k)
    own = Form(inside, tuple(data.draw(st.integers(1, n)) for n in schemes()[inside].limits(small)))
    form, scheme = Form("prune", (k,), (own,)), pruning()["prune"]
    check_form(layer, form)
    factors = scheme.solve(layer, weights, [moments], form)
    kept = kept_channels(layer, factors[0], k)
    narrow = [factors[0][:, kept], *factors[1:]]
    assert form_cost(layer, form) == form_cost(small, own)
    assert sum(f.size for f in narrow) == form_cost(layer, form)[1]
    wanted = np.zeros((6, 5, 3, 3))
    wanted[:, kept] = schemes()[inside].effective(small, own, narrow).reshape(6, k, 3, 3)
    np.testing.assert_allclose(scheme.effective(layer, form, factors).reshape(6, 5, 3, 3), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "form", "words"),
    [
        (conv(4, 4, (3, 3)), "prune:5", "rank 5 is outside 1 to 4"),
        (conv(4, 4, (3, 3)), "prune:2+prune:1", "takes channels out twice"),
        (conv(4, 4, (3, 3)), "prune:1+spatial:4", "rank 4 is outside 1 to 3"),
        (conv(4, 4, (3, 3), 2), "prune:2", "2 groups"),
        (conv(4, 4, (3, 3), 4), "prune:2", "depthwise convolution"),
        (dense(4, 4, True), "prune:2", "its weights are transposed"),
        (conv(4, 1, (3, 3)), "prune:1", "it reads one channel"),
    ],
)  # fmt: skip
def test_a_form_that_a_layer_cannot_take_says_why(layer, form: str, words: str) -> None:  # noqa: ANN001
    with pytest.raises(PlanError, match=words):
        check_form(layer, parse_form(form))


def test_a_form_inside_must_be_worth_it() -> None:
    with pytest.raises(PlanError, match="1 to r_max = "):
        check_worth(conv(8, 8, (3, 3)), parse_form("prune:4+spatial:12"))


def test_numbers_of_channels_in_multiples() -> None:
    layer, scheme = conv(20, 48, (3, 3)), pruning()["prune"]
    assert [f.ranks[0] for f in scheme.stepped(layer, (), 8)] == [8, 16, 24, 32, 40]
    # As many as the layer makes, or all that it reads inside of fewer, are no multiples.
    assert not scheme.fits_step(layer, Form("prune", (20,)), 8) and scheme.fits_step(layer, Form("prune", (40,)), 8)
    inside = Form("prune", (40,), (Form("tucker2", (40, 20)),))
    assert scheme.fits_step(layer, inside, 8)
    assert not scheme.fits_step(layer, replace(inside, inside=(Form("tucker2", (16, 12)),)), 8)
    assert scheme.stepped(layer, (), 64) == ()
