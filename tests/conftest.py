"""What several tests need: the shared data, and the 1,017 test images as an LMDB."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# A limit on the time of one example would fail on a machine that is busy; pytest's own ends what hangs.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the paper's ResNet-56, CIFAR-10 images, metrics and published ranks; skips where it is absent."""
    folder = Path(os.environ.get("ENC_CAFFE_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "res56.caffemodel").is_file():
        pytest.skip(f"{folder} has no res56.caffemodel: name the folder with the data by ENC_CAFFE_DATA")
    return folder


@pytest.fixture(scope="session")
def cifar_test_lmdb(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The subset's 1,017 test images."""
    from enc_caffe.caffe_io.datum import write_lmdb
    from enc_caffe.caffe_io.sources import from_arrays

    path = tmp_path_factory.mktemp("cifar") / "test_lmdb"
    with np.load(shared_data / "cifar10_subset.npz", allow_pickle=False) as data:
        write_lmdb(path, from_arrays(data["test_images"], data["test_labels"].astype(np.int64))[1])
    return path


def script(name: str):
    """A script of scripts/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory):
    """The demo's folder and the rows of its table; what it makes is for reading."""
    out = tmp_path_factory.mktemp("demo")
    return out, script("demo").run(out)
