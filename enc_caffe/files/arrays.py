"""Arrays that stages hand on as files: whole or not there, and nothing that is damaged is believed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional

import numpy as np

from enc_caffe.errors import OutputError

#: Last member of every file: one that lost its end is not whole.
END = "end"


@contextlib.contextmanager
def arrays_writer(path: Path) -> Iterator[Callable[[str, np.ndarray], None]]:
    """A file of named arrays that are given one after the other; it appears whole when the block ends.

    Raises
    ------
    OutputError
        If the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".npz")
        try:
            with os.fdopen(descriptor, "wb") as handle, zipfile.ZipFile(handle, "w") as archive:

                def add(key: str, array: np.ndarray) -> None:
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)

                yield add
                add(END, np.zeros(0))
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays; the file appears whole."""
    with arrays_writer(path) as add:
        for name, array in arrays.items():
            add(name, array)


#: What reading a file that is not there, cut off or changed raises: its members have checksums. The archive's own fields
#: have none; a changed one reads as an unknown compression (NotImplementedError) or encryption (RuntimeError).
UNREADABLE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile)


def read_arrays(path: Path) -> Optional[dict[str, np.ndarray]]:
    """Named arrays of a file; None where it is not there or damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            if END not in data.files:
                return None
            return {name: data[name] for name in data.files if name != END}
    except UNREADABLE:
        return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file for the block; another process that wants it waits. It ends with the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
