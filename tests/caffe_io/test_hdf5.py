"""Caffemodels in HDF5, written by stock Caffe."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.cli import main
from enc_caffe.errors import WeightsError
from enc_caffe.form import Form
from enc_caffe.plan import Plan, write_plan
from enc_caffe.workers.executor import CaffeExecutor
from tests.caffe_io.legacy import write_legacy
from tests.caffe_tools.test_loadable import PLAIN, weights_of

h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py: pip install 'enc-caffe[hdf5]'")

pytestmark = pytest.mark.caffe


def to_hdf5(prototxt: str, weights: str, out: str) -> None:
    """Caffe's own conversion, in a process of its own."""
    from enc_caffe.workers.pycaffe import load_net

    load_net(prototxt, weights).save_hdf5(out)


def test_weights_that_caffe_wrote_are_read_and_emitted(tmp_path: Path, capsys) -> None:
    layers = weights_of("c1 c2 fc")
    (tmp_path / "n.prototxt").write_text(PLAIN)
    write_legacy(tmp_path / "w.caffemodel", "V1", layers)
    # The name says nothing of the format.
    for name in ("w.caffemodel.h5", "odd.caffemodel"):
        with CaffeExecutor(1, 1) as executor:
            executor.result(executor.submit(to_hdf5, PLAIN, str(tmp_path / "w.caffemodel"), str(tmp_path / name)))
        model = CaffeModel(tmp_path / name)
        for layer, (_, arrays) in layers.items():
            for blob, array in zip(model.layers[layer].blobs, arrays):
                np.testing.assert_array_equal(model.array(blob), array)
        write_plan(tmp_path / "r.json", Plan("old", {"c2": Form("", (3,))}), 1)
        given = ["--model", str(tmp_path / "n.prototxt"), "--weights", str(tmp_path / name)]
        assert main(["inspect", *given]) == 0
        assert (
            main(["emit", *given, "--ranks", str(tmp_path / "r.json"), "--out", str(tmp_path / "out"), "--force"]) == 0
        )
        assert "checked" not in capsys.readouterr().out


def test_other_files_of_hdf5_are_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "w.h5"

    def refused(words: str) -> None:
        with pytest.raises(WeightsError, match=words) as caught:
            CaffeModel(path)
        assert len(str(caught.value).splitlines()) == 1

    with h5py.File(path, "w") as file:
        file["else"] = np.ones(3)
    refused("has no group 'data' with Caffe's layers")
    with h5py.File(path, "w") as file:
        file["data/c/0"], file["data/c/2"] = np.ones(3), np.ones(3)
    refused("layer 'c' has blobs 0, 2, not 0 to 1")
    with h5py.File(path, "w") as file:
        file["data/c/0"] = np.array([b"a"])
    refused("is HDF5 that cannot be read")
    path.write_bytes(path.read_bytes()[:200])
    refused("is HDF5 that cannot be read")
    monkeypatch.setitem(sys.modules, "h5py", None)
    refused("h5py is not installed; pip install h5py")
