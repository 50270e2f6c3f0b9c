"""A distillation by mixtures of its images: what stock Caffe trains on, made once, and of no image that was held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_tools.mixing import PASSES, wanted
from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a compressed network with what distils it by 40 images."""
    folder = tmp_path_factory.mktemp("emitted")
    model, weights = nets.write_net(folder, nets.grouped())
    lmdb = nets.write_images(folder / "lmdb", 40)
    command = [
        "compress",
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(lmdb),
        "--target_flops",
        "0.5",
    ]
    assert main([*command, "--store", str(folder / "s.sqlite"), "--distill", "--out", str(folder / "out")]) == 0
    return folder / "out"


def source_of(path: Path) -> Path:
    return Path(data_layers(read_net(path), "TRAIN")[0].data_param.source)


def pixels_of(path: Path) -> list[bytes]:
    images = ImageLmdb(path)
    try:
        return [x.pixels.tobytes() for x in images.images()]
    finally:
        images.close()


def test_a_distillation_trains_on_mixtures_and_is_chosen_by_images(emitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    command = [
        "finetune",
        "--distill",
        str(emitted),
        "--max_iter",
        "12",
        "--snapshot",
        "4",
        "--keep_best",
        "--mixtures",
        "90",
    ]
    assert main([*command, "--out", str(out)]) == 0
    made = source_of(out / "training.prototxt")
    assert made == out / "mixtures_lmdb" and len(pixels_of(made)) == 90
    # No mixture is of an image that chooses: those that are whole are among the images that are trained on.
    held, kept = (set(pixels_of(out / "held_out" / n)) for n in ("held_out_lmdb", "train_lmdb"))
    mixed = set(pixels_of(made))
    assert len(held) == 4 and len(kept) == 36 and mixed & kept and not mixed & held and mixed - kept
    assert json.loads((out / "mixtures.json").read_text())["source"] == str(out / "held_out" / "train_lmdb")
    # The same training again makes none again.
    before = (made / "data.mdb").stat().st_mtime_ns
    (out / "finetuned.caffemodel").unlink()
    assert main([*command, "--out", str(out)]) == 0
    assert (made / "data.mdb").stat().st_mtime_ns == before
    # Other images are not what is there.
    other = nets.write_images(tmp_path / "other", 50)
    assert main([*command, "--train_lmdb", str(other), "--out", str(out), "--force"]) == 0
    assert (made / "data.mdb").stat().st_mtime_ns != before


@pytest.mark.parametrize(("flags", "said"), [
    (["--solver", "solver.prototxt", "--weights", "compressed.caffemodel"], "mixtures of images have no labels"),
    (["--distill", "."], "--mixtures -1: 1 or more"),
])  # fmt: skip
def test_mixtures_are_refused_where_labels_are_read(
    emitted: Path, tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [x if x.startswith("--") else str(emitted / x) for x in flags]
    number = "-1" if "-1" in said else "50"
    assert main(["finetune", *own, "--mixtures", number, "--out", str(tmp_path / "out")]) != 0
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_mixtures_are_wanted_where_images_are_met_often(emitted: Path) -> None:
    net, lmdb = read_net(emitted / "distill.prototxt"), emitted.parent / "lmdb"
    batch = data_layers(net, "TRAIN")[0].data_param.batch_size
    enough = -(-PASSES * 40 // batch)
    assert wanted(net, lmdb, enough - 1) == 0
    assert wanted(net, lmdb, enough) == enough * batch
    # As many as there is room for.
    most = wanted(net, lmdb, 10**9)
    images = ImageLmdb(lmdb)
    assert most * np.prod(images.first_shape()) <= 2**31 < (most + 1) * np.prod(images.first_shape())
    images.close()
    # A network that reads labels has no use for them.
    assert wanted(read_net(emitted / "train_val.prototxt"), lmdb, 10**9) == 0
