"""Schemes of your own: modules that the environment names, imported by every command and by every worker process."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from enc_caffe.errors import UsageError

#: Environment variable: modules, or paths of ``.py`` files, separated by commas.
VARIABLE = "ENC_CAFFE_SCHEMES"


def load_extensions() -> None:
    """Import what :data:`VARIABLE` names; each registers its schemes (:func:`enc_caffe.decomposition.register`).

    Raises
    ------
    UsageError
        If a module cannot be imported.
    """
    for name in filter(None, os.environ.get(VARIABLE, "").split(",")):
        module = Path(name).stem if name.endswith(".py") else name
        if module in sys.modules:
            continue
        try:
            if name.endswith(".py"):
                spec = importlib.util.spec_from_file_location(module, name)
                assert spec is not None and spec.loader is not None
                sys.modules[module] = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(sys.modules[module])
            else:
                importlib.import_module(name)
        except (ImportError, OSError, SyntaxError) as exc:
            sys.modules.pop(module, None)
            raise UsageError(f"{VARIABLE}={name}: the module cannot be imported ({exc})") from None
