"""Float arrays that one step of a long work hands on to the next: raw files, two in turn, so that nothing is copied more than once.

A step reads the file that the one before wrote and writes the other one over what lies there. A file counts by its index, which says
the step and how long the file is, and which is written when all of it is there.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

import numpy as np

from enc_caffe.errors import OutputError
from enc_caffe.files.jsonfile import write_json

#: The two files in turn.
SLOTS = "ab"


def _data(folder: Path, name: str, slot: str) -> Path:
    return Path(folder) / f"{name}-{slot}.raw"


def _index(folder: Path, name: str, slot: str) -> Path:
    return Path(folder) / f"{name}-{slot}.json"


def _read_index(folder: Path, name: str, slot: str) -> dict[str, Any]:
    """Of a file that is whole; else empty."""
    with contextlib.suppress(OSError, ValueError):
        index = json.loads(_index(folder, name, slot).read_text(encoding="utf-8"))
        if isinstance(index, dict) and _data(folder, name, slot).stat().st_size >= index["size"]:
            return index
    return {}


def _slot_of(folder: Path, name: str, step: int) -> Optional[str]:
    return next((s for s in SLOTS if _read_index(folder, name, s).get("step") == step), None)


@contextlib.contextmanager
def handing_on(
    folder: Path, name: str, step: int, before: Optional[int] = None
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """What a step hands on: a function of key and array (float32 is what is kept). It counts when the block ends.

    Parameters
    ----------
    before : int, optional
        The step whose file must stay.

    Raises
    ------
    OutputError
        If the folder cannot be written or the disk is full.
    """
    held = None if before is None else _slot_of(folder, name, before)
    slot = next(s for s in SLOTS if s != held)
    path, size, arrays = _data(folder, name, slot), 0, {}
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # What is half overwritten must not count.
        _index(folder, name, slot).unlink(missing_ok=True)
        # Not cut to nothing: pages that are there need not be found again.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "wb") as handle:

            def add(key: str, array: np.ndarray) -> None:
                nonlocal size
                values = np.ascontiguousarray(array, np.float32)
                handle.write(values.data)
                arrays[key] = [size, list(array.shape)]
                size += values.nbytes

            yield add
    except OSError as exc:
        raise OutputError(f"{path}: cannot be written ({exc.strerror})") from None
    write_json(_index(folder, name, slot), {"step": step, "size": size, "arrays": arrays})


def handed_on(folder: Path, name: str, step: int) -> Optional[dict[str, np.ndarray]]:
    """What a step handed on, mapped; None where it is not there or not whole."""
    slot = _slot_of(folder, name, step)
    if slot is None:
        return None
    index = _read_index(folder, name, slot)
    try:
        flat = (
            np.memmap(_data(folder, name, slot), np.float32, "r", shape=index["size"] // 4) if index["size"] else None
        )
        found = {}
        for key, (offset, shape) in index["arrays"].items():
            count = int(np.prod(shape))
            own = flat[offset // 4 : offset // 4 + count] if flat is not None else np.zeros(0, np.float32)
            found[key] = own.reshape(shape)
        return found
    except (OSError, ValueError, KeyError, TypeError):
        return None
