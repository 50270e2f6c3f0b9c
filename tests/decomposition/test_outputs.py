"""Factors weighted on the outputs' side: never worse than by the inputs alone, in the error that they minimise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.outputs import OUTPUT_RIDGE, output_roots, solve_turned, turned, weighted_error
from enc_caffe.decomposition.regression import RIDGE, Moments, group_weights, regular
from enc_caffe.form import Form
from enc_caffe.network import Convolution, InnerProduct, Layer


def layer_of(kind: str) -> Layer:
    """A small layer of a kind."""
    if kind in ("inner_product", "transposed"):
        return Layer(
            "fc", "InnerProduct", bottom_shapes=((1, 9),), top_shapes=((1, 6),),
            inner_product=InnerProduct(6, transposed=kind == "transposed"),
        )  # fmt: skip
    groups, kernel = (2, (3, 3)) if kind == "grouped" else (1, (1, 1) if kind == "1x1" else (3, 3))
    conv = Convolution(8, kernel, pad=(kernel[0] // 2,) * 2, groups=groups)
    return Layer("c", "Convolution", bottom_shapes=((1, 6, 5, 5),), top_shapes=((1, 8, 5, 5),), convolution=conv)


def problem_of(layer: Layer, rng: np.random.Generator, dead: int):
    """Weights, regular moments of inputs that are alike in space, and G in which some outputs do not matter."""
    shape = (8, 6 // layer.groups, *layer.kernel) if layer.convolution else (6, 9)
    weights = rng.standard_normal(shape[::-1] if layer.inner_product and layer.inner_product.transposed else shape)
    flat = group_weights(layer, weights)
    known, costs = [], []
    for w in flat:
        x = rng.standard_normal((w.shape[1], w.shape[1])) * np.linspace(0.1, 2, w.shape[1])
        known.append(Moments.of_original(x.T @ x, w))
        g = rng.standard_normal((3, len(w))) * np.geomspace(0.05, 3, len(w))
        g[:, : min(dead, len(w) - 1)] = 0.0
        costs.append(g.T @ g)
    return weights, flat, regular(layer, weights, known), np.stack(costs)


CLOSED = (("channel", "3x3"), ("channel", "1x1"), ("channel", "grouped"), ("inner_product", "inner_product"),
          ("inner_product", "transposed"))  # fmt: skip


def errors(kind: str, form: Form, seed: int, dead: int) -> tuple[list[float], list[float]]:
    """Weighted errors of every group: knowing G, and not."""
    layer = layer_of(kind)
    weights, flat, ready, costs = problem_of(layer, np.random.default_rng(seed), dead)
    roots, scheme = output_roots(costs), scheme_for(form.scheme)
    sides = (
        solve_turned(scheme, layer, weights, turned(ready, roots), roots, form),
        scheme.solve_regular(layer, weights, ready, form),
    )
    found = []
    for factors in sides:
        effective = group_weights(layer, scheme.effective(layer, form, factors).reshape(weights.shape))
        found.append([weighted_error(m.inputs, r, w, o) for m, (r, _), w, o in zip(ready, roots, flat, effective)])
    return found[0], found[1]


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(CLOSED), st.integers(1, 3), st.sampled_from((0, 2, 7)))
def test_closed_forms_are_never_worse_than_by_the_inputs_alone(
    seed: int, what: tuple[str, str], rank: int, dead: int
) -> None:
    knowing, blind = errors(what[1], Form(what[0], (rank,)), seed, dead)
    assert all(a <= b * (1 + 1e-4) + 1e-9 for a, b in zip(knowing, blind)), (knowing, blind)


@pytest.mark.parametrize("kind, form", (
    ("3x3", Form("spatial", (4,))), ("3x3", Form("spatial_t", (3,))), ("3x3", Form("tucker2", (3, 4))),
    ("3x3", Form("tucker2", (3, 8))), ("grouped", Form("spatial", (2,))),
))  # fmt: skip
def test_alternations_gain_on_the_whole(kind: str, form: Form) -> None:
    ratios = []
    for seed in range(12):
        knowing, blind = errors(kind, form, seed, 2)
        ratios.append(sum(knowing) / sum(blind))
    # A local optimum each: not always, but on the whole, and by much.
    assert np.median(ratios) < 0.9 and np.mean(np.array(ratios) < 1.0) > 0.8, ratios


@pytest.mark.parametrize("kind, form", (
    ("3x3", Form("spatial", (18,))), ("3x3", Form("channel", (8,))), ("3x3", Form("tucker2", (6, 8))), ("grouped", Form("channel", (4,))),
    ("transposed", Form("inner_product", (6,))),
))  # fmt: skip
def test_full_rank_is_exact_whatever_the_outputs_cost(kind: str, form: Form) -> None:
    layer = layer_of(kind)
    weights, _, ready, costs = problem_of(layer, np.random.default_rng(3), 3)
    roots, scheme = output_roots(costs), scheme_for(form.scheme)
    factors = solve_turned(scheme, layer, weights, turned(ready, roots), roots, form)
    np.testing.assert_allclose(scheme.effective(layer, form, factors).reshape(weights.shape), weights, atol=2e-4)


def test_outputs_that_cost_nothing_are_decomposed_by_their_power() -> None:
    layer = layer_of("3x3")
    weights, _, ready, costs = problem_of(layer, np.random.default_rng(1), 0)
    roots = output_roots(0.0 * costs)
    assert np.array_equal(roots[0][0], np.eye(8))
    scheme, form = scheme_for("channel"), Form("channel", (3,))
    plain = scheme.solve_regular(layer, weights, ready, form)
    found = solve_turned(scheme, layer, weights, turned(ready, roots), roots, form)
    for a, b in zip(found, plain):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_roots_are_those_of_the_regular_matrix() -> None:
    g = np.diag([4.0, 0.0, 2.0])[None]
    ((root, inverse),) = output_roots(g)
    np.testing.assert_allclose(root @ root, np.diag([2.0, 0.0, 1.0]) + OUTPUT_RIDGE * np.eye(3), atol=1e-12)
    np.testing.assert_allclose(root @ inverse, np.eye(3), atol=1e-12)
    assert RIDGE < OUTPUT_RIDGE
