"""The stages from end to end on real images: scikit-learn's digits and the paper's ResNet-56."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.cli import main
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.plan import read_plan
from enc_caffe.search.options import SearchOptions
from tests.conftest import script

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = pytest.mark.caffe


def test_the_demo_compresses_and_recovers(demo) -> None:
    out, (original, half, quarter) = demo
    assert original.after > 0.97
    assert half.macs / original.macs < 0.51 and quarter.macs / original.macs < 0.27
    assert quarter.before < half.before < original.before
    assert half.after > 0.96 and quarter.after > 0.95
    # Without training, nearer to the original than ENC-Map by PCA energy.
    assert half.best > half.before and quarter.best > quarter.before and half.best > 0.97
    for folder in ("compressed-50", "compressed-25"):
        names = {p.name for p in (out / folder).iterdir()}
        assert {"train_val.prototxt", "deploy.prototxt", "solver.prototxt", "compressed.caffemodel"} <= names


def test_the_demo_repeats_no_training(demo) -> None:
    out, rows = demo
    before = (out / "finetuned-50" / "finetuned.caffemodel").stat().st_mtime_ns
    again = script("demo").run(out)
    assert (out / "finetuned-50" / "finetuned.caffemodel").stat().st_mtime_ns == before
    assert [r.after for r in again] == [r.after for r in rows]


def test_the_demo_s_best_network_is_that_of_the_command(demo, tmp_path: Path) -> None:
    out, _ = demo
    given = [f"--{flag}={out / path}" for flag, path in (
        ("model", "original/train_val.prototxt"), ("weights", "original/finetuned.caffemodel"), ("lmdb", "digits_train_lmdb"),
        ("train_lmdb", "digits_train_lmdb"), ("test_lmdb", "digits_test_lmdb"))]  # fmt: skip
    own = [
        "--quality=best",
        "--target_flops=0.5",
        "--workers=2",
        f"--store={tmp_path / 's'}",
        f"--out={tmp_path / 'best'}",
    ]
    assert main(["compress", *given, *own]) == 0
    ours, theirs = (folder / "compressed.caffemodel" for folder in (out / "best-50", tmp_path / "best"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_compress_is_what_its_parts_are(demo, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = demo
    model, weights = out / "original" / "train_val.prototxt", out / "original" / "finetuned.caffemodel"
    lmdb = out / "digits_test_lmdb"
    status = main(
        ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--target_flops", "0.5",
         "--first_layer", "search", "--out", str(tmp_path / "small")]
    )  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    result = json.loads((tmp_path / "small" / "evaluation.json").read_text())
    assert result["images"] == 360
    assert f"{result['compressed']['correct']['1'] / 360:.4f}" in printed
    # Stock caffe test on the emitted files gives the same count.
    stock = caffe_test(
        tmp_path / "small" / "train_val.prototxt", tmp_path / "small" / "compressed.caffemodel", 8, tmp_path / "log"
    )
    assert round(stock["accuracy"] * 360) == result["compressed"]["correct"]["1"]
    plan, table = read_plan(tmp_path / "small" / "ranks.json"), read_metrics(tmp_path / "small" / "metrics.json")
    assert plan.about.flops_ratio <= 0.5
    assert search_plan(table, SearchOptions("map", "pca", 0.5, first_layer="search")).plan.ranks == plan.ranks
    solver = (tmp_path / "small" / "solver.prototxt").read_text()
    assert f'net: "{tmp_path / "small" / "train_val.prototxt"}"' in solver


def test_compress_measures_what_its_metric_needs(demo, tmp_path: Path) -> None:
    out, _ = demo
    model, weights = out / "original" / "train_val.prototxt", out / "original" / "finetuned.caffemodel"
    base = ["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(out / "digits_train_lmdb"),
            "--test_lmdb", str(out / "digits_test_lmdb"), "--first_layer", "search", "--workers", "2",
            "--store", str(tmp_path / "s.sqlite")]  # fmt: skip
    kinds = {
        "inf": ["--method", "inf", "--candidates", "3"],
        "divergence": ["--method", "model", "--metric", "divergence"],
    }
    for name, more in kinds.items():
        assert main([*base, *more, "--target_flops", "0.5", "--out", str(tmp_path / name)]) == 0
    assert read_plan(tmp_path / "inf" / "ranks.json").about.evaluated == 3
    table = read_metrics(tmp_path / "divergence" / "metrics.json")
    assert all(dict(m.extra)["sampled_divergence"][-1] < 0.1 for m in table.layers)
    # Least MACs for an accuracy that is evaluated on the training images.
    assert main([*base, "--method", "model", "--target_accuracy", "0.97", "--out", str(tmp_path / "accuracy")]) == 0
    about = read_plan(tmp_path / "accuracy" / "ranks.json").about
    assert about.accuracy >= 0.97 and about.flops_ratio < 0.9


def test_stock_caffe_trains_the_emitted_network(demo, tmp_path: Path) -> None:
    out, rows = demo
    lines = (out / "compressed-50" / "solver.prototxt").read_text()
    lines = re.sub(r"max_iter: \d+", "max_iter: 3", re.sub(r"snapshot: \d+", "snapshot: 3", lines))
    lines = re.sub(r'snapshot_prefix: ".*"', f'snapshot_prefix: "{tmp_path}/s"', lines)
    (tmp_path / "solver.prototxt").write_text(lines)
    from enc_caffe.caffe_tools.programs import parse_training, run_caffe

    weights = out / "compressed-50" / "compressed.caffemodel"
    log = run_caffe(["train", "-solver", str(tmp_path / "solver.prototxt"), "-weights", str(weights)], tmp_path / "log")
    assert (tmp_path / "s_iter_3.caffemodel").is_file()
    # The test before the first iteration finds the compressed network, so every weight was loaded by name.
    first = parse_training(log)[0]
    assert first.iteration == 0 and first.test is not None
    assert first.test["accuracy"] == pytest.approx(rows[1].before, abs=1e-4)
    assert "Ignoring source layer conv" not in log


def test_deploy_gives_the_scores_of_train_val(demo) -> None:
    out, _ = demo
    from enc_caffe.caffe_io.prototxt import read_net, to_text
    from enc_caffe.workers.executor import CaffeExecutor
    from enc_caffe.workers.pycaffe import forward

    images = ImageLmdb(out / "digits_test_lmdb")
    data = np.stack([(i.pixels.astype(np.float32) - 8) / 8 for i in images.images(0, 4)])
    images.close()
    text = to_text(read_net(out / "compressed-50" / "deploy.prototxt"))
    with CaffeExecutor(1, 1) as executor:
        got = executor.result(
            executor.submit(
                forward, text, str(out / "compressed-50" / "compressed.caffemodel"), {"data": data}, ["prob"]
            )
        )
    assert got["prob"].shape == (4, 10)
    np.testing.assert_allclose(got["prob"].sum(axis=1), 1, atol=1e-5)


def test_the_papers_resnet56_prints_its_rows_and_names_the_subset(shared_data: Path, tmp_path: Path) -> None:
    # Only the subset, as a folder of a user's may hold it: all the test images would take ten times as long.
    for name in ("cifar10_subset.npz", "res56.caffemodel"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).symlink_to(shared_data / name)
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "experiment.py"), "resnet56-50", "--workers", "2", "--out", str(tmp_path / "out")], text=True,
        env={**os.environ, "ENC_CAFFE_DATA": str(tmp_path / "data"), "ENC_CAFFE_CACHE": str(tmp_path)}, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    assert "a SUBSET of CIFAR-10: 1,017 of its 10,000 test images" in done.stdout
    percent = {
        m[0]: float(m[1]) for m in re.findall(r"^(\S.*?)  +(?:[01]\.\d{4} +){3}(\d\d\.\d\d) ", done.stdout, re.M)
    }
    assert abs(percent["original"] - 93.81) <= 0.2
    # Half the MACs lose 2 to 5 points without fine-tuning, and exact strides lose less than the published ones.
    assert 88.5 < percent["ENC-Map, published strides"] < percent["ENC-Map, exact strides"] < 93
    assert percent["Uniform, exact strides"] < percent["ENC-Map, exact strides"]
    assert re.search(r"ENC-Map, published strides .* 3\.3 ", done.stdout)
