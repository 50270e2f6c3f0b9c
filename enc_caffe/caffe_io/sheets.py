"""CIFAR-10 as lossless sheets: files NNN.webp of rows of images side by side, in order, and labels.npz beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from enc_caffe.errors import DatasetError

#: Pixels of an image's side.
SIDE = 32


def read_sheets(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3, 32, 32), uint8 in RGB order, and labels (n,), int64.

    Raises
    ------
    DatasetError
        If a sheet cannot be read, is no whole number of images, or there are fewer images than labels.
    """
    import cv2

    folder = Path(folder)
    try:
        with np.load(folder / "labels.npz", allow_pickle=False) as data:
            labels = data["labels"].astype(np.int64)
    except (OSError, ValueError, KeyError) as exc:
        raise DatasetError(f"{folder / 'labels.npz'}: cannot be read ({exc})") from None
    parts = []
    for path in sorted(folder.glob("*.webp")):
        sheet = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if sheet is None or sheet.shape[0] % SIDE or sheet.shape[1] % SIDE:
            size = "nothing that OpenCV can read" if sheet is None else f"{sheet.shape[1]}x{sheet.shape[0]} pixels"
            raise DatasetError(f"{path}: {size}; rows of {SIDE}x{SIDE} images are needed")
        high, wide = sheet.shape[0] // SIDE, sheet.shape[1] // SIDE
        tiles = sheet[:, :, ::-1].reshape(high, SIDE, wide, SIDE, 3).transpose(0, 2, 4, 1, 3)
        parts.append(tiles.reshape(-1, 3, SIDE, SIDE))
    images = np.concatenate(parts) if parts else np.zeros((0, 3, SIDE, SIDE), np.uint8)
    if len(images) < len(labels):
        raise DatasetError(f"{folder}: {len(images)} images in its sheets, but {len(labels)} labels")
    return np.ascontiguousarray(images[: len(labels)]), labels
