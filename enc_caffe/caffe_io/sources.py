"""Where images come from: arrays, image folders and lists, CIFAR-10's binary files, another LMDB."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb, array_records, datum_bytes, stratified
from enc_caffe.caffe_io.transform import resized
from enc_caffe.errors import DatasetError, UsageError

Records = Iterator[tuple[bytes, bytes]]
_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
_CIFAR_RECORD = 1 + 3 * 32 * 32
#: What a line of a list looks like.
_LINE = "a line is a path and, where images have labels, a space and one whole number, as convert_imageset takes it"


def padded(images: np.ndarray, pad: int) -> np.ndarray:
    """Images (N, C, H, W) with ``pad`` zero pixels on every side."""
    if pad < 0:
        raise UsageError(f"--pad {pad}: 0 or more is needed")
    return np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad))) if pad else images


def from_npz(
    path: Path, images: Optional[str] = None, labels: Optional[str] = None, pad: int = 0, seed: Optional[int] = 0
) -> tuple[int, Records]:
    """Images (N, C, H, W) or (N, H, W), uint8 or float, and labels (N,) of a .npz file, shuffled.

    Parameters
    ----------
    images, labels : str, optional
        Names of the arrays; without them ``images``, or the only array that can hold images, and ``labels``, if it is there.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            images = images or _images_in(data, path)
            missing = [n for n in (images, labels) if n and n not in data]
            if missing:
                raise DatasetError(f"{path}: has no array '{missing[0]}'; there are {', '.join(data.files)}")
            labels = labels or ("labels" if "labels" in data else None)
            pixels, classes = data[images], data[labels] if labels else None
    except OSError as exc:
        raise DatasetError(f"{path}: cannot be read as .npz ({exc.strerror or exc})") from None
    except (ValueError, AttributeError, TypeError, zipfile.BadZipFile) as exc:
        # A .npy file is an array, which has no names. What is neither NumPy takes for Python's objects, which nobody reads here.
        array = Path(path).suffix == ".npy"
        why = " (a .npy file is one array without a name)" if array else "" if "pickle" in str(exc) else f" ({exc})"
        raise DatasetError(
            f"{path}: cannot be read as .npz{why}; np.savez(file, images=..., labels=...) writes one, and enc-caffe data folder or "
            "list reads image files"
        ) from None
    return from_arrays(pixels, classes, pad, seed, str(path))


def _images_in(data: Any, path: Path) -> str:
    names = [n for n in data.files if data[n].ndim in (3, 4)]
    if "images" in data.files or len(names) != 1:
        return "images"
    return str(names[0])


def from_arrays(
    pixels: np.ndarray, classes: Optional[np.ndarray], pad: int = 0, seed: Optional[int] = 0, source: str = "images"
) -> tuple[int, Records]:
    """Images (N, C, H, W) or (N, H, W), uint8 or float, and labels (N,) or None; shuffled, since Caffe reads an LMDB in order
    (not for ``seed`` None)."""
    pixels = pixels[:, None] if pixels.ndim == 3 else pixels
    real = np.issubdtype(pixels.dtype, np.floating)
    if pixels.ndim != 4 or not (real or pixels.dtype == np.uint8):
        raise DatasetError(
            f"{source}: images are {pixels.dtype} of shape {pixels.shape}; uint8 or float (N, C, H, W) is needed"
        )
    if not len(pixels):
        raise DatasetError(f"{source}: holds no image, its array of images is {pixels.shape}")
    if real and not np.isfinite(pixels).all():
        raise DatasetError(f"{source}: images hold values that are not finite")
    if classes is not None and (classes.shape != (len(pixels),) or not np.issubdtype(classes.dtype, np.integer)):
        raise DatasetError(f"{source}: labels are {classes.dtype} of shape {classes.shape} for {len(pixels)} images")
    order = None if seed is None else np.random.default_rng(seed).permutation(len(pixels))
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


@dataclass(frozen=True)
class Pictures:
    """Image files in an order, with labels or without.

    Attributes
    ----------
    source : str
        Where they come from, for messages.
    files : tuple of Path
    names : tuple of str
        What their records are called by.
    labels : tuple of int, optional
    skipped : tuple of Path
        What lies beside them and is no image by its name, or a link to nothing.
    """

    source: str
    files: tuple[Path, ...]
    names: tuple[str, ...]
    labels: Optional[tuple[int, ...]] = None
    skipped: tuple[Path, ...] = ()

    def left_out(self) -> list[str]:
        """A line about files that are skipped, where there are such."""
        if not self.skipped:
            return []
        first, number, all_ = self.skipped[0], len(self.skipped), len(self.skipped) + len(self.files)
        why = f"is none of {', '.join(sorted(_SUFFIXES))}" if first.is_file() else "leads to no file"
        return [f"{self.source}: {number} of {all_} files {'is' if number == 1 else 'are'} skipped: {first.name} {why}"]


def pictures_of(source: Path) -> Pictures:
    """Image files that a person names: a folder of them (:func:`in_folder`), a list (:func:`in_list`) or a single one."""
    if source.is_dir():
        return in_folder(source)
    return Pictures(str(source), (source,), (source.name,)) if _is_image(source) else in_list(source)


def in_folder(folder: Path) -> Pictures:
    """One sub-folder a class, numbered in the order of their names; or images without labels in the folder itself.

    Raises
    ------
    DatasetError
        If it holds neither, or both.
    """
    folder = Path(folder)
    entries = sorted(folder.iterdir()) if folder.is_dir() else []
    flat = [p for p in entries if _is_image(p)]
    classes = [p for p in entries if p.is_dir()]
    inside = [(f, i) for i, c in enumerate(classes) for f in sorted(c.rglob("*"))]
    files = [x for x in inside if _is_image(x[0])]
    if flat and files:
        raise DatasetError(
            f"{folder}: holds {len(flat)} images beside sub-folders with {len(files)}; sub-folders are classes, images without "
            "labels lie in one folder"
        )
    # Hidden files are the system's own.
    beside, images = [*entries, *(f for f, _ in inside)] if files else entries, {*flat, *(f for f, _ in files)}
    skipped = tuple(f for f in beside if not (f in images or f.name.startswith(".") or f.is_dir()))
    if flat:
        return Pictures(str(folder), tuple(flat), tuple(f.name for f in flat), skipped=skipped)
    if not files:
        raise DatasetError(
            f"{folder}: holds no images ({', '.join(sorted(_SUFFIXES))}), nor sub-folders of them, one for each class"
        )
    return Pictures(
        str(folder), tuple(f for f, _ in files), tuple(f.name for f, _ in files), tuple(i for _, i in files), skipped
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and path.is_file()


def in_list(path: Path, root: Optional[Path] = None) -> Pictures:
    """The files of a list as ``convert_imageset`` takes it: on each line a name and, behind the last space, a label.

    Parameters
    ----------
    root : Path, optional
        Folder that the names begin in; that of the list without it.

    Raises
    ------
    DatasetError
        If it cannot be read, some lines have labels and others none, or a file is not there.
    """
    try:
        # Editors of other systems begin a text with a byte order mark.
        text = Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except (OSError, ValueError) as exc:
        raise DatasetError(f"{path}: cannot be read ({getattr(exc, 'strerror', None) or exc})") from None
    if "\0" in text:
        raise DatasetError(
            f"{path}: is not a text file that lists images; a folder, a list, an image ({', '.join(sorted(_SUFFIXES))}), .npz or HDF5 is needed"
        )
    names: list[str] = []
    files: list[Path] = []
    labels: list[Optional[int]] = []
    root = Path(root or Path(path).parent)
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line:
            continue
        name, _, label = line.rpartition(" ")
        numbered = bool(name) and label.lstrip("-").isdecimal()
        labels.append(int(label) if numbered else None)
        names.append(name.strip() if numbered else line)
        files.append(root / names[-1])
        if not files[-1].is_file():
            raise DatasetError(f"{path}, line {number}: {files[-1]} is no file; names begin in {root}, and {_LINE}")
        if (labels[0] is None) != (labels[-1] is None):
            raise DatasetError(f"{path}, line {number}: some lines have a label behind the name, and some have none")
    if not files:
        raise DatasetError(f"{path}: names no image")
    known = tuple(x for x in labels if x is not None)
    return Pictures(str(path), tuple(files), tuple(names), known if known else None)


def records_of(
    pictures: Pictures, resize: Optional[Sequence[int]], gray: bool, seed: Optional[int] = 0, any_size: bool = False
) -> tuple[int, Records]:
    """Records of image files, channels in BGR order as Caffe's own tools have them; shuffled but for ``seed`` None.

    Parameters
    ----------
    resize : (H, W), optional
    any_size : bool
        Whether sizes may differ, since a crop follows.
    """
    number = len(pictures.files)
    order = range(number) if seed is None else np.random.default_rng(seed).permutation(number)

    def records() -> Records:
        shape: Optional[tuple[int, ...]] = None
        for position, index in enumerate(order):
            path = pictures.files[index]
            pixels = read_picture(path, gray)
            if resize:
                pixels = resized(pixels, (int(resize[0]), int(resize[1])))
            if shape is not None and pixels.shape != shape and not any_size:
                raise DatasetError(f"{path}: has shape {pixels.shape}, the images before it {shape}; give --resize H,W")
            shape = pixels.shape
            label = None if pictures.labels is None else pictures.labels[index]
            yield f"{position:08d}_{pictures.names[index]}".encode(errors="surrogateescape"), datum_bytes(pixels, label)

    return number, records()


def read_picture(path: Path, gray: bool) -> np.ndarray:
    """An image file as (C, H, W), uint8, BGR or gray."""
    import cv2

    try:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR)
    except cv2.error as exc:
        last = (str(exc).strip().splitlines() or [""])[-1]
        raise DatasetError(f"{path}: is refused by OpenCV ({last})") from None
    if image is None:
        raise DatasetError(f"{path}: holds no image that OpenCV can read")
    return image[None] if image.ndim == 2 else image.transpose(2, 0, 1)


def from_folder(
    folder: Path,
    resize: Optional[Sequence[int]],
    gray: bool,
    seed: Optional[int] = 0,
    notice: Callable[[str], None] = lambda line: None,
) -> tuple[int, Records]:
    """Images of a folder (:func:`in_folder`), shuffled; ``notice`` hears of files that are skipped."""
    found = in_folder(folder)
    for line in found.left_out():
        notice(line)
    return records_of(found, resize, gray, seed)


def from_list(
    path: Path, resize: Optional[Sequence[int]], gray: bool, seed: Optional[int] = None, root: Optional[Path] = None
) -> tuple[int, Records]:
    """Images of a list (:func:`in_list`), in its order."""
    return records_of(in_list(path, root), resize, gray, seed)


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
