"""Progress on standard error: bars on a terminal, elsewhere (a log) a line a minute."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from typing import Callable, Iterator, Optional

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

#: Seconds of a step from which on they are shown.
WAITING = 3.0
#: Seconds between two lines in a log.
LOGGED = 60.0


class _Log:
    """Lines in place of a bar."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()

    def __call__(self, what: str, done: Optional[int], all_: Optional[int]) -> None:
        """Say how far a step is, where nothing was said for :data:`LOGGED` seconds."""
        now = time.monotonic()
        if now - self._last < LOGGED:
            return
        self._last = now
        number = "" if done is None else f" {done:,} of {all_:,}" if all_ else f" {done:,}"
        print(f"{what}{number} ({datetime.timedelta(seconds=int(now - self._begun))})", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Steps a second since a while."""
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")


@contextlib.contextmanager
def stage_bars() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar for each of several stages, on standard error."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task, now = bar.add_task("", total=None), ""
        log = _Log()

        def step(what: str, done: int, all_: int) -> None:
            nonlocal now
            if not console.is_terminal:
                log(what, done, all_)
                return
            if what != now:
                now = what
                bar.reset(task, description=what, total=all_)
            bar.update(task, completed=done, total=all_)

        yield step


class _Waiting(ProgressColumn):
    def render(self, task: Task) -> Text:
        """How long the present step has taken, where one has to wait for it."""
        seconds = time.monotonic() - task.fields["since"]
        return Text(f"(for {datetime.timedelta(seconds=int(seconds))})" if seconds >= WAITING else "")


@contextlib.contextmanager
def progress_bar(
    what: str, total: Optional[int], rate: bool = False, waits: bool = False
) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error; the callable takes what is done, what there is in all, and perhaps a word on it.

    ``rate``: also how many a second. ``waits``: the word is of a step that may take long, and how long it has taken stands behind it;
    what is done and what there is in all stay as they are where they are None, and so does the word without another one.
    """
    columns = (
        TextColumn("{task.description}"),
        *([_Waiting()] if waits else []),
        BarColumn(),
        MofNCompleteColumn(),
        *([_Rate()] if rate else []),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total, since=time.monotonic())
        log = _Log()

        def step(done: Optional[int], all_: Optional[int], note: str = "") -> None:
            if not console.is_terminal:
                log(f"{what}: {note}" if note else what, done, all_)
                return
            words = f"{what}: {escape(note)}" if note else what
            if waits and note:
                bar.update(task, description=words, since=time.monotonic())
            elif not waits:
                bar.update(task, description=words)
            bar.update(task, completed=done, total=all_)

        yield step
