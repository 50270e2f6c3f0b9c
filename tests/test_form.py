"""Forms as text, and chains counted by hand."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Chain, Form, Stage, parse_form, positions, whole_chain
from enc_caffe.network import Convolution, InnerProduct, Layer
from tests.decomposition.layers import conv, dense


@pytest.mark.parametrize(
    ("text", "form"),
    [("whole", WHOLE), ("spatial:12", Form("spatial", (12,))), ("tucker2:8x12", Form("tucker2", (8, 12))),
     ("spatial_t:1", Form("spatial_t", (1,))), ("inner_product:999999999", Form("inner_product", (999_999_999,)))],
)  # fmt: skip
def test_text_of_forms(text: str, form: Form) -> None:
    assert str(form) == text and parse_form(text) == form


@given(st.from_regex(r"[a-z][a-z0-9_]*", fullmatch=True), st.lists(st.integers(0, 999_999_999), min_size=1, max_size=5))
def test_every_form_is_read_as_it_is_written(scheme: str, ranks: list[int]) -> None:
    if scheme != "whole":
        form = Form(scheme, tuple(ranks))
        assert parse_form(str(form)) == form and hash(parse_form(str(form))) == hash(form)


@pytest.mark.parametrize(
    "text",
    ["", "spatial", "spatial:", ":3", "spatial:3x", "spatial:x3", "spatial:-3", "spatial:3.5", "Spatial:3", "spatial:3 ", " spatial:3",
     "spatial:3\n", "spatial:3:4", "whole:3", "whole:", "spatial:1234567890", "spatial:³", 3, None, ["spatial:3"], True, 2.5],
)  # fmt: skip
def test_what_is_no_form_is_refused_in_one_line(text: object) -> None:
    words = "ranks.json: the form of layer 'c' is "
    with pytest.raises(PlanError, match=re.escape(words)) as caught:
        parse_form(text, "ranks.json: the form of layer 'c'")
    assert "a form such as spatial:12, tucker2:8x12 or whole is needed" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_form_inside_is_quoted_whole() -> None:
    for text in ("prune:8+", "prune:8+spatial", "prune:8+spatial:2x"):
        with pytest.raises(PlanError, match=re.escape(f"layer 'c' is {text!r}; behind '+' a form such as spatial:12")):
            parse_form(text, "the form of layer 'c'")


def test_a_long_text_is_cut() -> None:
    with pytest.raises(PlanError) as caught:
        parse_form("x" * 10_000)
    assert len(str(caught.value)) < 250


def test_forms_are_ordered_by_scheme_and_ranks() -> None:
    forms = [parse_form(t) for t in ("tucker2:2x3", "spatial:10", "whole", "spatial:9", "tucker2:2x2")]
    assert [str(f) for f in sorted(forms)] == ["spatial:9", "spatial:10", "tucker2:2x2", "tucker2:2x3", "whole"]


def test_the_whole_layer_by_hand() -> None:
    layer = conv(12, 8, (3, 5), 4, (2, 1), (1, 2), size=(9, 10))
    chain = whole_chain(layer)
    # (9 + 2 - 3) // 2 + 1 = 5 rows, 10 columns; each output sees 2 channels.
    assert chain.outputs(layer) == [layer.output] == [(5, 10)]
    assert (
        chain.parameters(layer) == 12 * 2 * 15 and chain.macs(layer) == chain.macs(layer, "paper") == 12 * 2 * 15 * 50
    )
    assert [(s.suffix, s.num_output, i) for s, i in chain.inputs(layer)] == [("", 12, 8)]


def test_a_chain_of_three_layers_by_hand() -> None:
    layer = conv(12, 8, (3, 3), stride=(2, 2), size=(9, 11))
    chain = Chain((
        Stage("_a", Convolution(4, (1, 1), bias=False)), Stage("_b", Convolution(6, (3, 3), (2, 2), (1, 1), groups=2, bias=False)),
        Stage("_c", Convolution(12, (1, 1))),
    ))  # fmt: skip
    assert [i for _, i in chain.inputs(layer)] == [8, 4, 6]
    assert chain.outputs(layer) == [(9, 11), (5, 6), (5, 6)]
    weights = (8 * 4, 6 * 2 * 9, 6 * 12)
    assert chain.parameters(layer) == sum(weights)
    assert chain.macs(layer) == weights[0] * 99 + (weights[1] + weights[2]) * 30
    assert chain.macs(layer, "paper") == sum(weights) * 30


def test_fully_connected_chains_by_hand() -> None:
    layer = dense(10, 30)
    chain = Chain((Stage("_v", inner_product=InnerProduct(4, bias=False)), Stage("_h", inner_product=InnerProduct(10))))
    assert chain.parameters(layer) == chain.macs(layer) == chain.macs(layer, "paper") == 30 * 4 + 4 * 10
    # Over a later axis the weights are applied once for each place of the axes before it, but for that of the images.
    later = Layer(
        "f", "InnerProduct", bottom_shapes=((2, 5, 6),), top_shapes=((2, 5, 10),), inner_product=InnerProduct(10)
    )
    assert (
        positions(later) == 5 and whole_chain(later).parameters(later) == 60 and whole_chain(later).macs(later) == 300
    )
    assert chain.macs(later) == (6 * 4 + 4 * 10) * 5
