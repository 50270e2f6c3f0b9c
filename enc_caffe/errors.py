"""The one exception family of the toolkit.

Every error a user can cause is an :class:`EncError`; the command line turns it into one or two lines on
standard error and an exit status. A message states the rule, where it was broken (file, layer), both values,
and what to do.
"""

from __future__ import annotations

import difflib
from typing import Any, Iterable

#: Characters of a line at most: names in files from strangers can be as long as the file.
LONGEST = 2000


class EncError(Exception):
    """Base of all errors that a user can cause or meet; exit status 1.

    Names and values in a message come from files: what a terminal would not show as it is (line ends, escape sequences, halves
    of characters) is written as escapes, and a line that is too long is cut in its middle.

    Parameters
    ----------
    lines : str
        The message; where it needs several lines, one argument each, three at most.
    """

    exit_status = 1

    def __init__(self, *lines: object) -> None:
        super().__init__(*(_shown(str(line)) for line in lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


def _shown(text: str) -> str:
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
    return text


class UsageError(EncError):
    """The words of a command line or the arguments of a call do not fit together; exit status 2."""

    exit_status = 2


class PrototxtError(EncError):
    """A prototxt cannot be read, or describes no legal network."""


class WeightsError(EncError):
    """A caffemodel cannot be read, or does not fit its prototxt."""


class BlobShapeError(WeightsError):
    """A blob has another shape than the prototxt asks for, which sizes of images have a part in."""


class NetworkError(EncError):
    """A network breaks one of Caffe's rules (shapes, bottoms, tops, cycles)."""


class UnknownSizeError(NetworkError):
    """Nothing says how large a network's images are.

    Parameters
    ----------
    why : str
    remedy : str
        What to give; flags that the command has.
    """

    def __init__(self, why: str, remedy: str) -> None:
        super().__init__(f"{why}; give {remedy}")
        self.why = why
        self.remedy = remedy

    def __reduce__(self) -> Any:
        """For a worker's process, which sends it as it was made."""
        return type(self), (self.why, self.remedy)


class PlanError(EncError):
    """A rank plan does not fit the network it is meant for."""


class MetricsError(EncError):
    """A metrics file or table is incomplete, inconsistent, or of an unknown version."""


class InfeasibleError(EncError):
    """No rank configuration satisfies the constraints."""


class DatasetError(EncError):
    """An LMDB or an image source is missing, empty, or does not fit the network."""


class OutputError(EncError):
    """An output exists already or cannot be written."""


class CaffeError(EncError):
    """Caffe itself stopped: the message carries its own last line."""


class RuntimeRefusal(EncError):
    """A runtime, or its importer, does not take a network: the message carries its last words."""


class CaffeNotFoundError(EncError):
    """No usable Caffe: ``make caffe`` builds one."""


def nearest(name: str, known: Iterable[str]) -> str:
    """For a message about a name that there is none of: which may have been meant, or nothing."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]}?)" if near else ""
