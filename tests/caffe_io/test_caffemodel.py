"""The wire-level reader and writer against Caffe's own protobuf messages."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.caffe_io.caffemodel import CaffeModel, fits, kept_record, layer_record, same_shape, write_caffemodel
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import WeightsError
from tests.caffe_io.legacy import FORMS, write_legacy

pytestmark = pytest.mark.caffe


def test_written_files_are_what_protobuf_reads(tmp_path: Path) -> None:
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    with open(tmp_path / "w", "wb") as handle:
        write_caffemodel(handle, "net", [layer_record("conv", "Convolution", [weight, weight[0, 0, 0]])])
    net = caffe_pb2().NetParameter.FromString((tmp_path / "w").read_bytes())
    assert net.name == "net" and net.layer[0].name == "conv" and net.layer[0].type == "Convolution"
    assert list(net.layer[0].blobs[0].shape.dim) == [2, 3, 2, 2]
    assert list(net.layer[0].blobs[0].data) == list(range(24))
    assert list(net.layer[0].blobs[1].shape.dim) == [2]


def test_protobufs_files_are_read_in_every_form(tmp_path: Path) -> None:
    pb = caffe_pb2()
    net = pb.NetParameter(name="net")
    layer = net.layer.add(name="a", type="InnerProduct")
    layer.blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    layer.blobs.add(shape=pb.BlobShape(dim=[3]), double_data=[0.5, 1.5, 2.5])
    net.layer.add(name="empty", type="ReLU")
    old = pb.NetParameter(name="old")
    v1 = old.layers.add(name="b")
    v1.blobs.add(num=1, channels=2, height=1, width=1, data=[1, 2])
    for name, message in (("new", net), ("old", old)):
        (tmp_path / name).write_bytes(message.SerializeToString())
    model = CaffeModel(tmp_path / "new")
    first, second = model.layers["a"].blobs
    assert first.shape == (1, 1, 2, 3) and same_shape(first.shape, (2, 3)) and not same_shape(first.shape, (3, 2))
    np.testing.assert_array_equal(model.array(first).reshape(2, 3), np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(model.array(second), [0.5, 1.5, 2.5])
    assert bytes(model.record(model.layers["a"])) == layer.SerializeToString()
    ancient = CaffeModel(tmp_path / "old")
    copied = caffe_pb2().LayerParameter.FromString(bytes(ancient.record(ancient.layers["b"])))
    assert copied.name == "b" and list(copied.blobs[0].data) == [1, 2]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.caffemodel"
    path.write_bytes(data)
    try:
        CaffeModel(path)
    except WeightsError as exc:
        assert len(str(exc).splitlines()) == 1


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    records = [layer_record(n, "Convolution", [np.ones((2, 1, 3, 3), np.float32)]) for n in "ab"]
    write_caffemodel(buffer, "net", records)
    raw = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.caffemodel"
    path.write_bytes(bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    try:
        model = CaffeModel(path)
        for layer in model:
            for blob in layer.blobs:
                model.array(blob)
    except WeightsError as exc:
        assert len(str(exc).splitlines()) == 1


@pytest.mark.parametrize("form", FORMS)
def test_old_files_are_read_and_kept_in_their_form(tmp_path: Path, form: str) -> None:
    rng = np.random.default_rng(0)
    layers = {
        "c": ("Convolution", [rng.standard_normal((4, 3, 3, 3)), rng.standard_normal(4)]),
        "f": ("InnerProduct", [rng.standard_normal((5, 6)), rng.standard_normal(5)]),
    }
    model = CaffeModel(write_legacy(tmp_path / "w", form, layers))
    assert list(model.layers) == ["c", "f"]
    kinds = {"c": "Convolution", "f": "InnerProduct"}
    with open(tmp_path / "again", "wb") as handle:
        write_caffemodel(handle, "n", [kept_record(model, x, kinds[x.name]) for x in model])
    again = caffe_pb2().NetParameter.FromString((tmp_path / "again").read_bytes())
    for layer in again.layer:
        kind, arrays = layers[layer.name]
        assert layer.type == kind and len(layer.blobs) == 2
        for blob, array in zip(layer.blobs, arrays):
            assert not blob.HasField("shape")
            assert [blob.num, blob.channels, blob.height, blob.width] == [1] * (4 - array.ndim) + list(array.shape)
            np.testing.assert_array_equal(np.array(blob.data, np.float32), array.reshape(-1).astype(np.float32))


def test_a_blob_with_both_sizes_has_the_old_ones_as_in_caffe(tmp_path: Path) -> None:
    pb = caffe_pb2()
    net = pb.NetParameter(name="net")
    blob = net.layer.add(name="a").blobs.add(num=1, channels=1, height=2, width=3, data=range(6))
    blob.shape.dim.extend([6])
    (tmp_path / "w").write_bytes(net.SerializeToString())
    stored = CaffeModel(tmp_path / "w").layers["a"].blobs[0]
    assert stored.shape == (1, 1, 2, 3) and fits(stored, (2, 3)) and not fits(stored, (6,))


def test_kept_records_take_new_values_and_shapes(tmp_path: Path) -> None:
    model = CaffeModel(write_legacy(tmp_path / "w", "V1", {"f": ("InnerProduct", [np.ones((5, 6)), np.ones(5)])}))
    stored = model.layers["f"]
    parts = kept_record(model, stored, "InnerProduct", None, [np.full((5, 6), 2.0), np.full(5, 3.0)])
    layer = caffe_pb2().LayerParameter.FromString(b"".join(bytes(p) for p in parts))
    assert [layer.blobs[1].num, layer.blobs[1].width, layer.blobs[1].data[0]] == [1, 5, 3.0]
    parts = kept_record(model, stored, "InnerProduct", [(5, 6), (5, 1)])
    layer = caffe_pb2().LayerParameter.FromString(b"".join(bytes(p) for p in parts))
    # Caffe would take the first as it is, and the second only with another shape.
    assert (
        layer.blobs[0].height == 5 and list(layer.blobs[1].shape.dim) == [5, 1] and not layer.blobs[1].HasField("num")
    )
