"""The one gate to Caffe's protobuf messages.

``caffe_pb2`` is loaded from its file: importing it as ``caffe.proto.caffe_pb2`` would run ``caffe/__init__.py``, which
loads the whole shared library. A pycaffe that this process imports afterwards takes the same module: protobuf refuses messages that
are defined twice.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from typing import Any

from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.installation import find_caffe

#: What pycaffe calls it.
NAME = "caffe.proto.caffe_pb2"


@functools.cache
def caffe_pb2() -> Any:
    """Caffe's generated protobuf module.

    Raises
    ------
    CaffeNotFoundError
        If no Caffe is installed, or its module does not fit the installed protobuf.
    """
    loaded = sys.modules.get(NAME)
    if loaded is not None:
        return loaded
    path = find_caffe().caffe_pb2
    spec = importlib.util.spec_from_file_location(NAME, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (TypeError, ImportError) as exc:
        first = str(exc).strip().splitlines()[0]
        raise CaffeNotFoundError(f"{path} does not fit the installed protobuf ({first}); run make caffe") from None
    sys.modules[NAME] = module
    return module
