"""Latency tables as files and as curves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from enc_caffe.decomposition import form_cost
from enc_caffe.errors import MetricsError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.latency import LatencyTable, LayerLatency, read_latency, write_latency
from tests.decomposition.layers import conv


def test_written_and_read_again(tmp_path: Path) -> None:
    table = LatencyTable("net", (LayerLatency("a", 10, 500, (1, 5, 10), (100, 300, 800)),), {"threads": 1})
    write_latency(tmp_path / "l.json", table)
    again = read_latency(tmp_path / "l.json")
    assert again == table
    assert again.layers[0].curve().tolist() == [100, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800]
    layer = replace(conv(10, 10, (3, 3)), name="a")
    assert [again.time_of(layer, Form("spatial", (r,))) for r in (1, 2, 10)] == [100, 150, 800]
    assert again.time_of(layer, WHOLE) == 500


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"ns": [1, 2]}, "layer 'a': 3 ranks, but 2 ns"), ({"ranks": [5, 1, 10]}, "layer 'a': field 'ranks' must increase"),
     ({"ns": [1, 0, 2]}, "must be above 0"), ({"whole_ns": "x"}, "layer 'a': a field has the wrong type"),
     ({"ranks": [1, 5, 11]}, "within 1 to max_rank 10"), ({"max_rank": None}, "wrong type")],
)  # fmt: skip
def test_bad_files_name_layer_and_field(tmp_path: Path, changes: dict, message: str) -> None:
    layer = {"name": "a", "max_rank": 10, "whole_ns": 500, "ranks": [1, 5, 10], "ns": [1, 2, 3], **changes}
    (tmp_path / "l.json").write_text(json.dumps({"format": "enc-caffe-latency/1", "layers": [layer]}))
    with pytest.raises(MetricsError, match=message):
        read_latency(tmp_path / "l.json")
    del layer["whole_ns"]
    (tmp_path / "l.json").write_text(json.dumps({"format": "enc-caffe-latency/1", "layers": [layer]}))
    with pytest.raises(MetricsError, match="layer 'a'"):
        read_latency(tmp_path / "l.json")


def test_a_time_that_falls_as_the_rank_rises_is_the_larger_one() -> None:
    # Noise, or a kernel that likes the larger size: a budget must not be exceeded where the true time is the larger one.
    entry = LayerLatency("a", 10, 500, (1, 4, 7, 10), (100, 400, 250, 300))
    curve = entry.curve().tolist()
    assert curve == [100, 100, 200, 300, 400, 400, 400, 400, 400, 400, 400]
    table = LatencyTable("net", (entry,), {})
    assert table.time_of(replace(conv(10, 10, (3, 3)), name="a"), Form("spatial", (8,))) == 400


def test_times_of_schemes_and_of_forms_of_two_ranks(tmp_path: Path) -> None:
    layer = replace(conv(10, 8, (3, 3)), name="a")
    forms = (Form("tucker2", (1, 1)), Form("tucker2", (4, 5)))
    costs = tuple(form_cost(layer, f)[0] for f in forms)
    table = LatencyTable("net", (
        LayerLatency("a", 10, 900, (1, 10), (100, 190), "spatial"), LayerLatency("a", 5, 900, (1, 5), (200, 280), "channel"),
        LayerLatency("a", 0, 900, costs, (50, 450), "tucker2", forms),
    ), {})  # fmt: skip
    write_latency(tmp_path / "l.json", table)
    again = read_latency(tmp_path / "l.json")
    assert again == table
    assert again.time_of(layer, Form("spatial", (5,))) == 140 and again.time_of(layer, Form("channel", (5,))) == 280
    assert again.time_of(layer, forms[1]) == 450 and again.time_of(layer, WHOLE) == 900
    # Between two forms it follows their MACs.
    part = (form_cost(layer, Form("tucker2", (2, 3)))[0] - costs[0]) / (costs[1] - costs[0])
    assert again.time_of(layer, Form("tucker2", (2, 3))) == round(50 + 400 * part)
    with pytest.raises(
        MetricsError, match="has no times of 'spatial_t:3', only of spatial, channel, tucker2; measure them with"
    ):
        again.time_of(layer, Form("spatial_t", (3,)))
    with pytest.raises(MetricsError, match="layer 'a': the latency table ends at rank 5, but r_max is at least 6"):
        again.time_of(layer, Form("channel", (6,)))
    old = LatencyTable("net", (LayerLatency("a", 10, 900, (1, 10), (100, 190)),), {})
    with pytest.raises(MetricsError, match="has no times of 'tucker2:4x5', only of one rank"):
        old.time_of(layer, forms[1])
    with pytest.raises(
        MetricsError, match="layer 'c': the latency table has no such layer; measure it with enc-caffe latency"
    ):
        old.time_of(conv(4, 4, (3, 3)), WHOLE)
