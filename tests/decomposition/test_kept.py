"""Factors of many forms: the same as of each alone, and one decomposition for a layer and scheme as far as memory allows."""

from __future__ import annotations

from dataclasses import replace
from typing import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import KeptFactors, scheme_for
from enc_caffe.decomposition.scheme import Factoriser
from enc_caffe.errors import PlanError
from enc_caffe.form import Form
from enc_caffe.network import Layer
from tests.decomposition.layers import conv, random_weights

LAYERS = [replace(conv(6, 8, (3, 3)), name="first"), replace(conv(8, 4, (3, 3)), name="second")]
#: Bytes that the decomposition of the first of them counts as, and of the second.
FIRST, SECOND = 2 * 4 * 6 * 8 * 9, 2 * 4 * 8 * 4 * 9


def weights_of(layer: Layer) -> np.ndarray:
    """Weights as a caffemodel has them."""
    return random_weights(layer, LAYERS.index(layer)).astype(np.float32)


class Counted:
    """Weights of a layer, and how often they were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, layer: Layer) -> Sequence[np.ndarray]:
        self.asked.append(layer.name)
        return [weights_of(layer), np.zeros(layer.out_channels, np.float32)]


def forms_of(layer: Layer) -> st.SearchStrategy[Form]:
    """A form of a few schemes."""
    return st.sampled_from(["spatial", "spatial_t", "channel"]).flatmap(
        lambda name: st.integers(1, scheme_for(name).max_rank(layer)).map(lambda r: Form(name, (r,)))
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(LAYERS).flatmap(lambda x: st.tuples(st.just(x), forms_of(x))), max_size=12))
def test_factors_are_those_of_each_form_alone_and_weights_are_asked_for_once(pairs: list[tuple[Layer, Form]]) -> None:
    weights = Counted()
    plain = KeptFactors(weights)
    for layer, form in pairs:
        alone = scheme_for(form.scheme).factorise(layer, weights_of(layer), form)
        for found, own in zip(plain(layer, form), alone, strict=True):
            np.testing.assert_array_equal(found, own)
    assert len(weights.asked) == len({(layer.name, form.scheme) for layer, form in pairs})


@pytest.mark.parametrize(
    "memory, asked",
    [(0, "1212"), (SECOND, "121"), (FIRST, "122"), (FIRST + SECOND - 1, "122"), (FIRST + SECOND, "12")],
)
def test_what_does_not_fit_is_computed_each_time(memory: int, asked: str) -> None:
    weights = Counted()
    plain = KeptFactors(weights, memory)
    for rank in (2, 3):
        for layer in LAYERS:
            found = plain(layer, Form("spatial", (rank,)))
            assert found[0].shape[0] == rank
    assert weights.asked == [LAYERS[int(x) - 1].name for x in asked]


def test_a_decomposition_is_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme, made = scheme_for("channel"), []
    original = scheme.factoriser

    def counted(layer: Layer, weights: np.ndarray) -> Factoriser:
        made.append(layer.name)
        return original(layer, weights)

    monkeypatch.setattr(scheme, "factoriser", counted)
    plain = KeptFactors(Counted())
    for rank in (1, 2, 3):
        plain(LAYERS[0], Form("channel", (rank,)))
    assert made == [LAYERS[0].name]


def test_a_rank_out_of_range_is_refused_before_weights_are_read() -> None:
    weights = Counted()
    with pytest.raises(PlanError, match="rank 99 is outside 1 to"):
        KeptFactors(weights)(LAYERS[0], Form("spatial", (99,)))
    assert weights.asked == []


def test_layers_of_one_name_are_told_apart() -> None:
    whole, halves = (replace(conv(8, inputs, (3, 3), groups), name="same") for inputs, groups in ((4, 1), (8, 2)))
    weights, form = random_weights(whole, 0).astype(np.float32), Form("spatial", (2,))
    assert random_weights(halves, 0).shape == weights.shape
    plain = KeptFactors(lambda _: [weights])
    for layer in (whole, halves, whole):
        for found, own in zip(plain(layer, form), scheme_for("spatial").factorise(layer, weights, form), strict=True):
            np.testing.assert_array_equal(found, own)


@pytest.mark.parametrize("form", [Form("spatial", (2,)), Form("channel", (2,)), Form("tucker2", (2, 2))], ids=str)
def test_what_becomes_of_factors_does_not_matter_to_the_next(form: Form) -> None:
    plain = KeptFactors(Counted())
    first = plain(LAYERS[0], form)
    before = [np.array(x) for x in first]
    for x in first:
        x[...] = 0
    for found, own in zip(plain(LAYERS[0], form), before, strict=True):
        np.testing.assert_array_equal(found, own)
