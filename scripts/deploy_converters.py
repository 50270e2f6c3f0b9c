"""The converters that ``make deploy-test`` runs: what is installed for each, in an environment of its own, and with which Python."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Sequence

from enc_caffe.installation import cache_folder

RUNNER = Path(__file__).resolve().parent / "deploy_run.py"
#: In an environment, when all of it is installed.
STAMP = ".ready"
#: What the converters to ONNX work with; the newest onnx writes what they do not.
_ONNX = ("onnx==1.14.1", "protobuf==3.20.3", "numpy==1.24.4")


@dataclass(frozen=True)
class Converter:
    """A converter or importer of Caffe files, and what runs its result.

    Attributes
    ----------
    name : str
        As the table calls it.
    kind : str
        The function of ``deploy_run.py`` that runs it.
    version : str
        Of the package that converts.
    packages : tuple of str
        What pip installs, versions pinned.
    alone : tuple of str
        What pip installs after that, without what it asks for.
    newest : tuple of int
        The newest Python that it has packages for.
    one_stride : bool
        It reads ``stride`` alone, and takes 1 where ``stride_h`` and ``stride_w`` stand, whatever the network.
    """

    name: str
    kind: str
    version: str
    packages: tuple[str, ...]
    alone: tuple[str, ...] = ()
    newest: tuple[int, int] = (3, 11)
    one_stride: bool = False

    @property
    def folder(self) -> Path:
        """Where its environment is, or will be."""
        digest = hashlib.sha256(json.dumps([self.packages, self.alone]).encode()).hexdigest()[:8]
        return cache_folder() / "converters" / f"{self.kind}-{self.version}-{digest}"


CONVERTERS: tuple[Converter, ...] = (
    Converter("OpenCV", "opencv", "4.12.0.88", ("opencv-python-headless==4.12.0.88", "numpy==2.2.6"), newest=(3, 13)),
    Converter("MNN", "mnn", "3.6.1", ("MNN==3.6.1", "numpy==2.2.6"), newest=(3, 13)),
    Converter("OpenVINO 2022", "openvino", "2022.3.0", ("openvino-dev[caffe]==2022.3.0", "setuptools==65.5.1"), newest=(3, 10)),
    Converter("OpenVINO 2023", "openvino", "2023.3.0", ("openvino-dev[caffe]==2023.3.0", "setuptools==65.5.1")),
    Converter("caffe-onnx", "onnx", "0.1.2", (*_ONNX, "onnxruntime==1.16.3"), ("caffe-onnx==0.1.2",), one_stride=True),
    Converter("caffe2onnx", "onnx", "2.0.1", (*_ONNX, "onnxruntime==1.16.3", "setuptools==65.5.1"), ("caffe2onnx==2.0.1",)),
    Converter("ncnn", "ncnn", "1.0.20261020", (*_ONNX, "setuptools==65.5.1"), ("caffe2onnx==2.0.1", "pnnx==20261020", "ncnn==1.0.20261020")),
)  # fmt: skip


def python_for(newest: tuple[int, int], oldest: tuple[int, int] = (3, 8)) -> Optional[Path]:
    """An interpreter of a version from ``oldest`` to ``newest``: this one's, else the newest of PATH or of pyenv; None if none."""
    if oldest <= sys.version_info[:2] <= newest:
        return Path(sys.executable)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in range(newest[1], oldest[1] - 1, -1):
        name = f"python{newest[0]}.{minor}"
        for place in (shutil.which(name), *sorted(pyenv.glob(f"*/bin/{name}"))):
            if place and not subprocess.run([str(place), "-c", "import venv"], capture_output=True).returncode:
                return Path(place)
    return None


def environment(converter: Converter) -> Path:
    """The interpreter of a converter's environment, which is made where it is not there yet.

    Raises
    ------
    RuntimeError
        If there is no Python for it, or pip fails.
    """
    folder = converter.folder
    python = folder / "bin" / "python"
    if (folder / STAMP).is_file():
        return python
    base = python_for(converter.newest)
    if base is None:
        raise RuntimeError(f"it needs a Python of at most {'.'.join(map(str, converter.newest))}, and none is here")
    print(f"installing {converter.name} {converter.version} into {folder}", file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([str(base), "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *converter.packages])
    if converter.alone:
        # --no-build-isolation: a package of 2021 wants the setuptools of then.
        _run([*pip, "wheel==0.38.4"])
        _run([*pip, "--no-deps", "--no-build-isolation", *converter.alone])
    (folder / STAMP).touch()
    return python


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if x.startswith("ERROR")] or done.stderr.splitlines()[-1:]
        raise RuntimeError(f"pip: {lines[0] if lines else 'no message'}")
