"""JSON files at the edge: limited in size, with errors that name file and place, written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from enc_caffe.errors import EncError
from enc_caffe.output import atomic_file

MAX_BYTES = 64 * 2**20


def read_json(path: Path, kind: str, error: type[EncError]) -> dict[str, Any]:
    """Read one JSON object whose ``format`` is ``kind``.

    Parameters
    ----------
    kind : str
        For example ``enc-caffe-ranks/1``.
    error : exception class to raise for whatever is wrong with the file.
    """
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise error(f"{path}: cannot be read ({exc.strerror})") from None
    if size > MAX_BYTES:
        raise error(f"{path}: {size} bytes, more than the {MAX_BYTES} allowed for a {kind} file")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise error(f"{path}: is not UTF-8 text; a {kind} JSON file is needed") from None
    except json.JSONDecodeError as exc:
        raise error(f"{path}:{exc.lineno}:{exc.colno}: no valid JSON ({exc.msg})") from None
    except (OSError, RecursionError) as exc:
        raise error(f"{path}: cannot be read ({exc})") from None
    if not isinstance(data, dict):
        raise error(f"{path}: holds a {type(data).__name__}; an object with format '{kind}' is needed")
    if data.get("format") != kind:
        raise error(f"{path}: format is {data.get('format')!r}; '{kind}' is needed")
    return data


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write beside, then rename; :class:`OutputError` where that is not possible."""
    with atomic_file(path) as handle:
        handle.write((json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
