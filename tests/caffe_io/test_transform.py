"""Images as Caffe's TEST phase sees them, against stock caffe's own data layer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.transform import read_mean, transform_of
from enc_caffe.errors import DatasetError, PrototxtError
from enc_caffe.workers.executor import CaffeExecutor

pytestmark = pytest.mark.caffe
NUMBER = 4


def caffes_images(text: str) -> np.ndarray:
    """One batch of a data layer, from pycaffe (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(text, None)
    net.forward()
    return np.array(net.blobs["data"].data)


@pytest.fixture(scope="module")
def lmdbs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw and PNG-encoded LMDBs, in colour and grey, and a mean image."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (NUMBER, 3, 10, 12)).astype(np.uint8)
    pb = caffe_pb2()

    def raw(i: int) -> bytes:
        return pb.Datum(channels=3, height=10, width=12, data=images[i].tobytes(), label=i).SerializeToString()

    def png(i: int, grey: bool) -> bytes:
        pixels = images[i].transpose(1, 2, 0) if not grey else images[i, 0]
        data = cv2.imencode(".png", pixels)[1].tobytes()
        return pb.Datum(data=data, encoded=True, label=i).SerializeToString()

    keys = [f"{i:03d}".encode() for i in range(NUMBER)]
    write_lmdb(folder / "raw", [(k, raw(i)) for i, k in enumerate(keys)])
    write_lmdb(folder / "png", [(k, png(i, False)) for i, k in enumerate(keys)])
    write_lmdb(folder / "grey", [(k, png(i, True)) for i, k in enumerate(keys)])
    mean = images.mean(axis=0).astype(np.float32)
    (folder / "mean.binaryproto").write_bytes(
        pb.BlobProto(num=1, channels=3, height=10, width=12, data=mean.ravel()).SerializeToString()
    )
    return folder


@pytest.mark.parametrize("source", ["raw", "png", "grey"])
@pytest.mark.parametrize(
    "param",
    [
        "",
        "scale: 0.0078125 mean_value: 128",
        "mean_value: 1 mean_value: 2 mean_value: 3 crop_size: 7",
        "mean_file: MEAN crop_size: 8 scale: 0.5",
    ],
)
def test_pixels_are_caffes_own(lmdbs: Path, tmp_path: Path, source: str, param: str) -> None:
    param = param.replace("MEAN", f'"{lmdbs}/mean.binaryproto"') + (" force_color: true" if source == "grey" else "")
    text = (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TEST }} transform_param {{ {param} }} '
        f'data_param {{ source: "{lmdbs}/{source}" batch_size: {NUMBER} backend: LMDB }} }}\n'
    )
    (tmp_path / "n.prototxt").write_text(text)
    rule = transform_of(read_net(tmp_path / "n.prototxt"), "n.prototxt")
    images = ImageLmdb(lmdbs / source)
    ours = np.stack([rule(i.pixels) for i in images.images(force_color=rule.force_color)])
    images.close()
    with CaffeExecutor(1, 1) as executor:
        wanted = executor.result(executor.submit(caffes_images, text))
    np.testing.assert_array_equal(ours, wanted)


def test_contradictions_are_named(lmdbs: Path, tmp_path: Path) -> None:
    head = 'layer { name: "data" type: "Data" top: "data" data_param { source: "x" batch_size: 1 } transform_param { '
    (tmp_path / "n.prototxt").write_text(head + 'mean_value: 1 mean_file: "m" } }')
    with pytest.raises(PrototxtError, match="both mean_file and mean_value"):
        transform_of(read_net(tmp_path / "n.prototxt"), "n.prototxt")
    (tmp_path / "n.prototxt").write_text(head + 'mean_file: "/nonexistent" } }')
    with pytest.raises(DatasetError, match="mean_file /nonexistent: cannot be read"):
        transform_of(read_net(tmp_path / "n.prototxt"), "n.prototxt")
    (tmp_path / "n.prototxt").write_text(head + "crop_size: 11 } }")
    with pytest.raises(DatasetError, match="crop_size 11 is larger than the image 10 x 12"):
        transform_of(read_net(tmp_path / "n.prototxt"), "n.prototxt")(np.zeros((3, 10, 12), np.uint8))


def test_a_mean_of_numpy_says_what_to_give_in_its_place(tmp_path: Path) -> None:
    for shape, values in (((3, 4, 5), "0.5,1.5,2.5"), ((3,), "0.5,1.5,2.5"), ((1, 2, 2), "0.5")):
        mean = np.broadcast_to((np.arange(shape[0]) + 0.5).reshape(-1, *[1] * (len(shape) - 1)), shape)
        np.save(tmp_path / "mean.npy", mean)
        with pytest.raises(DatasetError, match=f"mean.npy: is a NumPy file, .* give --mean_value {values}, the means"):
            read_mean(tmp_path / "mean.npy")
    # As blobproto_to_array gives it, and with the channels last; of other axes nobody knows which are channels.
    for shape, words in (
        ((1, *mean.shape), r"0\.5, the"),
        ((4, 5, 2), "with one number"),
        ((4, 5, 3), r"0,1,2, the means of its channels$"),
    ):
        np.save(tmp_path / "mean.npy", np.broadcast_to(np.arange(shape[-1]) if len(shape) == 3 else mean, shape))
        with pytest.raises(DatasetError, match=f"give --mean_value {words}"):
            read_mean(tmp_path / "mean.npy")
    # What it tells makes a file that is read.
    blob = caffe_pb2().BlobProto(data=np.ravel(mean))
    blob.shape.dim.extend(mean.shape)
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.binaryproto"), mean)
    np.save(tmp_path / "mean.npy", np.array([{}]))
    with pytest.raises(DatasetError, match="is a NumPy file, .* give --mean_value with one number for each channel"):
        read_mean(tmp_path / "mean.npy")
