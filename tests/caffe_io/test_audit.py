"""LMDBs that are not what an experiment needs are refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.audit import audit
from enc_caffe.caffe_io.datum import ImageLmdb, array_records, write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import DatasetError


def make(path: Path, labels: np.ndarray, side: int = 8, channels: int = 3) -> Path:
    images = np.zeros((len(labels), channels, side, side), np.uint8)
    records = [(key + b"_n01440764.JPEG", value) for key, value in array_records(images, labels)]
    write_lmdb(path, records)
    return path


LABELS = np.random.default_rng(0).permutation(np.arange(3000) % 20)


def test_what_is_right_passes_and_labels_are_looked_at_everywhere(tmp_path: Path) -> None:
    path = make(tmp_path / "lmdb", LABELS)
    assert audit(path, 3000, 20, 8, looks=100) == 3000
    images = ImageLmdb(path)
    np.testing.assert_array_equal(images.sampled_labels(100), LABELS[::30])
    np.testing.assert_array_equal(images.sampled_labels(5000), LABELS)
    images.close()


@pytest.mark.parametrize(
    ("labels", "side", "channels", "least", "message"),
    [
        (LABELS, 8, 3, 3001, r"3,000 images, at least 3,001 are expected; was convert_imageset interrupted"),
        (LABELS, 7, 3, 10, r"images are 3x7x7; 3 channels and at least 8x8 are needed.*--resize_height=256"),
        (LABELS, 8, 1, 10, r"images are 1x8x8"),
        (LABELS + 1, 8, 3, 10, r"run from 1 to 20, 20 different; 0 to 19 are needed"),
        (LABELS // 2, 8, 3, 10, r"run from 0 to 9"),
        (LABELS * 0, 8, 3, 10, r"run from 0 to 0, 1 different"),
        (np.where(LABELS < 10, 0, 19), 8, 3, 10, r"2 different"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(
    tmp_path: Path, labels: np.ndarray, side: int, channels: int, least: int, message: str
) -> None:
    path = make(tmp_path / "lmdb", labels, side, channels)
    with pytest.raises(DatasetError, match=message):
        audit(path, least, 20, 8, looks=200)


def test_no_labels(tmp_path: Path) -> None:
    datum = caffe_pb2().Datum(channels=3, height=8, width=8, data=bytes(192))
    write_lmdb(tmp_path / "lmdb", [(b"%08d" % i, datum.SerializeToString()) for i in range(30)])
    with pytest.raises(DatasetError, match="have no labels; the list given to convert_imageset"):
        audit(tmp_path / "lmdb", 10, 20, 8)
