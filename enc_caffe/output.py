"""Outputs appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO, Iterator

from enc_caffe.errors import OutputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Binary file that replaces ``path`` when the block ends without an error.

    Raises
    ------
    OutputError
        If the folder does not exist, cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
    try:
        with handle:
            yield handle  # type: ignore[misc]
            handle.flush()
            os.fsync(handle.fileno())
        # mkstemp makes private files; outputs get the permissions of an ordinary new file.
        os.chmod(handle.name, 0o666 & ~_umask())
        os.replace(handle.name, path)
    except BaseException as exc:
        with contextlib.suppress(OSError):
            os.unlink(handle.name)
        if isinstance(exc, OSError):
            raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_parent(path: Path) -> None:
    """Refuse an output file whose folder is missing or not writable; say so before any work is done."""
    parent = Path(path).absolute().parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{path}: cannot be written, {parent} is not a writable folder")


def check_new(path: Path, force: bool) -> None:
    """Refuse an output folder that exists, unless ``force``; say so before any work is done."""
    path = Path(path)
    if path.exists() and not force:
        raise OutputError(f"{path}: exists already; --force replaces it, or name another --out")
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise OutputError(f"{path}: cannot be created, {parent} is not a writable folder")


@contextlib.contextmanager
def atomic_folder(path: Path, force: bool = False) -> Iterator[Path]:
    """Folder that takes the name ``path`` when the block ends without an error.

    Parameters
    ----------
    force : bool
        Replace a folder that exists; it is moved away first and deleted last.
    """
    path = Path(path)
    check_new(path, force)
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.absolute().parent, prefix=f".{path.name}."))
        os.chmod(work, 0o777 & ~_umask())
    except OSError as exc:
        raise OutputError(f"{path}: cannot be created ({exc.strerror})") from None
    try:
        yield work
        if path.exists():
            old = work.with_name(work.name + ".old")
            os.rename(path, old)
            os.rename(work, path)
            shutil.rmtree(old, ignore_errors=True) if old.is_dir() else old.unlink()
        else:
            os.rename(work, path)
    except BaseException as exc:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(exc, OSError):
            raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
        raise
