"""Where an experiment's images come from, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.errors import UsageError
from enc_caffe.experiments.inputs import Choices, _words, announce, cifar_parts, cifar_training, gather
from enc_caffe.experiments.settings import read_experiment
from enc_caffe.experiments.steps import Steps
from tests.caffe_io.test_sheets import sheet

ROOT = Path(__file__).resolve().parent.parent.parent


def test_what_the_test_images_are() -> None:
    assert _words(10000) == "CIFAR-10's 10,000 test images"
    assert _words(9980) == "9,980 of CIFAR-10's 10,000 test images"
    assert _words(1017) == "a SUBSET of CIFAR-10: 1,017 of its 10,000 test images"


def test_sheets_go_before_the_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    images = {part: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in (("train", 40), ("test", 20))}
    labels = {part: np.arange(len(x)) % 10 for part, x in images.items()}
    data.mkdir()
    np.savez(
        data / "cifar10_subset.npz", **{f"{p}_images": x[:10] for p, x in images.items()},
        **{f"{p}_labels": x[:10] for p, x in labels.items()},
    )  # fmt: skip
    monkeypatch.setenv("ENC_CAFFE_DATA", str(data))
    x, steps, said = (
        read_experiment("resnet56-50", ROOT),
        Steps(tmp_path / "steps", print),
        [],
    )
    weights = tmp_path / "w.caffemodel"
    weights.write_bytes(b"")
    choices = Choices(weights=weights)
    announce(x, choices, said.append)
    assert f"needs images: {data / 'cifar10_subset.npz'} (a SUBSET of CIFAR-10)" in said
    first = gather(x, choices, tmp_path / "out", steps, lambda *a: None)
    assert "10 of its 10,000" in first.words and first.train_images == 10
    for part, pixels in images.items():
        (data / "cifar10" / part).mkdir(parents=True)
        sheet(data / "cifar10" / part, pixels, 0, 5)
        np.savez(data / "cifar10" / part / "labels.npz", labels=labels[part])
    announce(x, choices, said.append)
    assert f"needs images: {data / 'cifar10'}" in said
    # The folder holds other images now, so they are made anew.
    found = gather(x, choices, tmp_path / "out", steps, lambda *a: None)
    assert "20 of its 10,000" in found.words and found.train_images == 40
    for path, number, side in ((found.partial, 4, 32), (found.test, 20, 32), (found.train, 40, 40)):
        lmdb = ImageLmdb(path)
        kept = list(lmdb.images())
        lmdb.close()
        assert len(kept) == number and kept[0].pixels.shape == (3, side, side)
    wanted = {x.tobytes(): int(label) for x, label in zip(images["test"], labels["test"])}
    lmdb = ImageLmdb(found.test)
    assert {i.pixels.tobytes(): i.label for i in lmdb.images()} == wanted
    lmdb.close()


def test_parts_of_cifar_to_choose_and_to_test_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, data = np.random.default_rng(0), tmp_path / "data"
    images = {part: rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8) for part, n in (("train", 12), ("test", 7))}
    data.mkdir()
    np.savez(
        data / "cifar10_subset.npz", **{f"{p}_images": x for p, x in images.items()},
        **{f"{p}_labels": np.arange(len(x)) % 10 for p, x in images.items()},
    )  # fmt: skip
    monkeypatch.setenv("ENC_CAFFE_DATA", str(data))
    choose, test = cifar_parts(tmp_path / "out", 5)
    assert [len(ImageLmdb(p)) for p in (choose, test)] == [5, 7]
    # Made once.
    made = (choose / "data.mdb").stat().st_mtime_ns
    assert cifar_parts(tmp_path / "out", 5) == (choose, test) and (choose / "data.mdb").stat().st_mtime_ns == made
    for number in (0, 13):
        with pytest.raises(UsageError, match=f"--choose {number}: 1 to 12 training images are here"):
            cifar_parts(tmp_path / "out", number)
    # Those to train on are padded: the TRAIN data layer crops 32x32 of them at random.
    padded = ImageLmdb(cifar_training(tmp_path / "out"))
    whole = next(iter(padded.images())).pixels
    assert whole.shape == (3, 40, 40) and not whole[:, :4].any() and whole[:, 4:36, 4:36].any()
    padded.close()
