"""Methods that evaluate whole plans in real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.cli import main
from enc_caffe.plan import read_plan
from enc_caffe.runtime.evaluate import evaluate

MODEL = Path(__file__).resolve().parent.parent.parent / "prototxt" / "resnet56" / "train_val.prototxt"


@pytest.fixture(scope="module")
def images(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 training images."""
    path = tmp_path_factory.mktemp("cifar") / "train_lmdb"
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        write_lmdb(path, from_arrays(data["train_images"][:100], data["train_labels"][:100].astype(np.int64))[1])
    return path


@pytest.mark.caffe
def test_enc_inf_on_resnet56(shared_data: Path, images: Path, tmp_path: Path, capsys) -> None:
    metrics, out = shared_data / "metrics" / "res56.json", tmp_path / "ranks.json"
    weights = shared_data / "res56.caffemodel"
    files = ["--model", str(MODEL), "--weights", str(weights), "--lmdb", str(images), "--workers", "2"]
    base = ["search", str(metrics), "--target_flops", "0.4", "--out", str(out)]
    assert main([*base, "--method", "inf", "--candidates", "3", *files]) == 0
    assert "3 plans evaluated" in capsys.readouterr().out
    chosen = read_plan(out)
    assert chosen.about["evaluated"] == 3 and chosen.about["flops_ratio"] <= 0.4
    # What the search says is what the emitted network does.
    loaded = pipeline.load(MODEL, images)
    pipeline.emit(loaded, weights, chosen, tmp_path / "net", test_lmdb=images)
    found = evaluate(tmp_path / "net/train_val.prototxt", tmp_path / "net/compressed.caffemodel", images, workers=2)
    assert found.accuracy() == chosen.about["accuracy"]
    # ENC-Model is the first of the three: it is not more accurate on these images.
    assert main([*base, "--method", "model", *files]) == 0
    assert read_plan(out).about["accuracy"] <= chosen.about["accuracy"]
