"""All outputs of a network in one blob, each measured by how much it varies itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.runnable import OUTPUT
from enc_caffe.caffe_io.several import output_sizes, several_outputs
from enc_caffe.cli import main
from enc_caffe.pipeline.loading import load
from enc_caffe.workers.executor import CaffeExecutor
from tests.measuring import nets

pytestmark = pytest.mark.caffe
INPUT = 'name: "face"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'
BODY = INPUT + nets.conv("c1", "data", 8) + nets.simple("r1", "ReLU", "c1") + nets.conv("c2", "c1", 12, stride=2)
#: Scores of places, and boxes; the Softmax has what it reads compared.
HEADS = nets.conv("cls", "c2", 2) + nets.simple("prob", "Softmax", "cls", "prob") + nets.conv("box", "c2", 4)


def parts(folder: Path, text: str):
    (folder / "n.prototxt").write_text(text)
    net = read_net(folder / "n.prototxt")
    return net, several_outputs(net, describe(net, (3, 12, 12)), "n.prototxt")


def blobs(text: str, weights: str, data: np.ndarray, names: list[str]) -> list[np.ndarray]:
    """Blobs of a pass over some images (in a worker)."""
    from enc_caffe.workers.pycaffe import forward

    found = forward(text, weights, {"data": data}, names)
    return [found[n] for n in names]


def test_outputs_are_put_together(tmp_path: Path) -> None:
    _, weights = nets.write_net(tmp_path, BODY + HEADS)
    _, part = parts(tmp_path, BODY + HEADS)
    assert (
        part.words == "n.prototxt: the network has 2 outputs; cls, box are compared, each by how much it varies itself"
    )
    assert not part.missing and output_sizes(describe(part.net, (3, 12, 12))) == (72, 144)
    data = np.random.default_rng(0).normal(0, 1, (2, 3, 12, 12)).astype(np.float32)
    with CaffeExecutor() as executor:
        (found,) = executor.result(executor.submit(blobs, to_text(part.net), str(weights), data, [OUTPUT]))
        wanted = executor.result(executor.submit(blobs, BODY + HEADS, str(weights), data, ["cls", "box"]))
    np.testing.assert_array_equal(found, np.concatenate([w.reshape(2, -1) for w in wanted], axis=1))


@pytest.mark.parametrize(
    "heads",
    [
        nets.conv("box", "c2", 4),
        HEADS + 'layer { name: "loss" type: "EuclideanLoss" bottom: "box" bottom: "box" top: "loss" }\n',
        nets.conv("box", "c2", 4) + 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 dim: 5 } } }\n',
    ],
    ids=["one output", "a loss says what counts", "one that is not of the images"],
)  # fmt: skip
def test_other_networks_are_left_alone(tmp_path: Path, heads: str) -> None:
    net, part = parts(tmp_path, BODY + heads)
    assert part.net is net and part.words == "" and output_sizes(describe(net, (3, 12, 12))) == ()


def test_no_output_rules_by_its_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A Power layer makes one output 1,000 times as large: nothing that is measured changes by it.
    nets.write_images(tmp_path / "lmdb", 24)
    _, weights = nets.write_net(tmp_path, BODY + HEADS)
    found = {}
    for name, heads in (
        ("plain", HEADS),
        ("large", HEADS + nets.simple("big", "Power", "box", "big", "power_param { scale: 1000 shift: 3 }")),
    ):
        (tmp_path / f"{name}.prototxt").write_text(BODY + heads)
        assert load(tmp_path / f"{name}.prototxt").runnable.words
        assert main(["metrics", "--model", str(tmp_path / f"{name}.prototxt"), "--weights", str(weights), "--lmdb", str(tmp_path / "lmdb"),
                     "--scale", "0.01", "--store", str(tmp_path / "s"), "--out", str(tmp_path / f"{name}.json")]) == 0  # fmt: skip
        assert "the network has 2 outputs" in capsys.readouterr().err
        layers = json.loads((tmp_path / f"{name}.json").read_text())["layers"]
        found[name] = [x for m in layers for c in m["curves"] for x in c["sampled_divergence"] if x is not None]
    assert len(found["plain"]) > 5 and max(found["plain"]) > 0.1
    np.testing.assert_allclose(found["large"], found["plain"], rtol=1e-3)
