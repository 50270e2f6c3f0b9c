"""Reading folders of results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.errors import UsageError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.pipeline.reporting import EXPERIMENT, TIMES, read_run
from enc_caffe.plan import write_plan
from enc_caffe.search.options import SearchOptions


@pytest.fixture
def compressed(shared_data: Path, tmp_path: Path) -> Path:
    """A folder as ``compress`` leaves it, without the network's own files."""
    folder = tmp_path / "<b>net"
    folder.mkdir()
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    write_metrics(folder / "metrics.json", table)
    options = SearchOptions("model", "measured", 0.25, first_layer="half")
    write_plan(folder / "ranks.json", search_plan(table, options).plan)
    write_json(folder / "evaluation.json", {
        "format": "enc-caffe-compression/1", "images": 100, "lmdb": "x/val_lmdb", "a later key": 1,
        "original": {"correct": {"1": 70, "5": 90}, "cross_entropy": 1.0}, "parameters": 0.3,
        "compressed": {"correct": {"1": 60, "5": 85}, "cross_entropy": 2.0, "recalibrated": True},
        "macs": {"paper, decomposable": 0.25, "exact, decomposable": 0.26},
    })  # fmt: skip
    return folder


def test_a_compression_with_keys_of_a_later_version(compressed: Path) -> None:
    run = read_run(compressed)
    original, network = run.networks
    assert run.network == "VGG-16" and original.score is not None and original.score.percent(5) == 90
    assert (
        network.score is not None and network.score.percent() == 60 and network.macs == {"paper": 0.25, "exact": 0.26}
    )
    layers = {layer.name: layer for layer in network.layers}
    first, last = layers["conv1_1"], layers["conv5_3"]
    # Half of 19 is fixed, so it has no bounds; by hand: 10 x 3x3x3 and 64 x 10 weights, each applied at 224 x 224 places.
    assert (first.rank, first.before, first.after) == (10, "3→64, 3x3", "3→10, 3x3 + 10→64, 1x1")
    assert first.parameters == (1728, 910) and first.macs == (1728 * 224**2, 910 * 224**2) and first.lowest is None
    assert last.lowest is not None and last.highest is not None and last.lowest < last.highest
    assert len(run.curves) == 13 and run.curves[5].measured is not None


def test_the_command_writes_a_report_and_refuses_to_replace_one(
    compressed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(compressed), "--out", str(tmp_path / "r")]) == 0
    # Accuracy over MACs, ranks, metrics.
    assert "and 3 figures" in capsys.readouterr().out
    text = (tmp_path / "r" / "report.html").read_text()
    assert "<b>net" not in text and "VGG-16: ENC-Model" in text and "11.3" in text
    assert main(["report", str(compressed), "--out", str(tmp_path / "r")]) == 1
    assert "exists already; --force" in capsys.readouterr().err
    assert main(["report", str(compressed), "--out", str(tmp_path / "r"), "--force"]) == 0
    assert main(["report", str(compressed), str(compressed)]) == 2
    assert "--out" in capsys.readouterr().err


def test_times_and_a_log_of_training(tmp_path: Path) -> None:
    times, trained = tmp_path / "fig7", tmp_path / "trained"
    times.mkdir(), trained.mkdir()
    write_json(
        times / "times.json",
        {"format": TIMES, "times": [{"network": "N", "macs": 0.5, "convolutions": 0.6, "whole": 0.7}]},
    )
    assert read_run(times).times[0].convolutions == 0.6
    line = "I1121 02:00:00.0 7 solver.cpp:239] Iteration {} (9 iter/s, 0.2s/20 iters), loss = {}\n"
    (trained / "caffe_train.log").write_text(
        line.format(0, 2.0) + line.format(20, 1.5) + line.format(20, 1.25) + line.format(40, 1)
    )
    training = read_run(trained).networks[0].training
    # Iteration 20 was done twice, since the run was interrupted: the second time counts.
    assert training is not None and training.losses == [(0, 2.0), (20, 1.25), (40, 1.0)]


def test_folders_that_hold_nothing_or_damaged_records(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(UsageError, match="holds none of experiment.json"):
        read_run(tmp_path)
    (tmp_path / "experiment.json").write_text(json.dumps({"format": EXPERIMENT, "networks": [{"placement": "x"}]}))
    with pytest.raises(UsageError, match="an entry of 'networks' is damaged"):
        read_run(tmp_path)
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(UsageError, match="no valid JSON"):
        read_run(tmp_path)
