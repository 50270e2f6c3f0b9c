"""JSON files at the edge: limited in size, with errors that name file and place, written whole or not at all."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Optional, Union

from enc_caffe.errors import EncError
from enc_caffe.files.output import atomic_file

#: The largest file: Python's objects take up to 25 times as much memory. Metrics of VGG-16 with all of its layers take 1 MiB.
MAX_BYTES = 16 * 2**20
#: Objects and lists inside each other; the project's own formats need 5.
MAX_DEPTH = 64
_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(path: Path, kinds: Union[str, tuple[str, ...]], error: type[EncError]) -> dict[str, Any]:
    """Read one JSON object whose ``format`` is one of ``kinds``.

    Parameters
    ----------
    kinds : str or tuple of str
        For example ``enc-caffe-ranks/2``, the newest first.
    error : exception class to raise for whatever is wrong with the file.
    """
    known = (kinds,) if isinstance(kinds, str) else kinds
    kind = known[0]
    try:
        size = path.stat().st_size
    except OSError as exc:
        raise error(f"{path}: cannot be read ({exc.strerror})") from None
    if size > MAX_BYTES:
        raise error(f"{path}: {size} bytes, more than the {MAX_BYTES} allowed for a {kind} file")
    try:
        text = path.read_text(encoding="utf-8")
        _check_depth(text, path, error)
        data = json.loads(text)
        if _SURROGATE.search(text):
            # Half a character in a name could be neither printed nor written.
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise error(f"{path}: holds half a character (a lone \\ud800 to \\udfff)") from None
    except UnicodeDecodeError:
        raise error(f"{path}: is not UTF-8 text; a {kind} JSON file is needed") from None
    except json.JSONDecodeError as exc:
        raise error(f"{path}:{exc.lineno}:{exc.colno}: no valid JSON ({exc.msg})") from None
    except ValueError:
        raise error(f"{path}: holds a whole number of more digits than any field can have") from None
    except OSError as exc:
        raise error(f"{path}: cannot be read ({exc.strerror})") from None
    if not isinstance(data, dict):
        raise error(f"{path}: holds a {type(data).__name__}; an object with format '{kind}' is needed")
    if data.get("format") not in known:
        raise error(f"{path}: format is {data.get('format')!r}; '{kind}' is needed")
    return data


def _check_depth(text: str, path: Path, error: type[EncError]) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth = 0
    for bracket in _BRACKET.finditer(text):
        if text[bracket.start()] in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise error(f"{path}: is nested more than {MAX_DEPTH} deep, more than any field needs")
        elif text[bracket.start()] in "]}":
            depth -= 1


def check_finite(data: Any, where: str, error: type[EncError]) -> None:
    """Refuse NaN and infinity in fields that are kept as they are: no JSON file could be written with them."""
    todo: list[Any] = [data]
    while todo:
        own = todo.pop()
        if isinstance(own, float) and not math.isfinite(own):
            raise error(f"{where} holds NaN or infinity")
        if isinstance(own, (dict, list, tuple)):
            todo.extend(own.values() if isinstance(own, dict) else own)


def whole(value: Any, low: int = 1, high: int = 2**31 - 1) -> int:
    """A whole number of a JSON file, also where it is written as 5.0; ValueError that says what is wrong with another value."""
    number: Optional[int] = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer():
        number = int(value)
    if number is None or not low <= number <= high:
        raise ValueError(f"{str(value)[:40]!s} where a whole number of {low} to {high} is needed")
    return number


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write beside, then rename; :class:`OutputError` where that is not possible."""
    with atomic_file(path) as handle:
        handle.write((json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
