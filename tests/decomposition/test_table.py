"""The table of schemes: what is known, what is added, and the nearest name of what is not."""

from __future__ import annotations

import pytest

from enc_caffe.decomposition import chain_of, form_cost, named, rank_of, register, scheme_for, schemes
from enc_caffe.decomposition.spatial import Spatial
from enc_caffe.errors import PlanError, UsageError
from enc_caffe.form import WHOLE, Form, parse_form, whole_chain
from tests.decomposition.layers import conv, dense


@pytest.mark.parametrize(("typed", "meant"), [("spatail", "spatial"), ("chanel", "channel"), ("tucker", "tucker2"), ("inner_produkt", "inner_product")])  # fmt: skip
def test_the_nearest_name_is_named(typed: str, meant: str) -> None:
    with pytest.raises(PlanError, match=rf"unknown scheme '{typed}' \(did you mean {meant}\?\); known: spatial, "):
        scheme_for(typed)
    with pytest.raises(
        UsageError, match=rf"--schemes channel,{typed}: unknown scheme '{typed}' \(did you mean {meant}\?\)"
    ):
        named(["channel", typed])


def test_a_name_like_no_other_has_no_nearest() -> None:
    with pytest.raises(
        PlanError, match="unknown scheme 'qqq'; known: spatial, spatial_t, channel, inner_product, tucker2$"
    ):
        scheme_for("qqq")


def test_whole_is_the_layer_itself() -> None:
    layer = conv(8, 6, (3, 3), 2, (2, 2))
    assert chain_of(layer, WHOLE) == whole_chain(layer)
    assert form_cost(layer, WHOLE) == (8 * 3 * 9 * 5 * 4, 8 * 3 * 9)
    assert form_cost(dense(5, 7), WHOLE) == (35, 35)


def test_the_rank_of_a_form() -> None:
    assert rank_of(Form("channel", (3,))) == 3 and rank_of(WHOLE) is None and rank_of(Form("tucker2", (2, 3))) is None


def test_a_scheme_is_registered_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Spatial):
        name = "mine"

    before = dict(schemes())
    try:
        made = register(Mine())
        assert scheme_for("mine") is made and list(schemes())[-1] == "mine"
        assert form_cost(conv(8, 8, (3, 3)), parse_form("mine:3")) == form_cost(
            conv(8, 8, (3, 3)), parse_form("spatial:3")
        )
    finally:
        del schemes()["mine"]
    assert schemes() == before
