"""Arrays that stages hand on as files: whole or not there, and nothing that is damaged is believed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Union
from urllib.parse import quote

import numpy as np

from enc_caffe.decomposition import Factors
from enc_caffe.errors import EncError, OutputError
from enc_caffe.form import Form

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


def factor_file(folder: Union[str, Path], layer: str, form: Form) -> Path:
    """Where the factors of a layer in a form are."""
    return Path(folder) / f"{quote(layer, safe='')}-{form.scheme}-{'x'.join(map(str, form.ranks))}.npz"


def write_factors(folder: Union[str, Path], layer: str, form: Form, factors: Factors, error: float) -> None:
    """Keep the weights of every stage, in the single precision that a caffemodel has, and the error of the layer's output."""
    arrays = {f"stage{i}": x.astype(np.float32) for i, x in enumerate(factors)}
    arrays["error"] = np.array(error)
    write_arrays(factor_file(folder, layer, form), arrays)


def read_factors(folder: Union[str, Path], layer: str, form: Form) -> Factors:
    """Weights of every stage.

    Raises
    ------
    EncError
        If they are not there or damaged.
    """
    arrays = _factor_arrays(folder, layer, form)
    return [arrays[f"stage{i}"] for i in range(len(arrays) - 1)]


def read_error(folder: Union[str, Path], layer: str, form: Form) -> float:
    """Part of the power of the layer's output that its factors lose."""
    return float(_factor_arrays(folder, layer, form)["error"])


def _factor_arrays(folder: Union[str, Path], layer: str, form: Form) -> dict[str, np.ndarray]:
    path = factor_file(folder, layer, form)
    arrays = read_arrays(path)
    if arrays is None or "error" not in arrays:
        raise EncError(f"{path}: factors are missing or damaged; run the command again")
    return arrays
