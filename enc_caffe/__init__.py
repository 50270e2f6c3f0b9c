"""Low-rank compression of whole Caffe networks: decomposition, metrics, rank search, emission.

The package's functions are ``load``, ``metrics``, ``search``, ``emit``, ``evaluate`` and ``compress``
(:mod:`enc_caffe.api`); each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["compress", "emit", "evaluate", "load", "metrics", "search"]

if TYPE_CHECKING:
    from enc_caffe.api import compress, emit, evaluate, load, metrics, search

_API = ("load", "emit", "evaluate", "compress")


def __getattr__(name: str) -> Any:
    if name in ("metrics", "search"):
        # These are rooms of the package too, which can be called.
        return importlib.import_module(f"enc_caffe.{name}")
    if name not in _API:
        raise AttributeError(f"module 'enc_caffe' has no attribute '{name}'")
    return getattr(importlib.import_module("enc_caffe.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
