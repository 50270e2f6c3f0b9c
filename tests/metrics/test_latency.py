"""Latency tables as files and as curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enc_caffe.errors import MetricsError
from enc_caffe.metrics.latency import LatencyTable, LayerLatency, read_latency, write_latency


def test_written_and_read_again(tmp_path: Path) -> None:
    table = LatencyTable("net", (LayerLatency("a", 10, 500, (1, 5, 10), (100, 300, 800)),), {"threads": 1})
    write_latency(tmp_path / "l.json", table)
    again = read_latency(tmp_path / "l.json")
    assert again == table
    assert again.curves()["a"][1].tolist() == [100, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800]


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
