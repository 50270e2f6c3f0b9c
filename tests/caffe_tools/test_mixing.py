"""A distillation by mixtures of its images: what stock Caffe trains on, made once, and of no image that was held out."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb, array_records, write_lmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.mixtures import mixtures_of
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_tools import mixing
from enc_caffe.caffe_tools.mixing import PASSES, ROOM, Mixtures, wanted
from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a compressed network with what distils it by 40 images."""
    folder = tmp_path_factory.mktemp("emitted")
    model, weights = nets.write_net(folder, nets.grouped())
    return compressed(folder, model, weights, nets.write_images(folder / "lmdb", 40))


def compressed(folder: Path, model: Path, weights: Path, lmdb: Path, *more: str) -> Path:
    files = ["--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--store", str(folder / "s.sqlite")]
    assert main(["compress", *files, "--target_flops", "0.5", "--distill", *more, "--out", str(folder / "out")]) == 0
    return folder / "out"


def source_of(path: Path) -> Path:
    return Path(data_layers(read_net(path), "TRAIN")[0].data_param.source)


def pixels_of(path: Path) -> list[bytes]:
    images = ImageLmdb(path)
    try:
        return [x.pixels.tobytes() for x in images.images()]
    finally:
        images.close()


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixtures stay when a training has ended."""
    monkeypatch.setattr(Mixtures, "remove", lambda self: None)


def tune(emitted: Path, out: Path, *more: str) -> int:
    command = ["finetune", "--distill", str(emitted), "--max_iter", "12", "--snapshot", "4", "--keep_best", *more]
    return main([*command, "--out", str(out)])


@pytest.mark.usefixtures("kept")
def test_a_distillation_trains_on_mixtures_and_is_chosen_by_images(emitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    assert tune(emitted, out, "--mixtures", "90") == 0
    made = source_of(out / "training.prototxt")
    assert made.parent == out and len(pixels_of(made)) == 90
    # No mixture is of an image that chooses.
    held, kept = (pixels_of(out / "held_out" / n) for n in ("held_out_lmdb", "train_lmdb"))
    assert len(held) == 4 and len(kept) == 36 and not set(held) & set(kept)
    write_lmdb(tmp_path / "same", mixtures_of(out / "held_out" / "train_lmdb", 90)[1])
    assert pixels_of(made) == pixels_of(tmp_path / "same")


def test_mixtures_go_when_a_training_has_ended_and_come_again_for_a_longer_one(emitted: Path, tmp_path: Path) -> None:
    out = tmp_path / "trained"
    assert tune(emitted, out, "--mixtures", "90") == 0
    made = source_of(out / "training.prototxt")
    assert not list(out.glob("*mixtures*"))
    (out / "finetuned.caffemodel").unlink()
    assert tune(emitted, out, "--mixtures", "90", "--max_iter", "16") == 0
    assert source_of(out / "training.prototxt") == made and (out / "snapshot_iter_16.caffemodel").is_file()


@pytest.mark.usefixtures("kept")
def test_a_training_does_not_go_on_by_other_mixtures(
    emitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained"
    assert tune(emitted, out, "--mixtures", "90") == 0
    (out / "finetuned.caffemodel").unlink()
    made = source_of(out / "training.prototxt")
    for other in (
        ["--mixtures", "91"],
        ["--mixtures", "90", "--train_lmdb", str(nets.write_images(tmp_path / "other", 50))],
        [],
    ):
        assert tune(emitted, out, *other) != 0
        assert "snapshots of another run" in capsys.readouterr().err
        # What it trained on is still there, and nothing else was made.
        assert list(out.glob("*mixtures*")) == [made]
    assert tune(emitted, out, "--mixtures", "91", "--force") == 0
    assert list(out.glob("*mixtures*")) == [source_of(out / "training.prototxt")] != [made]


@pytest.mark.parametrize("gray", [1, 4], ids=["all gray", "one in four gray"])
def test_encoded_images_are_mixed_as_caffe_decodes_them(tmp_path: Path, gray: int) -> None:
    rng, records = np.random.default_rng(0), []
    for i in range(40):
        picture = rng.integers(0, 256, (12, 12) if i % gray == 0 else (12, 12, 3)).astype(np.uint8)
        encoded = cv2.imencode(".png", picture)[1].tobytes()
        records.append((b"%03d" % i, caffe_pb2().Datum(encoded=True, data=encoded, label=i % 5).SerializeToString()))
    write_lmdb(tmp_path / "lmdb", records)
    model, weights = nets.write_net(tmp_path, nets.grouped())
    model.write_text(model.read_text().replace("transform_param {", "transform_param { force_color: true"))
    compressed(tmp_path, model, weights, tmp_path / "lmdb", "--train_lmdb", str(tmp_path / "lmdb"))
    assert tune(tmp_path / "out", tmp_path / "trained", "--mixtures", "50") == 0
    assert wanted(read_net(tmp_path / "out" / "distill.prototxt"), tmp_path / "lmdb", 10**9) == ROOM // (3 * 12 * 12)


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


def test_mixtures_are_wanted_where_images_are_met_often(
    emitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, lmdb = read_net(emitted / "distill.prototxt"), emitted.parent / "lmdb"
    batch = data_layers(net, "TRAIN")[0].data_param.batch_size
    enough = -(-PASSES * 40 // batch)
    assert wanted(net, lmdb, enough - 1) == 0
    assert wanted(net, lmdb, enough) == enough * batch
    # As many as there is room for, or none.
    images = ImageLmdb(lmdb)
    size = math.prod(images.first_shape())
    images.close()
    assert wanted(net, lmdb, 10**9) == ROOM // size
    large = np.zeros((40, 3, 12, 12), np.float32)
    write_lmdb(tmp_path / "float_lmdb", array_records(large, None))
    assert wanted(net, tmp_path / "float_lmdb", 10**9) == ROOM // large[0].nbytes
    monkeypatch.setattr(mixing, "ROOM", 79 * size)
    assert wanted(net, lmdb, 10**9) == 0
    # A network that reads labels has no use for them.
    assert wanted(read_net(emitted / "train_val.prototxt"), lmdb, 10**9) == 0
