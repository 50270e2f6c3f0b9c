"""Processes that end with the one that started them."""

from __future__ import annotations

import contextlib
import ctypes
import signal


def die_with_parent() -> None:
    """In a process that was just forked: end it with the one that started it."""
    # Otherwise a killed enc-caffe would leave caffe train running beside the one that a second start begins. At SIGTERM
    # it would still finish its iteration and write a snapshot.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
