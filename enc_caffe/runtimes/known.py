"""The runtimes that networks are timed in: what is installed for each, and where it is found."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from enc_caffe.errors import UsageError
from enc_caffe.installation import cache_folder

ADAPTERS = Path(__file__).resolve().parent / "adapters"
#: In an environment that ``make deploy-test`` made, when all of it is installed.
STAMP = ".ready"


@dataclass(frozen=True)
class Runtime:
    """A runtime.

    Attributes
    ----------
    name : str
        As ``--runtime`` has it, and its adapter's file.
    modules : tuple of str
        What a Python must be able to import.
    install : str
        The commands that install it.
    cached : tuple of str
        How folders of its environments begin in the converters' cache, best first.
    winograd : bool
        It runs 3x3 convolutions of stride 1 by Winograd, and those of 3x1 and 1x3 not.
    one_image : bool
        It takes one image at a time.
    together : bool
        Its adapter converts several networks as one.
    reloads : bool
        Loading a network again takes little.
    shared : str
        A file beside its adapter that goes out with it.
    grows : int
        How many times the bytes of the weights a pass reads about: Winograd's transformed weights of 3x3 are 64 of 8x8 tiles for 9.
    """

    name: str
    modules: tuple[str, ...]
    install: str
    cached: tuple[str, ...] = ()
    winograd: bool = False
    one_image: bool = False
    grows: int = 2
    together: bool = False
    shared: str = ""
    reloads: bool = True

    @property
    def adapter(self) -> Path:
        """The file that its process runs."""
        return ADAPTERS / f"{self.name}.py"


_ONNX = 'pip install onnx==1.14.1 protobuf==3.20.3 numpy==1.24.4 "setuptools<66" wheel{more}; pip install --no-deps --no-build-isolation caffe2onnx==2.0.1{last} (Python up to 3.11)'  # fmt: skip
RUNTIMES: dict[str, Runtime] = {
    r.name: r for r in (
        Runtime("caffe", ("enc_caffe",), "make caffe"),
        Runtime("opencv", ("cv2",), 'pip install "opencv-python-headless<5"', ("opencv-4",), grows=8),
        Runtime("mnn", ("MNN",), "pip install MNN==3.6.1", ("mnn-",), winograd=True, grows=8),
        Runtime("ncnn", ("ncnn", "caffe2onnx", "pnnx"), _ONNX.format(more="", last=" pnnx==20261020 ncnn==1.0.20261020"), ("ncnn-",), True, True, 8, True, "by_onnx.py"),
        Runtime("openvino", ("openvino.tools.mo",), 'pip install "openvino-dev[caffe]==2023.3.0" "setuptools<66" (Python up to 3.11)', ("openvino-2023", "openvino-2022"), reloads=False),
        Runtime("onnxruntime", ("onnxruntime", "caffe2onnx"), _ONNX.format(more=" onnxruntime==1.16.3", last=""), ("onnx-2", "onnx-0"), shared="by_onnx.py", reloads=False),
    )
}  # fmt: skip


def runtime_for(name: str) -> Runtime:
    """A runtime by name.

    Raises
    ------
    UsageError
        Naming the known ones.
    """
    if name not in RUNTIMES:
        raise UsageError(f"--runtime {name}: known are {', '.join(RUNTIMES)}")
    return RUNTIMES[name]


def interpreter(runtime: Runtime, given: Optional[Path] = None) -> Path:
    """The Python that has a runtime: the one that is given, this one, or one that ``make deploy-test`` made.

    Raises
    ------
    UsageError
        If there is none, with what installs it.
    """
    if given is not None:
        # An environment's folder is taken for its Python.
        python = given / "bin" / "python" if given.is_dir() else given
        if not python.is_file():
            why = "a folder without bin/python" if given.is_dir() else "no such file"
            raise UsageError(f"--runtime_python {given}: {why}; name a Python that has {runtime.name}")
        return python.absolute()
    if all(_importable(module) for module in runtime.modules):
        return Path(sys.executable)
    for beginning in runtime.cached:
        for folder in sorted((cache_folder() / "converters").glob(f"{beginning}*"), reverse=True):
            if (folder / STAMP).is_file() and (folder / "bin" / "python").is_file():
                return folder / "bin" / "python"
    raise UsageError(
        f"--runtime {runtime.name}: it is not installed here. In an environment of its own: {runtime.install}; then "
        f"--runtime_python ENVIRONMENT/bin/python (make deploy-test installs all of them)"
    )


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False
