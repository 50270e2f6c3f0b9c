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
        nets.conv("box", "c2", 4) + nets.conv("side", "c1", 2) + 'layer { name: "quiet" type: "Silence" bottom: "side" }\n',
        HEADS + 'layer { name: "loss" type: "EuclideanLoss" bottom: "box" bottom: "box" top: "loss" }\n',
        nets.conv("box", "c2", 4) + 'layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 3 dim: 5 } } }\n',
    ],
    ids=["one output", "one that is silenced", "a loss says what counts", "one that is not of the images"],
)  # fmt: skip
def test_other_networks_are_left_alone(tmp_path: Path, heads: str) -> None:
    net, part = parts(tmp_path, BODY + heads)
    assert part.net is net and part.words == "" and output_sizes(describe(net, (3, 12, 12))) == ()


#: Two heads by labels of their own, as of a plate's characters, and an auxiliary one by the second's label.
READER = (
    nets.HEAD.format(name="plate") + 'layer { name: "marks" type: "Data" top: "marks" data_param { source: "none" batch_size: 4 backend: LMDB } }\n'
    + 'layer { name: "parted" type: "Slice" bottom: "marks" top: "m0" top: "m1" slice_param { axis: 1 slice_point: 1 } }\n'
    + nets.conv("c1", "data", 8) + nets.conv("c2", "c1", 8)
    + "".join(f'layer {{ name: "{n}" type: "InnerProduct" bottom: "{b}" top: "{n}" inner_product_param {{ num_output: 4 }} }}\n' for n, b in (("aux", "c1"), ("h0", "c2"), ("h1", "c2")))
)  # fmt: skip


def held(kind: str, blob: str, label: str, more: str = "") -> str:
    """A loss, or an accuracy."""
    return f'layer {{ name: "{kind}_{blob}" type: "{kind}" bottom: "{blob}" bottom: "{label}" top: "{kind}_{blob}" {more} }}\n'


@pytest.mark.parametrize(
    "losses, wanted",
    [
        (held("SoftmaxWithLoss", "aux", "m1") + held("SoftmaxWithLoss", "h0", "m0") + held("SoftmaxWithLoss", "h1", "m1") + held("Accuracy", "h1", "m1"), "h0, h1"),
        (held("SoftmaxWithLoss", "h1", "label") + held("EuclideanLoss", "h0", "marks"), "h1, h0"),
        (held("SoftmaxWithLoss", "aux", "label") + held("SoftmaxWithLoss", "h1", "label"), ""),
        (held("SoftmaxWithLoss", "h0", "label") + held("EuclideanLoss", "h1", "h0"), ""),
        (held("SoftmaxWithLoss", "h0", "m0") + held("SoftmaxWithLoss", "h1", "m1", "loss_weight: 0"), ""),
    ],
    ids=["a label each", "class and box", "auxiliary", "held to each other", "without weight"],
)  # fmt: skip
def test_heads_with_labels_of_their_own_all_count(tmp_path: Path, losses: str, wanted: str) -> None:
    net, part = parts(tmp_path, READER + losses)
    assert (f"{wanted} are compared" in part.words) if wanted else part.net is net
    assert output_sizes(describe(part.net, (3, 12, 12))) == ((4, 4) if wanted else ())


def test_every_head_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A layer that the first head alone reads cost nothing while the last one was all that counted.
    nets.write_images(tmp_path / "lmdb", 12)
    own = nets.conv("c3", "c2", 8)
    losses = held("SoftmaxWithLoss", "h0", "m0") + held("SoftmaxWithLoss", "h1", "m1")
    model, weights = nets.write_net(tmp_path, READER.replace('bottom: "c2" top: "h0"', 'bottom: "c3" top: "h0"').replace('layer { name: "aux"', own + 'layer { name: "aux"') + losses)  # fmt: skip
    flags = [
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(tmp_path / "lmdb"),
        "--input_shape",
        "3,12,12",
    ]
    assert main(["metrics", *flags, "--store", str(tmp_path / "s"), "--out", str(tmp_path / "m.json")]) == 0
    assert "the network has 2 outputs; h0, h1 are compared" in capsys.readouterr().err
    layers = {m["name"]: m for m in json.loads((tmp_path / "m.json").read_text())["layers"]}
    assert min(x for c in layers["c3"]["curves"] for x in c["sampled_divergence"][:1]) > 1e-3


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
