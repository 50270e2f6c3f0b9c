"""Caffemodels of NVIDIA's Caffe: raw values, in 16 bits too; OpenCV, which reads them itself, is the judge."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, write_caffemodel
from enc_caffe.caffe_io.stockform import in_stock_form
from enc_caffe.caffe_io.wire import encode, message, tag
from enc_caffe.cli import main
from enc_caffe.errors import WeightsError
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import forward
from tests.caffe_tools.test_loadable import PLAIN, emission, weights_of

pytestmark = pytest.mark.caffe
#: Numbers of types in NVIDIA's caffe.proto.
TYPES = {0: np.float64, 1: np.float32, 2: np.float16}


def write_raw(path: Path, layers: dict[str, tuple[str, list[np.ndarray]]], kind: int) -> Path:
    """A caffemodel whose blobs have their values in ``raw_data`` (12), of the type that ``raw_data_type`` (10) names."""
    records = []
    for name, (layer, arrays) in layers.items():
        record = message(1, name.encode()) + message(2, layer.encode())
        for array in arrays:
            shape = message(7, message(1, b"".join(encode(d) for d in array.shape)))
            record += message(
                7, shape + tag(10, 0) + encode(kind) + message(12, array.astype(TYPES.get(kind, np.int32)).tobytes())
            )
        records.append(record)
    with open(path, "wb") as handle:
        write_caffemodel(handle, "old", records)
    return path


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_raw_values_are_read_and_copied_into_stock_caffes_form(tmp_path: Path, kind: int) -> None:
    layers = weights_of("c1 c2 fc")
    weights, lines = write_raw(tmp_path / "w.caffemodel", layers, kind), []
    model = CaffeModel(weights)
    copy = in_stock_form(weights, lines.append, tmp_path / "kept")
    assert copy.name == weights.name and copy.is_relative_to(tmp_path / "kept")
    assert f"raw values of {(64, 32, 16)[kind]} bits" in lines[0]
    assert in_stock_form(copy) == copy and in_stock_form(weights, cache=tmp_path / "kept") == copy
    plain = CaffeModel(copy)
    for name, (_, arrays) in layers.items():
        for raw, blob, array in zip(model.layers[name].blobs, plain.layers[name].blobs, arrays):
            stored = array.astype(TYPES[kind]).astype(np.float32)
            np.testing.assert_array_equal(model.array(raw), stored)
            np.testing.assert_array_equal(plain.array(blob), stored)


def test_half_precision_goes_through_every_command(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    write_raw(tmp_path / "w.caffemodel", weights_of("c1 c2 fc"), 2)
    command = emission(tmp_path, PLAIN, {"c2": 4})
    assert main(["inspect", *command[1:5]]) == 0 and main(command) == 0
    # c2 has rank 4: the emitted network is the same function.
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    with CaffeExecutor(1, 1) as executor:
        deploy, small = (str(tmp_path / "out" / f) for f in ("deploy.prototxt", "compressed.caffemodel"))
        text = Path(deploy).read_text()
        got = executor.result(executor.submit(forward, text, small, {"data": image}, ["fc"]))["fc"]
    net = cv2.dnn.readNetFromCaffe(str(tmp_path / "n.prototxt"), str(tmp_path / "w.caffemodel"))
    net.setInput(image)
    wanted = net.forward()
    # Half precision: c2's factors are those of rounded weights, which have a rank above 4.
    assert np.abs(got - wanted).max() < 3e-3 * np.abs(wanted).max()
    assert "checked" not in capsys.readouterr().out


def test_types_that_are_no_numbers_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match="layer 'c2', blob 0: a blob has raw values of type 3; double, float and half"
    ):
        CaffeModel(write_raw(tmp_path / "w.caffemodel", weights_of("c2"), 3))
    # What cannot be read is left to whoever reads it first.
    assert in_stock_form(tmp_path / "w.caffemodel") == tmp_path / "w.caffemodel"
