"""LMDBs of Caffe datums: reading, checking, writing, and a stratified part of one."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Iterator, Optional

import lmdb
import numpy as np

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import DatasetError, UsageError
from enc_caffe.files.output import atomic_folder

#: Pixels of an encoded image at most (8192 x 4096): a few hundred bytes can claim 2^30 of them. OpenCV reads the variable when
#: it is loaded, which somebody else may have done before.
MAX_PIXELS = 2**25
PNG = b"\x89PNG\r\n\x1a\n"
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))


@dataclass(frozen=True)
class Image:
    """One datum: its key, pixels as Caffe sees them before the transformation (C, H, W), and its label."""

    key: bytes
    pixels: np.ndarray
    label: int


def decode(raw: bytes, force_color: Optional[bool] = None) -> tuple[np.ndarray, int]:
    """Pixels (C, H, W; uint8, or float32 for float datums) and label of a serialised Datum.

    Encoded datums are decoded by OpenCV as Caffe does, channels in BGR order.
    """
    datum = caffe_pb2().Datum()
    try:
        datum.ParseFromString(raw)
    except Exception as exc:  # protobuf's DecodeError has moved between modules
        raise DatasetError(f"a value is no Caffe datum ({exc})") from None
    if datum.encoded:
        import cv2

        _check_png(datum.data)
        flag = (
            cv2.IMREAD_UNCHANGED if force_color is None else (cv2.IMREAD_COLOR if force_color else cv2.IMREAD_GRAYSCALE)
        )
        try:
            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), flag) if datum.data else None
        except cv2.error as exc:
            last = (str(exc).strip().splitlines() or [""])[-1]
            raise DatasetError(f"an encoded datum of {len(datum.data)} bytes is refused by OpenCV ({last})") from None
        if image is None:
            raise DatasetError("an encoded datum holds no image that OpenCV can decode")
        if image.dtype != np.uint8 or not image.size:
            raise DatasetError(
                f"an encoded datum holds {image.dtype} pixels of shape {image.shape}; Caffe takes 8 bits a channel"
            )
        return (image[None] if image.ndim == 2 else image.transpose(2, 0, 1)), int(datum.label)
    shape = (datum.channels, datum.height, datum.width)
    pixels = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or pixels.size != math.prod(shape):
        raise DatasetError(f"a datum of shape {shape} holds {pixels.size} values")
    if not datum.data and not np.isfinite(pixels).all():
        raise DatasetError(
            "a datum holds values that are not finite (NaN or infinity); make the LMDB again without them"
        )
    return pixels.reshape(shape), int(datum.label)


def _check_png(data: bytes) -> None:
    """OpenCV makes room for what a PNG claims, 2^30 pixels or a chunk of 2 GiB, before it looks for it."""
    at = len(PNG)
    width, height = (int.from_bytes(data[i : i + 4], "big") for i in (at + 8, at + 12))
    if data.startswith(PNG) and width * height > MAX_PIXELS:
        raise DatasetError(f"an encoded datum is a PNG of {width} x {height} pixels; {MAX_PIXELS} in all are allowed")
    while data.startswith(PNG) and at + 8 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        at += 12 + size
        if at > len(data):
            raise DatasetError(f"an encoded datum is a PNG with a chunk of {size} bytes, but has {len(data)} in all")
        if kind == b"IEND":
            # Whatever is behind it is read by nobody.
            return


#: Touches the pages of all records, the last ones first.
_TOUCH = """import lmdb, sys
with lmdb.open(sys.argv[1], readonly=True, lock=False).begin(buffers=True) as transaction:
    for _, value in transaction.cursor().iterprev():
        bytes(value[:1]) + bytes(value[-1:])
"""
#: Seconds that it may take: whoever has so many images may have them on a slow disk.
TOUCHING = 60


def _readable(path: Path) -> bool:
    try:
        done = subprocess.run([sys.executable, "-c", _TOUCH, str(path)], stderr=subprocess.DEVNULL, timeout=TOUCHING)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode == 0


class ImageLmdb:
    """An LMDB of datums, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not (self.path / "data.mdb").is_file():
            what = "is no LMDB (data.mdb is missing)" if self.path.exists() else "does not exist"
            if self.path.is_file():
                what = "is a file, and an LMDB is a folder with data.mdb in it"
                if self.path.name in ("data.mdb", "lock.mdb"):
                    raise DatasetError(f"{path}: {what}; give {self.path.parent}")
            raise DatasetError(f"{path}: {what}; enc-caffe data makes one from arrays or image folders")
        try:
            self._env = lmdb.open(str(path), readonly=True, lock=False, readahead=False, max_readers=512)
            self.count = self._env.stat()["entries"]
            self._check_length()
        except lmdb.Error as exc:
            raise DatasetError(f"{path}: cannot be opened as an LMDB ({exc})") from None
        if self.count == 0:
            raise DatasetError(f"{path}: the LMDB is empty")

    def _check_length(self) -> None:
        # LMDB maps the file: what lies beyond its end would kill the process. Of a whole one the last pages may be missing, if
        # they were given back in the transaction that took them; whether they are needed, another process finds out.
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        there = (self.path / "data.mdb").stat().st_size
        if there < needed and not _readable(self.path):
            raise DatasetError(f"{self.path}: data.mdb has {there} bytes of {needed}; it was cut off, copy it again")

    def __len__(self) -> int:
        return int(self.count)

    def raw(self, start: int = 0, stop: Optional[int] = None) -> Iterator[tuple[bytes, bytes]]:
        """Keys and serialised datums in key order, from position ``start`` to before ``stop``."""
        with self._env.begin(buffers=False) as txn:
            for i, (key, value) in enumerate(txn.cursor()):
                if stop is not None and i >= stop:
                    return
                if i >= start:
                    yield key, value

    def images(self, start: int = 0, stop: Optional[int] = None, force_color: Optional[bool] = None) -> Iterator[Image]:
        """Decoded images in key order."""
        for key, value in self.raw(start, stop):
            try:
                pixels, label = decode(value, force_color)
            except DatasetError as exc:
                raise DatasetError(f"{self.path}: key {key!r}: {exc}") from None
            yield Image(key, pixels, label)

    def keys(self) -> list[bytes]:
        """All keys, in order."""
        with self._env.begin() as txn:
            return [bytes(key) for key in txn.cursor().iternext(keys=True, values=False)]

    def image(self, key: bytes, force_color: Optional[bool] = None) -> Image:
        """The decoded image of a key that is there."""
        with self._env.begin() as txn:
            value = txn.get(key)
        try:
            pixels, label = decode(bytes(value or b""), force_color)
        except DatasetError as exc:
            raise DatasetError(f"{self.path}: key {key!r}: {exc}") from None
        return Image(key, pixels, label)

    def first_shape(self, force_color: Optional[bool] = None) -> tuple[int, int, int]:
        """(C, H, W) of the first image."""
        shape = next(self.images(0, 1, force_color)).pixels.shape
        return int(shape[0]), int(shape[1]), int(shape[2])

    def labels(self) -> np.ndarray:
        """Labels in key order, shape (N,); -1 where a datum has none."""
        datum = caffe_pb2().Datum()
        found = []
        for key, value in self.raw():
            try:
                datum.ParseFromString(value)
            except Exception as exc:
                raise DatasetError(f"{self.path}: key {key!r} is no Caffe datum ({exc})") from None
            found.append(int(datum.label) if datum.HasField("label") else -1)
        return np.array(found, dtype=np.int64)

    def sampled_labels(self, number: int) -> np.ndarray:
        """Labels of images spread evenly over an LMDB whose keys begin with their position, as convert_imageset's do.

        Of other keys, and of few images, the first ``number``; -1 where a datum has no label.
        """
        datum, found = caffe_pb2().Datum(), []
        step = max(1, self.count // number)
        with self._env.begin(buffers=False) as txn:
            cursor = txn.cursor()
            cursor.first()
            digits = len(bytes(cursor.key()).split(b"_")[0])
            numbered = step > 1 and bytes(cursor.key())[:digits].isdigit()
            for i in range(min(number, self.count)):
                if numbered and not cursor.set_range(f"{i * step:0{digits}d}".encode()):
                    break
                try:
                    datum.ParseFromString(cursor.value())
                except Exception as exc:
                    raise DatasetError(f"{self.path}: key {bytes(cursor.key())!r} is no Caffe datum ({exc})") from None
                found.append(int(datum.label) if datum.HasField("label") else -1)
                if not numbered and not cursor.next():
                    break
        return np.array(found, dtype=np.int64)

    def close(self) -> None:
        """Close the environment."""
        self._env.close()


def datum_bytes(pixels: np.ndarray, label: Optional[int]) -> bytes:
    """Serialised raw Datum of an image (C, H, W): its bytes where it is uint8, else float_data; without a label for None."""
    channels, height, width = pixels.shape
    datum = caffe_pb2().Datum(channels=channels, height=height, width=width)
    if label is not None:
        datum.label = int(label)
    if np.issubdtype(pixels.dtype, np.floating):
        datum.float_data.extend(np.ascontiguousarray(pixels, np.float32).ravel().tolist())
    else:
        datum.data = np.ascontiguousarray(pixels, np.uint8).tobytes()
    return bytes(datum.SerializeToString())


def write_lmdb(path: Path, records: Iterable[tuple[bytes, bytes]], force: bool = False) -> int:
    """Write keys and serialised datums as an LMDB folder, whole or not at all; returns their number."""
    number = 0
    with atomic_folder(Path(path), force) as work:
        try:
            env = lmdb.open(str(work), map_size=1 << 30)
        except lmdb.Error as exc:
            raise DatasetError(f"{path}: cannot be written ({exc})") from None
        batch: list[tuple[bytes, bytes]] = []
        for record in records:
            batch.append(record)
            number += 1
            if len(batch) == 1000:
                _put(env, batch, path)
                batch = []
        _put(env, batch, path)
        env.close()
        (work / "lock.mdb").unlink(missing_ok=True)
        if number == 0:
            raise DatasetError(f"{path}: there is no image to write")
    return number


def _put(env: Any, batch: list[tuple[bytes, bytes]], path: Path) -> None:
    while True:
        try:
            with env.begin(write=True) as txn:
                for key, value in batch:
                    txn.put(key, value)
            return
        except lmdb.MapFullError:
            env.set_mapsize(env.info()["map_size"] * 2)
        except lmdb.Error as exc:
            free = shutil.disk_usage(os.path.dirname(os.path.abspath(path))).free
            raise DatasetError(f"{path}: cannot be written ({exc}; {free} bytes free)") from None


def array_records(
    images: np.ndarray, labels: Optional[np.ndarray], order: Optional[np.ndarray] = None
) -> Iterator[tuple[bytes, bytes]]:
    """Records of images (N, C, H, W) uint8 or float and labels (N,), if they have any; keys numbered as ``convert_imageset`` does."""
    for i, index in enumerate(range(len(images)) if order is None else order):
        yield f"{i:08d}".encode(), datum_bytes(images[index], None if labels is None else int(labels[index]))


def stratified(labels: np.ndarray, number: int, seed: int = 0) -> np.ndarray:
    """Indices of ``number`` images, the classes in the proportions of the whole, increasing.

    Every class gets its share rounded down, the rest goes to the largest remainders.
    """
    if not 1 <= number <= len(labels):
        raise UsageError(
            f"{number} images are wanted of {len(labels)}; give --images from 1 to {len(labels)}, or --fraction"
        )
    rng = np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    share = counts * number / len(labels)
    take = np.floor(share).astype(int)
    for i in np.argsort(-(share - take), kind="stable")[: number - take.sum()]:
        take[i] += 1
    picked = [rng.choice(np.flatnonzero(labels == c), n, replace=False) for c, n in zip(classes, take)]
    return np.sort(np.concatenate(picked))
