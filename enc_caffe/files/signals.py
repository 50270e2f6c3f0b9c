"""Interruptions that wait until a short step is whole."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import Any, Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended: for steps that take no time, of which half would be left behind.

    Only what raises in Python can wait, and it does so in the main thread alone; in others nothing has to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[tuple[int, Any]] = []
    before: dict[int, Any] = {}

    def remember(number: int, frame: Any) -> None:
        came.append((number, frame))

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                before[number] = handler
                signal.signal(number, remember)
        yield
    finally:
        for replaced, handler in before.items():
            signal.signal(replaced, handler)
    for came_in, frame in came:
        before[came_in](came_in, frame)
