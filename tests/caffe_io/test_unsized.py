"""Emission without images: sizes that the weights and crop_size say, and sizes that nothing does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.cli import main
from enc_caffe.errors import UnknownSizeError
from enc_caffe.form import Form
from enc_caffe.pipeline.loading import load
from enc_caffe.plan import Plan, write_plan
from tests.caffe_io.legacy import write_legacy
from tests.caffe_io.test_variants import conv, fc, layer
from tests.caffe_tools.test_loadable import weights_of

pytestmark = pytest.mark.caffe

DATA = 'layer { name: "d" type: "Data" top: "data" top: "label" transform_param { %s } data_param { source: "no" batch_size: 4 backend: LMDB } }\n'
BODY = conv("c1", "data", 6) + conv("c2", "c1", 8)
POOLED = layer("p", "Pooling", "c2", "pooling_param { pool: AVE global_pooling: true }") + fc("fc", "p")
LOSS = layer("loss", "SoftmaxWithLoss", "fc label")


def emission(folder: Path, transform: str, tail: str, inputs: int) -> list[str]:
    """Flags of ``emit`` for a train_val whose source is not there; ``inputs`` of its fully connected layer."""
    (folder / "n.prototxt").write_text(DATA % transform + BODY + tail + LOSS)
    layers = {**weights_of("c1 c2"), "fc": ("InnerProduct", [np.ones((5, inputs)), np.ones(5)])}
    write_legacy(folder / "w.caffemodel", "four dimensions", layers)
    write_plan(folder / "r.json", Plan("n", {"c2": Form("", (3,))}), 1)
    return ["emit", "--model", str(folder / "n.prototxt"), "--weights", str(folder / "w.caffemodel"),
            "--ranks", str(folder / "r.json"), "--out", str(folder / "out")]  # fmt: skip


def test_crop_size_and_means_say_how_large_images_are(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(DATA % "crop_size: 12 mean_value: 1 mean_value: 2 mean_value: 3" + BODY)
    assert load(tmp_path / "n.prototxt").network.shape_of("data") == (4, 3, 12, 12)
    for colours, channels in (("force_color: true", 3), ("force_gray: true", 1)):
        (tmp_path / "n.prototxt").write_text(DATA % f"crop_size: 12 {colours}" + BODY)
        assert load(tmp_path / "n.prototxt").network.shape_of("data") == (4, channels, 12, 12)
    (tmp_path / "n.prototxt").write_text(DATA % "crop_size: 12 mean_value: 128" + BODY)
    with pytest.raises(UnknownSizeError, match="does not say how large its images are"):
        load(tmp_path / "n.prototxt")


def test_weights_say_the_channels_that_crop_size_does_not(tmp_path: Path, capsys) -> None:
    assert main(emission(tmp_path, "crop_size: 12 mean_value: 128", POOLED, 8)) == 0
    said = capsys.readouterr().out
    assert "(exact) of all" in said and "checked" not in said
    assert "dim: 3 dim: 12 dim: 12" in (tmp_path / "out" / "deploy.prototxt").read_text()


@pytest.mark.parametrize(("tail", "inputs"), [(POOLED, 8), (fc("fc", "c2"), 8 * 48 * 48)])
def test_without_any_size_macs_and_deploy_are_left_out(tmp_path: Path, capsys, tail: str, inputs: int) -> None:
    assert main(emission(tmp_path, "scale: 1", tail, inputs)) == 0
    said = capsys.readouterr().out
    assert said.startswith("parameters 0.") and "no MACs and no deploy.prototxt, since nothing says how large" in said
    assert "checked" not in said and "train_val.prototxt, solver.prototxt" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "compressed.caffemodel", "ranks.json", "solver.prototxt", "train_val.prototxt",
    ]  # fmt: skip


def test_weights_that_no_size_fits_are_refused(tmp_path: Path, capsys) -> None:
    assert main(emission(tmp_path, "scale: 1", fc("fc", "c2"), 7)) == 1
    assert "does not say how large its images are" in capsys.readouterr().err and not (tmp_path / "out").exists()
