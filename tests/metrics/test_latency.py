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


def measured() -> LatencyTable:
    """Two layers as a runtime has them: 500 and 300 ns whole, of a network of 1000."""
    return LatencyTable("net", (
        LayerLatency("a", 12, 500, (4, 8, 12), (100, 90, 600), "spatial", (), (5, 1, 1, 6)),
        LayerLatency("b", 12, 300, (4, 8), (200, 250), "channel", (), (3, 2, 2)),
    ), {"runtime": "mnn", "version": "1", "machine": "m", "threads": 1, "batch": 1, "network_ns": 1000})  # fmt: skip


def test_times_of_a_runtime_are_as_measured(tmp_path: Path) -> None:
    table = measured()
    write_latency(tmp_path / "l.json", table)
    assert read_latency(tmp_path / "l.json") == table and table.as_measured
    a, b = (replace(conv(12, 12, (3, 3)), name=n) for n in "ab")
    # A time that falls as the rank rises is a step, not noise.
    assert [table(a, Form("spatial", (r,))) for r in (4, 8, 10)] == [100, 90, 345]
    assert (
        table.sampled("a", "spatial") == (4, 8, 12)
        and table.sampled("a", "channel") == ()
        and table.sampled("z", "spatial") == ()
    )
    # What the network takes beside its layers, and a plan: 200 + 90 + 300.
    assert table.rest("ab") == 200 and table.rest("a") == 500
    assert table.predicted([a, b], {"a": Form("spatial", (8,))}) == 590
    # Twice the time of a scheme, and twice again.
    twice = table.corrected({"spatial": 2.0}).corrected({"spatial": 2.0, "channel": 0.5})
    assert twice.about["corrected"] == {"spatial": 4.0, "channel": 0.5}
    assert (
        twice.layers[0].nanoseconds == (400, 360, 2400)
        and twice.layers[0].whole == 500
        and twice.layers[0].intervals == (5, 4, 4, 24)
    )
    assert twice.predicted([a, b], {"a": Form("spatial", (8,)), "b": Form("channel", (4,))}) == 200 + 360 + 100
    # Where forms cannot be measured again, uncertain ones count as slower; what was measured again does not.
    again = replace(table.layers[0], again=((Form("spatial", (12,)), 500, 7),))
    cautious = replace(table, layers=(again, table.layers[1])).cautious()
    assert [cautious(a, Form("spatial", (r,))) for r in (4, 8, 12)] == [100, 90, 500] and cautious.layers[
        1
    ].nanoseconds == (201, 251)
    assert cautious.layers[0].nanoseconds == (100, 90, 603) and cautious.layers[0].whole == 500
    # Without the whole network's time its layers are all there is.
    alone = replace(table, about={})
    assert alone.rest("ab") == 0 and alone.predicted([a, b], {}) == 800


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"plus_minus_ns": [1, 2]}, "layer 'a': 2 values in 'plus_minus_ns'; of the layer whole and 3 ranks there must be 4"),
     ({"plus_minus_ns": [1, 2, 3, -1]}, "wrong type"), ({"corrected": {"spatial": 0}}, "field 'corrected' must give a number above 0"),
     ({"corrected": [2]}, "field 'corrected' must give"), ({"placement": "zzz"}, "field 'placement' is 'zzz'; exact or published is needed"),
     ({"threads": "a"}, "field 'threads' is 'a'; a whole number is needed"), ({"batch": 0}, "field 'batch' is 0; a whole number of 1 or more"),
     ({"scaled": "abc"}, "field 'scaled' is 'abc'"), ({"anchors": 5}, "field 'anchors' is '5'"), ({"runtime": 3}, "field 'runtime' is '3'")],
)  # fmt: skip
def test_bad_fields_of_a_runtimes_table(tmp_path: Path, changes: dict, message: str) -> None:
    layer = {"name": "a", "max_rank": 10, "whole_ns": 500, "ranks": [1, 5, 10], "ns": [1, 2, 3]}
    data = {"format": "enc-caffe-latency/1", "layers": [layer]}
    (layer if "plus_minus_ns" in changes else data).update(changes)
    (tmp_path / "l.json").write_text(json.dumps(data))
    with pytest.raises(MetricsError, match=message):
        read_latency(tmp_path / "l.json")


def test_a_layer_that_stands_there_twice(tmp_path: Path) -> None:
    layer = {"name": "a", "max_rank": 10, "whole_ns": 500, "ranks": [1, 5, 10], "ns": [1, 2, 3], "scheme": "spatial"}
    data = {"format": "enc-caffe-latency/1", "layers": [layer, {**layer, "scheme": "channel"}]}
    (tmp_path / "l.json").write_text(json.dumps(data))
    assert len(read_latency(tmp_path / "l.json").layers) == 2
    data["layers"].append({**layer, "whole_ns": 400})
    (tmp_path / "l.json").write_text(json.dumps(data))
    with pytest.raises(MetricsError, match="layer 'a': stands there twice in scheme 'spatial'"):
        read_latency(tmp_path / "l.json")
