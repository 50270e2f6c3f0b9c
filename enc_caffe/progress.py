"""How stages tell how far they are: three signatures, for each one that nobody sees, and names that are counted."""

from __future__ import annotations

import time
from typing import Callable

#: What is done, and how much there is in all.
Progress = Callable[[int, int], None]
#: The same of several stages: which, what of it is done, how much of it there is.
Stages = Callable[[str, int, int], None]
#: Name of what was done last.
Names = Callable[[str], None]


def silent(done: int, all_: int) -> None:
    """Progress that nobody sees."""


def quiet(what: str, done: int, all_: int) -> None:
    """Progress of several stages that nobody sees."""


def unnamed(name: str) -> None:
    """Names that nobody sees."""


def by_name(progress: Progress, all_: int, after: float = 0.0) -> Names:
    """Names as they are done, for a progress that counts them; it sees nothing before ``after`` seconds."""
    done, start = 0, time.monotonic()

    def one(name: str) -> None:
        nonlocal done
        done += 1
        if time.monotonic() - start >= after:
            progress(done, all_)

    if after <= 0:
        progress(0, all_)
    return one
