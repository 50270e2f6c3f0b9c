"""The contract of all schemes, as mathematics without Caffe: exact at full rank, counted from their chains, best in the data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import check_form, form_cost, schemes
from enc_caffe.decomposition.regression import Moments, group_weights, output_error
from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Form
from enc_caffe.network import Layer
from tests.decomposition.layers import (
    conv,
    dense,
    drawn_forms,
    drawn_layers,
    inputs_of,
    random_weights,
    run_chain,
    run_layer,
)

NAMES = ("spatial", "spatial_t", "channel", "inner_product", "tucker2")
KERNELS = ((1, 1), (3, 3), (5, 3), (1, 7))


def test_these_are_all_the_schemes() -> None:
    assert tuple(schemes()) == NAMES


def geometries(name: str) -> list[Layer]:
    """Every stride, dilation, number of groups, pad and kernel that the scheme takes."""
    if name == "inner_product":
        return [dense(6, 8, transposed) for transposed in (False, True)]
    found = [
        conv(8, 8, kernel, groups, (stride, stride), (pad, pad), (dilation, dilation), (11, 15))
        for stride, dilation, groups, pad, kernel in itertools.product((1, 2, 3), (1, 2), (1, 2, 4), (0, 1, 2), KERNELS)
    ]
    return [layer for layer in found if not schemes()[name].refuses(layer)]


@pytest.mark.parametrize(("name", "number"), list(zip(NAMES, (162, 162, 216, 2, 54))))
def test_full_rank_is_the_layer_itself(name: str, number: int) -> None:
    layers, scheme = geometries(name), schemes()[name]
    # 3 strides, 2 dilations, 3 pads, 3 groups and 4 kernels, less what the scheme says that it does not take.
    assert len(layers) == number
    for seed, layer in enumerate(layers):
        weights = random_weights(layer, seed)
        form = Form(name, scheme.limits(layer))
        factors, x = scheme.factorise(layer, weights, form), inputs_of(layer, seed, 1)
        made = run_chain(layer, scheme.chain(layer, form).stages, factors, x)
        wanted = run_layer(layer, weights, x)
        assert made.shape == wanted.shape
        assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max(), layer
        np.testing.assert_allclose(scheme.effective(layer, form, factors).reshape(weights.shape), weights, atol=1e-4)


@settings(max_examples=200, deadline=None)
@given(drawn_layers(), st.integers(0, 10_000), st.data())
def test_a_chain_computes_what_its_effective_weights_do(layer: Layer, seed: int, data: st.DataObject) -> None:
    assume(any(not s.refuses(layer) for s in schemes().values()))
    form = data.draw(drawn_forms(layer))
    scheme, weights = schemes()[form.scheme], random_weights(layer, seed)
    factors = scheme.factorise(layer, weights, form)
    cut = scheme.effective(layer, form, factors).reshape(weights.shape)
    np.testing.assert_array_equal(scheme.truncated(layer, weights, form), cut)
    stages = scheme.chain(layer, form).stages
    assert len(stages) == len(factors)
    x = inputs_of(layer, seed + 1)
    made, wanted = run_chain(layer, stages, factors, x), run_layer(layer, cut.astype(np.float64), x)
    assert np.abs(made - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())
    # The bias is the last stage's alone.
    biases = [bool((s.convolution or s.inner_product).bias) for s in stages]
    assert biases == [False] * (len(stages) - 1) + [layer.bias]


@settings(max_examples=200, deadline=None)
@given(drawn_layers(), st.integers(0, 10_000), st.data())
def test_costs_are_counted_from_the_arrays_and_from_what_they_compute(
    layer: Layer, seed: int, data: st.DataObject
) -> None:
    assume(any(not s.refuses(layer) for s in schemes().values()))
    form = data.draw(drawn_forms(layer))
    scheme = schemes()[form.scheme]
    factors = scheme.factorise(layer, random_weights(layer, seed), form)
    # Parameters: the elements of the arrays. MACs: every weight at each place of its own output, or of the layer's.
    x, macs, paper = inputs_of(layer, seed, 1), 0, 0
    for stage, factor in zip(scheme.chain(layer, form).stages, factors):
        x = run_chain(layer, [stage], [factor], x)
        macs += factor.size * int(np.prod(x.shape[2:]))
        paper += factor.size * int(np.prod(layer.output))
    assert form_cost(layer, form) == (macs, sum(f.size for f in factors))
    assert form_cost(layer, form, "paper") == (paper, sum(f.size for f in factors))
    weights = random_weights(layer, seed)
    assert form_cost(layer, WHOLE) == (weights.size * int(np.prod(layer.output)), weights.size)


@pytest.mark.parametrize("name", NAMES)
def test_the_ladder_rises_in_cost_and_none_of_it_costs_more_than_the_layer(name: str) -> None:
    scheme = schemes()[name]
    layer = dense(24, 40) if name == "inner_product" else conv(24, 16, (3, 3))
    spectra = [np.linalg.svd(m, compute_uv=False) for m in scheme.matrices(layer, random_weights(layer, 0))]
    forms = scheme.forms(layer, spectra)
    costs = [form_cost(layer, f)[0] for f in forms]
    assert costs == sorted(set(costs)) and len(set(forms)) == len(forms) > 5
    # r_max is rounded to an integer rank; half a unit of rank is what it may cost more.
    assert costs[-1] <= form_cost(layer, WHOLE)[0] + (costs[1] - costs[0])
    energy = scheme.energy(layer, spectra, forms)
    assert energy.shape == (len(forms),) and np.all((energy >= 0) & (energy <= 1))
    for form in forms:
        check_form(layer, form)


def moments_of(layer: Layer, seed: int, columns: int, sample: int) -> list[np.ndarray]:
    """Second moments of correlated inputs of every group; ``seed`` is the distribution, ``sample`` the draw."""
    d = layer.in_channels // layer.groups * int(np.prod(layer.kernel))
    rng, found = np.random.default_rng(seed), []
    for group in range(layer.groups):
        mixing = rng.standard_normal((d, d)) * rng.uniform(0.01, 3, d)[:, None]
        x = mixing @ np.random.default_rng((seed, sample, group)).standard_normal((d, columns))
        found.append(x @ x.T / columns)
    return found


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(NAMES), st.integers(0, 10_000), st.data())
def test_factors_by_output_error_are_no_worse_on_held_out_inputs(name: str, seed: int, data: st.DataObject) -> None:
    if name == "inner_product":
        layer = dense(data.draw(st.integers(2, 8)), data.draw(st.integers(2, 8)), data.draw(st.booleans()))
    else:
        groups = 1 if name == "tucker2" else data.draw(st.sampled_from((1, 2)))
        kernels = ((1, 3), (3, 1), (3, 3), (2, 3)) + (((1, 1),) if name == "channel" else ())
        layer = conv(
            groups * data.draw(st.integers(2, 5)), groups * data.draw(st.integers(2, 4)), data.draw(st.sampled_from(kernels)), groups
        )  # fmt: skip
    scheme, weights = schemes()[name], random_weights(layer, seed)
    form = data.draw(drawn_forms(layer, name))
    flat = group_weights(layer, weights)
    seen, held_out = (moments_of(layer, seed, 20_000, sample) for sample in (0, 1))
    factors = scheme.solve(layer, weights, [Moments.of_original(c, w) for c, w in zip(seen, flat)], form)
    assert [f.shape for f in factors] == [f.shape for f in scheme.factorise(layer, weights, form)]
    assert all(f.dtype == np.float32 for f in factors)
    lost = []
    for cut in (scheme.effective(layer, form, factors), scheme.truncated(layer, weights, form)):
        parts = group_weights(layer, np.asarray(cut).reshape(weights.shape))
        power = [float(np.sum((w @ c) * w)) for w, c in zip(flat, held_out)]
        each = [output_error(c, w, p) * e for c, w, p, e in zip(held_out, flat, parts, power)]
        lost.append(sum(each) / sum(power))
    # The ridge belongs to what is minimised, and may cost its own size.
    assert lost[0] <= lost[1] * (1 + 1e-2) + 1e-6
    if form.ranks == scheme.limits(layer):
        assert lost[0] < 1e-9


@pytest.mark.parametrize("name", NAMES)
def test_it_is_much_better_where_inputs_are_correlated(name: str) -> None:
    layer = dense(12, 24) if name == "inner_product" else conv(12, 8, (3, 3))
    scheme, better = schemes()[name], []
    for seed in range(6):
        weights = random_weights(layer, seed)
        form = Form(name, tuple(max(1, n // 2) for n in scheme.limits(layer)))
        flat = group_weights(layer, weights)
        seen, held_out = (moments_of(layer, seed, 20_000, sample) for sample in (0, 1))
        factors = scheme.solve(layer, weights, [Moments.of_original(seen[0], flat[0])], form)
        ours, plain = (
            output_error(held_out[0], flat[0], group_weights(layer, np.asarray(c).reshape(weights.shape))[0])
            for c in (scheme.effective(layer, form, factors), scheme.truncated(layer, weights, form))
        )
        better.append(ours / plain)
    assert max(better) < 0.9, better


@pytest.mark.parametrize(
    ("layer", "form", "words"),
    [
        (conv(4, 4, (3, 3)), Form("spatial", (0,)), "form 'spatial:0': rank 0 is outside 1 to 12"),
        (conv(4, 4, (3, 3)), Form("spatial", (13,)), "form 'spatial:13': rank 13 is outside 1 to 12"),
        (conv(4, 4, (3, 3)), Form("spatial", (2, 3)), "form 'spatial:2x3' has 2 rank(s); scheme 'spatial' takes 1"),
        (conv(4, 4, (3, 3)), Form("tucker2", (2,)), "form 'tucker2:2' has 1 rank(s); scheme 'tucker2' takes 2"),
        (conv(4, 4, (3, 3)), Form("tucker2", (2, 5)), "form 'tucker2:2x5': rank 5 is outside 1 to 4"),
        (conv(4, 4, (3, 3)), Form("inner_product", (2,)), "(Convolution) cannot have scheme 'inner_product': type Convolution"),
        (conv(4, 4, (1, 1)), Form("spatial", (2,)), "cannot have scheme 'spatial': 1x1 convolution; it can have: whole, channel"),
        (conv(4, 4, (1, 1)), Form("tucker2", (2, 2)), "cannot have scheme 'tucker2': 1x1 convolution; it can have: whole, channel"),
        (conv(4, 4, (3, 3), 2), Form("tucker2", (1, 1)), "2 groups; it takes convolutions of one group"),
        (conv(4, 4, (3, 3), 4), Form("channel", (1,)), "depthwise convolution; it can have: whole"),
        (dense(4, 4), Form("channel", (1,)), "type InnerProduct is no convolution; it can have: whole, inner_product"),
        (conv(4, 4, (3, 3)), Form("spatial", (2,), (Form("prune", (2,)),)), "what prunes stands first, as in prune:8+spatial:12"),
        (conv(4, 4, (3, 3)), Form("prune", (9,)), "rank 9 is outside 1 to 4; it can have: whole, spatial, spatial_t, channel, tucker2, prune"),
        (dense(4, 4), Form("tuker2", (1,)), "unknown scheme 'tuker2' (did you mean tucker2?); known: spatial"),
    ],
)  # fmt: skip
def test_a_form_that_a_layer_cannot_take_says_why_and_which_it_can(layer: Layer, form: Form, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_form(layer, form)
    assert words in str(caught.value) and "it can have: whole" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_work_is_that_of_all_forms_and_what_they_share_is_done_once() -> None:
    layer = conv(64, 32, (3, 3))
    for name, scheme in schemes().items():
        if scheme.refuses(layer):
            continue
        ladder = scheme.forms(layer, ())
        one, two = ladder[len(ladder) // 3], ladder[len(ladder) // 2]
        first, second, both = (scheme.work(layer, forms) for forms in ([one], [two], [one, two]))
        assert first > 0 and max(first, second) < both <= (first + second) * (1 + 1e-12), name
    # A closed form: nearly all is shared. An alternation: nothing is.
    channel, spatial = schemes()["channel"], schemes()["spatial"]
    forms = [Form("channel", (r,)) for r in range(1, 11)]
    assert channel.work(layer, forms) < 2 * channel.work(layer, forms[:1])
    assert channel.work(layer, forms) < 0.1 * spatial.work(layer, [Form("spatial", (r,)) for r in range(1, 11)])
    # Groups are layers of their own, side by side.
    halves = conv(64, 32, (3, 3), groups=2)
    assert channel.work(halves, forms[:1]) == pytest.approx(2 * channel.work(conv(32, 16, (3, 3)), forms[:1]))
