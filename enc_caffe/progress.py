"""How stages tell how far they are: three signatures, and for each one that nobody sees."""

from __future__ import annotations

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
