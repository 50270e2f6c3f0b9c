"""What the user says of the images: against stock Caffe's own data layer, and by hand where Caffe has no word for it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_io.transform import Transform, fed_images
from enc_caffe.errors import DatasetError, PrototxtError, UsageError
from enc_caffe.workers.executor import CaffeExecutor
from tests.caffe_io.test_transform import caffes_images

pytestmark = pytest.mark.caffe
NUMBER = 4
DEPLOY = 'input: "data" input_shape { dim: 1 dim: 3 dim: 8 dim: 8 }\nlayer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n'


def data_layer(lmdb: Path, param: str, more: str = "") -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ {param} }} {more}'
        f'data_param {{ source: "{lmdb}" batch_size: {NUMBER} backend: LMDB }} }}\n'
    )


def net_of(folder: Path, text: str):
    (folder / "n.prototxt").write_text(text)
    return read_net(folder / "n.prototxt")


@pytest.fixture(scope="module")
def lmdb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw images, 3 x 10 x 12, in their order."""
    folder = tmp_path_factory.mktemp("feed")
    images = np.random.default_rng(3).integers(0, 256, (NUMBER, 3, 10, 12)).astype(np.uint8)
    write_lmdb(folder / "lmdb", from_arrays(images, np.zeros(NUMBER, np.int64))[1])
    return folder / "lmdb"


def fed(lmdb: Path, rule: Transform) -> np.ndarray:
    images = ImageLmdb(lmdb)
    try:
        return np.stack([rule(i.pixels) for i in images.images(force_color=rule.force_color)])
    finally:
        images.close()


@pytest.mark.parametrize(
    ("written", "flags"),
    [
        ("", Feed((127.5,), scale=0.0078125, crop=8)),
        ("mean_value: 9 scale: 3 crop_size: 5", Feed((1, 2, 3), crop=8)),
        ("scale: 0.5 crop_size: 8", Feed(mean_file=Path("MEAN"))),
        ('mean_file: "/nowhere" crop_size: 4', Feed((128,), crop=0)),
        ("crop_size: 8 mean_value: 3", AS_WRITTEN),
    ],
)
def test_flags_do_what_stock_caffe_does_with_the_same_transform(
    lmdb: Path, tmp_path: Path, written: str, flags: Feed
) -> None:
    if flags.mean_file is not None:
        mean = np.random.default_rng(0).uniform(90, 140, (3, 10, 12)).astype(np.float32)
        blob = caffe_pb2().BlobProto(num=1, channels=3, height=10, width=12, data=mean.ravel())
        (tmp_path / "mean").write_bytes(blob.SerializeToString())
        flags = Feed(mean_file=tmp_path / "mean")
    net = net_of(tmp_path, data_layer(lmdb, written))
    said = flags.written(net)
    with CaffeExecutor() as executor:
        wanted = executor.result(executor.submit(caffes_images, to_text(said)))
    np.testing.assert_array_equal(fed(lmdb, flags.transform(net, "n.prototxt")), wanted)
    # What the file says and the flags do not stays.
    assert not written.startswith("mean_value: 9") or said.layer[0].transform_param.scale == 3


def test_flags_say_for_a_deploy_file_what_a_data_layer_would(lmdb: Path, tmp_path: Path) -> None:
    train = net_of(tmp_path, data_layer(lmdb, "mean_value: 1 mean_value: 2 mean_value: 3 scale: 0.25 crop_size: 8"))
    deploy, flags = net_of(tmp_path, DEPLOY), Feed((1, 2, 3), scale=0.25, crop=8)
    ours, theirs = flags.transform(deploy, "d"), AS_WRITTEN.transform(train, "t")
    np.testing.assert_array_equal(fed(lmdb, ours), fed(lmdb, theirs))
    assert ours.key() == theirs.key() and ours.origin == "the flags" and theirs.origin == "layer 'data' of t"
    assert AS_WRITTEN.transform(deploy, "d").origin == ""


def test_both_phases_are_written_and_other_data_is_left(lmdb: Path, tmp_path: Path) -> None:
    maps = 'layer { name: "maps" type: "Data" top: "map" data_param { source: "m" batch_size: 1 } }\n'
    text = (
        data_layer(lmdb, "scale: 2", "include { phase: TRAIN } ")
        + data_layer(lmdb, "", "include { phase: TEST } ")
        + maps
    )
    net = net_of(tmp_path, text)
    said = Feed((5,), scale=3).written(net)
    assert [(list(x.transform_param.mean_value), x.transform_param.scale) for x in said.layer] == [
        ([5], 3),
        ([5], 3),
        ([], 1),
    ]
    assert net.layer[0].transform_param.scale == 2
    assert Feed().written(net) is net


def test_channels_turned_round_and_other_sizes(lmdb: Path, tmp_path: Path) -> None:
    rule = Feed((1, 2, 3), order="rgb", resize=(6, 5)).transform(net_of(tmp_path, DEPLOY), "d")
    images = ImageLmdb(lmdb)
    first = next(images.images(0, 1)).pixels
    images.close()
    # The mean is in the order of what is fed.
    wanted = cv2.resize(first.transpose(1, 2, 0), (5, 6))[:, :, ::-1].transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(rule(first), wanted - np.array([1, 2, 3], np.float32).reshape(3, 1, 1))
    assert rule.sized((3, 10, 12)) == (3, 6, 5)
    with pytest.raises(DatasetError, match="--channel_order rgb: the image has 1 channels"):
        Transform(rgb=True)(first[:1])
    assert rule.key() != Feed((1, 2, 3), order="bgr", resize=(6, 5)).transform(net_of(tmp_path, DEPLOY), "d").key()


def test_a_mean_image_is_in_the_order_of_what_is_stored(lmdb: Path, tmp_path: Path) -> None:
    blob = caffe_pb2().BlobProto(num=1, channels=3, height=10, width=12, data=[1.0] * 360)
    (tmp_path / "mean").write_bytes(blob.SerializeToString())
    with pytest.raises(UsageError, match="give --mean_value R,G,B"):
        Feed(mean_file=tmp_path / "mean", order="rgb").transform(net_of(tmp_path, DEPLOY), "d")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mean_value": (1.0,), "mean_file": Path("m")}, "exclude each other"),
        ({"scale": 0.0}, "--scale 0.0: a finite number other than 0"),
        ({"scale": float("nan")}, "--scale nan"),
        ({"mean_value": (float("inf"),)}, "--mean_value inf"),
        ({"crop": -1}, "--crop_size -1"),
        ({"order": "gbr"}, "--channel_order gbr: known are bgr, rgb"),
    ],
)
def test_values_that_make_no_sense(values: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Feed(**values)


def test_gray_and_colour_of_encoded_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 10, 12, 3)).astype(np.uint8)
    pb = caffe_pb2()

    def record(i: int, gray: bool) -> tuple[bytes, bytes]:
        data = cv2.imencode(".png", pixels[i, :, :, 0] if gray else pixels[i])[1].tobytes()
        return f"{i:03d}".encode(), pb.Datum(data=data, encoded=True, label=i).SerializeToString()

    write_lmdb(tmp_path / "mixed", [record(0, False), record(1, True)])
    with pytest.raises(
        DatasetError,
        match=r"mixed: key b'001': the image becomes \(1, 10, 12\) \(C, H, W\), but the network needs \(3, 10, 12\); --force_color",
    ):
        list(fed_images(tmp_path / "mixed", Transform(), (3, 10, 12)))
    for param, color in (("force_color: true", True), ("force_gray: true", False)):
        text = data_layer(tmp_path / "mixed", param).replace(f"batch_size: {NUMBER}", "batch_size: 2")
        rule = AS_WRITTEN.transform(net_of(tmp_path, text), "n")
        with CaffeExecutor() as executor:
            wanted = executor.result(executor.submit(caffes_images, text))
        np.testing.assert_array_equal(fed(tmp_path / "mixed", rule), wanted)
        np.testing.assert_array_equal(
            fed(tmp_path / "mixed", Feed(color=color).transform(net_of(tmp_path, DEPLOY), "n")), wanted
        )
    with pytest.raises(PrototxtError, match="both force_color and force_gray"):
        AS_WRITTEN.transform(net_of(tmp_path, data_layer(tmp_path, "force_color: true force_gray: true")), "n")


def test_remarks_hold_what_a_data_layer_cannot_do() -> None:
    assert AS_WRITTEN.remark() == ""
    said = Feed((1, 2), order="rgb", resize=(4, 5), mean_file=None, scale=0.5, color=False, crop=3).remark()
    assert said == (
        "# What the network was fed: --mean_value 1,2 --scale 0.5 --crop_size 3 --channel_order rgb --resize 4,5 --force_gray\n"
        "# A Data layer takes images as they are stored, so the LMDBs must hold them RGB and resized.\n"
    )
    assert Feed(mean_file=Path("a\nb")).remark() == "# What the network was fed: --mean_file 'a b'\n"
