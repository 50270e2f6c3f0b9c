"""Latency by rank, measured in real Caffe, and a search within it."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.decomposition import form_cost
from enc_caffe.measuring.latency import sampled_forms
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.latency import read_latency
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.plan import read_plan
from tests.decomposition.layers import conv
from tests.search.tables import entry

NET = """
name: "three"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 32 dim: 32 dim: 32 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "c" type: "Convolution" bottom: "b" top: "c"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
"""


def test_sampled_ranks_go_from_a_tenth_to_all_by_the_steps_of_runtimes() -> None:
    # r_max of 64 channels is 96, of 2 by 1 it is 2; evenly they are 10, 39, 67, 96: of 10 the next multiple of 4 that is no less.
    assert [str(f) for f in sampled_forms(conv(64, 64, (3, 3)), "spatial", 4)] == [
        "spatial:12", "spatial:40", "spatial:64", "spatial:96",
    ]  # fmt: skip
    assert [str(f) for f in sampled_forms(conv(2, 1, (3, 3)), "spatial")] == ["spatial:1", "spatial:2"]
    # Of two ranks, evenly along the ladder: rising MACs, the last the dearest.
    layer = conv(24, 16, (3, 3))
    forms = sampled_forms(layer, "tucker2", 4)
    costs = [form_cost(layer, f)[0] for f in forms]
    assert len(forms) == 4 and costs == sorted(costs) and {f.scheme for f in forms} == {"tucker2"}
    assert all(r % 4 == 0 for f in forms for r in f.ranks)


@pytest.mark.caffe
def test_measured_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    out = tmp_path / "latency.json"
    assert main(["latency", "--model", str(tmp_path / "net.prototxt"), "--ranks", "4", "--out", str(out)]) == 0
    assert "whole" in capsys.readouterr().out
    table = read_latency(out)
    assert [x.name for x in table.layers] == ["a", "b", "c"] and table.about["threads"] == 1
    # Layers of equal geometry are timed once.
    assert table.layers[1].nanoseconds == table.layers[2].nanoseconds
    for layer in table.layers[1:]:
        assert layer.ranks == (8, 20, 32, 48) and min(layer.nanoseconds) > 1000
        # Ten times the rank takes longer, on however busy a machine: each is the least of several passes.
        assert layer.nanoseconds[-1] > layer.nanoseconds[0]
    write_metrics(tmp_path / "m.json", MetricsTable("three", "", (entry("b", 32, 32, 0), entry("c", 32, 32, 1)), 1.0))
    status = main(
        ["search", str(tmp_path / "m.json"), "--method", "model", "--first_layer", "search", "--latency", str(out),
         "--target_latency", "0.99", "--target_flops", "0.9", "--out", str(tmp_path / "r.json")]
    )  # fmt: skip
    assert status == 0
    about = read_plan(tmp_path / "r.json").about
    assert about.latency_ratio <= 0.99 and about.flops_ratio <= 0.9 and about.proven_optimal
