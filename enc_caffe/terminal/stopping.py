"""SIGTERM (``docker stop``, batch systems, ``make``) stops a command as Ctrl-C does, so that snapshots and stores are kept."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from typing import Any, Callable, Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; whatever tidies up after Ctrl-C does so after this."""


def _terminate(number: int, frame: Any) -> None:
    raise Terminated


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Raise :class:`Terminated` in the main thread at SIGTERM, while the block runs; nothing in other threads."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def stoppable(name: str, run: Callable[[], int]) -> int:
    """Run a program; its exit status, or 130 after Ctrl-C and 143 after SIGTERM, as shells have it, with one line."""
    try:
        with sigterm_interrupts():
            return run()
    except KeyboardInterrupt as exc:
        terminated = isinstance(exc, Terminated)
        print(f"{name}: {'stopped by SIGTERM' if terminated else 'interrupted'}", file=sys.stderr)
        return 143 if terminated else 130
