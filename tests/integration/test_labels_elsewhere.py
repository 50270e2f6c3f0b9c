"""Networks whose labels, several of an image, come from a data layer of their own: image and labels stay together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools.finetune import TRAINED
from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe
IMAGES = 40
DATA = (
    'layer {{ name: "{name}" type: "Data" top: "{name}" include {{ phase: {phase} }} data_param {{ source: "{source}" batch_size: 4 '
    "backend: LMDB }} }}\n"
)


def multi_label(folder: Path) -> str:
    """Three labels of an image, from an LMDB of their own."""
    data = "".join(
        DATA.format(name=name, phase=phase, source=folder / f"{name}_lmdb")
        for phase in ("TRAIN", "TEST") for name in ("data", "labels")
    )  # fmt: skip
    loss = 'layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "fc" bottom: "labels" top: "loss" }\n'
    scaled = nets.simple("scaled", "Power", "data", "scaled", "power_param { scale: 0.01 }")
    return (
        'name: "labels"\n' + data + scaled + nets.conv("a", "scaled", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 8)
        + nets.TAIL.format(last="b").replace("num_output: 5", "num_output: 3") + loss
    )  # fmt: skip


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """Network, weights, image i of the value i, and labels that say i too."""
    at = np.arange(IMAGES)
    pixels = np.broadcast_to(at[:, None, None, None], (IMAGES, 3, 8, 8)).astype(np.uint8)
    labels = np.broadcast_to(at[:, None, None, None] / 64, (IMAGES, 3, 1, 1)).astype(np.float64)
    for name, arrays in (("data", pixels), ("labels", labels)):
        write_lmdb(tmp_path / f"{name}_lmdb", from_arrays(arrays, None, seed=None)[1])
    nets.write_net(tmp_path, multi_label(tmp_path))
    solver = f'net: "{tmp_path}/train_val.prototxt" base_lr: 0.001 lr_policy: "fixed" max_iter: 2 test_iter: 1 test_interval: 2\n'
    (tmp_path / "solver.prototxt").write_text(solver)
    np.savez(tmp_path / "others.npz", images=np.random.default_rng(0).integers(0, 255, (12, 3, 8, 8)).astype(np.uint8))
    return tmp_path


def values(path: Path) -> list[float]:
    """The value of every record, in the order of the LMDB."""
    lmdb = ImageLmdb(path)
    found = [float(image.pixels.flat[0]) for image in lmdb.images()]
    lmdb.close()
    return found


def sources(path: Path, phase: str) -> dict[str, str]:
    """Source by name of a phase's data layers."""
    return {x.name: x.data_param.source for x in data_layers(read_net(path), phase)}


def test_labels_are_held_out_with_their_images(kit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--solver", str(kit / "solver.prototxt"), "--weights", str(kit / "net.caffemodel"), "--keep_best"]
    assert main(["finetune", *flags, "--out", str(kit / "out")]) == 0, capsys.readouterr().err
    numbers = []
    for phase in ("TRAIN", "TEST"):
        named = sources(kit / "out" / TRAINED, phase)
        images, labels = values(Path(named["data"])), values(Path(named["labels"]))
        assert images == pytest.approx([64 * v for v in labels])
        numbers.append(images)
    assert len(numbers[1]) == 4 and sorted(numbers[0] + numbers[1]) == list(range(IMAGES))
    # What cannot be parted in the same way is refused.
    write_lmdb(kit / "labels_lmdb", from_arrays(np.zeros((IMAGES + 20, 3, 1, 1)), None)[1], force=True)
    for more in ([], ["--held_out_lmdb", str(kit / "data_lmdb")]):
        assert main(["finetune", *flags, *more, "--out", str(kit / f"out{len(more)}")]) == 2
        assert "layer 'labels' (Data) brings what goes with each image" in capsys.readouterr().err


def test_images_that_choose_take_no_place_beside_labels_of_others(
    kit: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["compress", "--model", str(kit / "train_val.prototxt"), "--weights", str(kit / "net.caffemodel"), "--target_flops", "0.7",
               "--first_layer", "search", "--images", str(kit / "others.npz")]  # fmt: skip
    assert main([*command, "--out", str(kit / "c")]) == 0, capsys.readouterr().err
    assert sources(kit / "c" / "train_val.prototxt", "TEST")["data"] == str(kit / "data_lmdb")
