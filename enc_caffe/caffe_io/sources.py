"""Where labelled images come from: arrays, image folders, CIFAR-10's binary files, another LMDB."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Iterator, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb, array_records, datum_bytes, stratified
from enc_caffe.errors import DatasetError, UsageError

Records = Iterator[tuple[bytes, bytes]]
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
_CIFAR_RECORD = 1 + 3 * 32 * 32


def padded(images: np.ndarray, pad: int) -> np.ndarray:
    """Images (N, C, H, W) with ``pad`` zero pixels on every side."""
    if pad < 0:
        raise UsageError(f"--pad {pad}: 0 or more is needed")
    return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad))) if pad else images


def from_npz(path: Path, images: str, labels: str, pad: int = 0, seed: int = 0) -> tuple[int, Records]:
    """Images (N, C, H, W) or (N, H, W) uint8 and labels (N,) of a .npz file, shuffled."""
    try:
        with np.load(path, allow_pickle=False) as data:
            missing = [n for n in (images, labels) if n not in data]
            if missing:
                raise DatasetError(f"{path}: has no array '{missing[0]}'; there are {', '.join(data.files)}")
            pixels, classes = data[images], data[labels]
    except (OSError, ValueError, zipfile.BadZipFile) as exc:
        raise DatasetError(f"{path}: cannot be read as .npz ({exc})") from None
    return from_arrays(pixels, classes, pad, seed, str(path))


def from_arrays(
    pixels: np.ndarray, classes: np.ndarray, pad: int = 0, seed: int = 0, source: str = "images"
) -> tuple[int, Records]:
    """Images (N, C, H, W) or (N, H, W) uint8 and labels (N,), shuffled: Caffe reads an LMDB in order."""
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.dtype != np.uint8:
        raise DatasetError(f"{source}: images are {pixels.dtype} of shape {pixels.shape}; uint8 (N, C, H, W) is needed")
    if classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer):
        raise DatasetError(f"{source}: labels are {classes.dtype} of shape {classes.shape} for {len(pixels)} images")
    order = np.random.default_rng(seed).permutation(len(pixels))
    return len(pixels), array_records(padded(pixels, pad), classes, order)


def from_cifar10(folder: Path, split: str, pad: int = 0, seed: int = 0) -> tuple[int, Records]:
    """CIFAR-10's binary version: records of one label byte and 3072 pixels, RGB planes."""
    names = ["test_batch.bin"] if split == "test" else [f"data_batch_{i}.bin" for i in range(1, 6)]
    parts = []
    for name in names:
        try:
            raw = np.fromfile(Path(folder) / name, np.uint8)
        except OSError as exc:
            raise DatasetError(
                f"{Path(folder) / name}: cannot be read ({exc.strerror}); CIFAR-10's binary version is needed"
            ) from None
        if raw.size == 0 or raw.size % _CIFAR_RECORD:
            raise DatasetError(
                f"{Path(folder) / name}: {raw.size} bytes are no whole number of {_CIFAR_RECORD}-byte records"
            )
        parts.append(raw.reshape(-1, _CIFAR_RECORD))
    records = np.concatenate(parts)
    return from_arrays(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64), pad, seed, str(folder))


def from_folder(folder: Path, resize: Optional[Sequence[int]], gray: bool, seed: int = 0) -> tuple[int, Records]:
    """One sub-folder a class, classes numbered in the order of their names; channels in BGR order as Caffe's own tools."""
    classes = sorted(p for p in Path(folder).iterdir() if p.is_dir()) if Path(folder).is_dir() else []
    files = [(f, i) for i, c in enumerate(classes) for f in sorted(c.rglob("*")) if f.suffix.lower() in _SUFFIXES]
    if not files:
        raise DatasetError(f"{folder}: holds no sub-folder with images; one sub-folder for each class is needed")
    order = np.random.default_rng(seed).permutation(len(files))

    def records() -> Records:
        import cv2

        shape = None
        for number, index in enumerate(order):
            path, label = files[index]
            image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
            if image is None:
                raise DatasetError(f"{path}: holds no image that OpenCV can read")
            if resize:
                image = cv2.resize(image, (resize[1], resize[0]))
            pixels = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
            if shape is not None and pixels.shape != shape:
                raise DatasetError(f"{path}: has shape {pixels.shape}, the images before it {shape}; give --resize H W")
            shape = pixels.shape
            yield f"{number:08d}_{path.name}".encode(), datum_bytes(pixels, label)

    return len(files), records()


def part_of(lmdb: Path, fraction: Optional[float], images: Optional[int], seed: int = 0) -> tuple[int, Records]:
    """A stratified part of an LMDB, datums unchanged (raw or encoded)."""
    source = ImageLmdb(Path(lmdb))
    try:
        labels = source.labels()
    finally:
        source.close()
    if fraction is not None and not 0 < fraction <= 1:
        raise UsageError(f"--fraction {fraction}: a part in (0, 1] is needed")
    number = images if images is not None else max(1, round(len(labels) * float(fraction or 0)))
    wanted = set(stratified(labels, number, seed).tolist())

    def records() -> Records:
        # LMDB opens a folder once in a process: not before somebody reads, and closed however that ends.
        source = ImageLmdb(Path(lmdb))
        try:
            for i, record in enumerate(source.raw()):
                if i in wanted:
                    yield record
        finally:
            source.close()

    return number, records()
