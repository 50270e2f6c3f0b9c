"""Rooms that can be called: ``enc_caffe.metrics(...)`` beside ``enc_caffe.metrics.table``.

A room takes the place of a function of the same name as soon as one of its modules is imported; so it passes calls on.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class CallableRoom(ModuleType):
    """A package that is also the function of its name in :mod:`enc_caffe.api`."""

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        """Call the function."""
        return self._function(*arguments, **more)

    @property
    def _function(self) -> Any:
        return getattr(importlib.import_module("enc_caffe.api"), self.__name__.rpartition(".")[2])

    @property
    def __wrapped__(self) -> Any:
        # ``help`` and ``inspect.signature`` show the function's.
        return self._function


def make_callable(name: str) -> None:
    """Let the package of this name be called."""
    sys.modules[name].__class__ = CallableRoom
