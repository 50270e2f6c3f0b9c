"""Sheets of images: order, colours, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.sheets import read_sheets
from enc_caffe.errors import DatasetError


def sheet(folder: Path, images: np.ndarray, number: int, wide: int) -> None:
    rows = images.reshape(-1, wide, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(-1, wide * 32, 3)
    # A quality above 100 is lossless.
    cv2.imwrite(str(folder / f"{number:03}.webp"), rows[:, :, ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])


def test_images_come_back_in_order_and_exactly(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    sheet(tmp_path, images[:6], 0, 3)
    sheet(tmp_path, images[6:], 1, 2)
    # The last places of a sheet may be empty.
    np.savez(tmp_path / "labels.npz", labels=np.arange(11))
    found, labels = read_sheets(tmp_path)
    assert np.array_equal(found, images[:11]) and labels.tolist() == list(range(11)) and found.dtype == np.uint8


def test_what_is_no_sheet_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"labels\.npz: cannot be read"):
        read_sheets(tmp_path)
    np.savez(tmp_path / "labels.npz", labels=np.arange(3))
    with pytest.raises(DatasetError, match="0 images in its sheets, but 3 labels"):
        read_sheets(tmp_path)
    cv2.imwrite(str(tmp_path / "000.webp"), np.zeros((32, 40, 3), np.uint8))
    with pytest.raises(DatasetError, match="000.webp: 40x32 pixels; rows of 32x32 images are needed"):
        read_sheets(tmp_path)
    (tmp_path / "000.webp").write_bytes(b"no image")
    with pytest.raises(DatasetError, match="nothing that OpenCV can read"):
        read_sheets(tmp_path)


def test_the_shared_sheets_hold_the_subsets_first_image(shared_data: Path) -> None:
    if not (shared_data / "cifar10" / "test").is_dir():
        pytest.skip(f"{shared_data} has no cifar10/test")
    images, labels = read_sheets(shared_data / "cifar10" / "test")
    assert images.shape == (9980, 3, 32, 32) and np.bincount(labels).min() > 900
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        first, label = data["test_images"][0], data["test_labels"][0]
    same = np.flatnonzero((images[:50] == first).all(axis=(1, 2, 3)))
    assert len(same) == 1 and labels[same[0]] == label
