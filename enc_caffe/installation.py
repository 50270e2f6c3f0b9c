"""Where Caffe is, found without importing it (its shared library takes long to load, and may abort)."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional

from enc_caffe.errors import CaffeNotFoundError

TOOLS = (
    "caffe",
    "convert_imageset",
    "compute_image_mean",
    "upgrade_net_proto_text",
    "upgrade_net_proto_binary",
    "upgrade_solver_proto_text",
)


#: Layer types of a Caffe that --caffe_root names, in the environment of its processes.
TYPES = "ENC_CAFFE_TYPES"


def more_types() -> frozenset[str]:
    """Layer types that the Caffe named by --caffe_root says it has; none without one."""
    return frozenset(filter(None, os.environ.get(TYPES, "").split(",")))


@dataclass(frozen=True)
class CaffeInstallation:
    """One usable Caffe.

    Attributes
    ----------
    python_dir : Path
        Folder that holds the ``caffe`` module.
    tools : mapping of tool name to program; a tool that is not there is absent
    origin : str
        How it was found.
    about : mapping
        What ``make caffe`` recorded of its build (empty for a Caffe from elsewhere).
    kernel_tool : Path or None
        Program that names the best BLAS kernels.
    """

    python_dir: Path
    tools: Mapping[str, Path]
    origin: str
    about: Mapping[str, object] = field(default_factory=dict)
    kernel_tool: Optional[Path] = None

    @property
    def caffe_pb2(self) -> Path:
        """The generated protobuf module."""
        return self.python_dir / "caffe" / "proto" / "caffe_pb2.py"

    def tool(self, name: str) -> Path:
        """Path of one of Caffe's programs."""
        try:
            return self.tools[name]
        except KeyError:
            raise CaffeNotFoundError(
                f"Caffe's program '{name}' is not beside the module in {self.python_dir}; make caffe builds it"
            ) from None


def _from_root(root: Path, origin: str) -> CaffeInstallation:
    python_dir = root / "python"
    about_file = root / "enc-caffe-install.json"
    about = json.loads(about_file.read_text()) if about_file.is_file() else {}
    folders = [
        root / "bin",
        root / "build" / "tools",
        root / "build" / "install" / "bin",
        root / ".build_release" / "tools",
    ]
    folders.append(Path(sys.executable).parent)
    tools = {}
    for name in TOOLS:
        places = [f / name for f in folders]
        found = shutil.which(name)
        places += [Path(found)] if found else []
        for place in places:
            if os.access(place, os.X_OK):
                tools[name] = place
                break
    kernel = root / "bin" / "blas-kernel"
    return CaffeInstallation(python_dir, tools, origin, about, kernel if kernel.is_file() else None)


@functools.cache
def find_caffe() -> CaffeInstallation:
    """The Caffe to use: ``CAFFE_ROOT``, else the one that this Python can import.

    Raises
    ------
    CaffeNotFoundError
    """
    named = os.environ.get("CAFFE_ROOT")
    if named:
        found = _from_root(Path(named).resolve(), f"CAFFE_ROOT={named}")
        if not found.caffe_pb2.is_file():
            raise CaffeNotFoundError(
                f"CAFFE_ROOT={named}: {found.caffe_pb2} is missing; name a built Caffe, or unset CAFFE_ROOT and run make caffe"
            )
        return found
    spec = importlib.util.find_spec("caffe")
    if spec is None or not spec.submodule_search_locations:
        raise CaffeNotFoundError("no Caffe can be imported by this Python; make caffe builds one (or set CAFFE_ROOT)")
    module = Path(next(iter(spec.submodule_search_locations))).resolve()
    if not (module / "proto" / "caffe_pb2.py").is_file():
        raise CaffeNotFoundError(f"{module} is no pycaffe (proto/caffe_pb2.py is missing); make caffe builds one")
    return _from_root(module.parent.parent, f"importable from {module.parent}")


def cache_folder() -> Path:
    """The per-user cache, which ENC_CAFFE_CACHE can name."""
    return Path(
        os.environ.get("ENC_CAFFE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enc-caffe"
    )
