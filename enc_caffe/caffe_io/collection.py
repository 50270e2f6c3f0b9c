"""Images as people have them, a folder, a list or arrays, made into an LMDB once and kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.feed import Feed
from enc_caffe.caffe_io.hdf5 import hdf5_files, hdf5_images
from enc_caffe.caffe_io.inputs import image_input
from enc_caffe.caffe_io.sources import Pictures, from_arrays, from_npz, pictures_of, records_of
from enc_caffe.errors import DatasetError, UsageError

#: Raised when the same files would become other records.
VERSION = 1
ARRAYS = (".npz", ".npy")


@dataclass(frozen=True)
class Wanted:
    """How image files become records.

    Attributes
    ----------
    gray : bool
        One channel, else three.
    resize : (H, W), optional
        Size that the user, or a data layer, brings them to.
    fixed : (H, W), optional
        The only size that the network takes: images of several sizes, or of another one, are brought to it.
    any_size : bool
        Whether a crop brings them to one size.
    """

    gray: bool = False
    resize: Optional[tuple[int, int]] = None
    fixed: Optional[tuple[int, int]] = None
    any_size: bool = False


def wanted_of(net: Any, source: str, feed: Feed, images: Optional[Path] = None) -> Wanted:
    """What a network and the user's flags say of how image files are to be read.

    Parameters
    ----------
    images : Path, optional
        Where these are; without it they are taken for pictures.

    Raises
    ------
    UsageError
        If pictures have no size to be brought to.
    """
    rule = feed.transform(net, source, pixels=False)
    shape = () if data_layers(net, "TEST") else image_input(net)[1:]
    gray = rule.force_color is False or (rule.force_color is None and shape[:1] == (1,))
    fixed = (shape[1], shape[2]) if shape and not rule.crop and not rule.resize else None
    if fixed == (1, 1) and not _as_arrays(images):
        # Files whose size is set when they run say so; pictures of one pixel are nobody's. Arrays keep the size that they have.
        raise UsageError(
            f"{source}: its input is 1x1, which stands for a size that is set when it runs; give --input_shape C,H,W"
        )
    return Wanted(gray, rule.resize, fixed, rule.crop > 0)


def collection(
    source: Path,
    cache: Path,
    wanted: Wanted,
    progress: Callable[[int, int], None] = lambda done, all_: None,
    notice: Callable[[str], None] = lambda line: None,
    flag: str = "--images",
) -> Path:
    """An LMDB of a folder of images, a list of them, a single one, a .npz file or HDF5; the same files are not read twice.

    Parameters
    ----------
    cache : Path
        Folder in which LMDBs are kept, each by the names, sizes and times of its files.
    notice : callable of a line that a person should read
        Hears of files that are skipped, and of the size that the others are brought to.
    flag : str
        Where the user named them, for messages.

    Raises
    ------
    DatasetError
        If there is no image, or one cannot be read.
    """
    source = Path(source)
    if not source.exists():
        raise DatasetError(f"{flag} {source}: does not exist")
    if (source / "data.mdb").is_file():
        raise DatasetError(f"{flag} {source}: is an LMDB already; give it as {flag.replace('images', 'lmdb')}")
    pictures: Optional[Pictures] = None
    hdf5 = _hdf5(source)
    if not _as_arrays(source):
        pictures = pictures_of(source)
        for line in pictures.left_out():
            notice(line)
        wanted = _decided(pictures, wanted, notice)
    files = (source, *hdf5) if pictures is None else pictures.files
    path = cache / _digest(source, files, pictures, wanted) / (source.resolve().name or "images")
    if _is_whole(path):
        return path
    if pictures is not None:
        number, records = records_of(pictures, wanted.resize, wanted.gray, 0, wanted.any_size)
    else:
        number, records = from_arrays(*hdf5_images(hdf5), source=str(source)) if hdf5 else from_npz(source)

    def counted() -> Any:
        for i, record in enumerate(records):
            progress(i + 1, number)
            yield record

    # Two commands may make the same one: the first that is whole stays.
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_lmdb(own, counted(), force=True)
    try:
        os.rename(own, path)
    except OSError:
        if _is_whole(path):
            with contextlib.suppress(OSError):
                shutil.rmtree(own)
        else:
            # What is kept was damaged: nobody can do anything about it, and the files are there to make it again.
            shutil.rmtree(path)
            os.rename(own, path)
    return path


def _hdf5(source: Path) -> list[Path]:
    return [] if source.is_dir() else hdf5_files(source)


def _as_arrays(source: Optional[Path]) -> bool:
    """Whether images are arrays, which keep their size, and no pictures."""
    if source is None or not source.exists():
        return False
    return source.suffix.lower() in ARRAYS or bool(_hdf5(source))


def _is_whole(path: Path) -> bool:
    """Whether an LMDB that is kept is there, and can be read."""
    try:
        ImageLmdb(path).close()
    except DatasetError:
        return False
    return True


def _decided(pictures: Pictures, wanted: Wanted, notice: Callable[[str], None]) -> Wanted:
    """What is wanted, with the size that images are brought to where the network takes one only."""
    if wanted.fixed is None or wanted.resize is not None:
        return wanted
    height, width = wanted.fixed
    notice(
        f"{pictures.source}: images of another size are resized to {height}x{width} (height x width), the network's input"
    )
    return Wanted(wanted.gray, wanted.fixed)


def _digest(source: Path, files: tuple[Path, ...], pictures: Optional[Pictures], wanted: Wanted) -> str:
    stats = [(str(f.absolute()), s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]]
    labels = None if pictures is None else pictures.labels
    key = [VERSION, str(source.absolute()), stats, labels, asdict(wanted) if pictures else None]
    return hashlib.sha256(json.dumps(key).encode(errors="surrogateescape")).hexdigest()[:24]
