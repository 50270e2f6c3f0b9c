"""Layers whose weights a caffemodel lacks: an error wherever the network is run as trained, a line wherever it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, opened, write_caffemodel
from enc_caffe.caffe_io.lacking import lacking
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli import main
from enc_caffe.workers.executor import CaffeExecutor
from tests.caffe_io.test_blobs import INPUT, LAYERS, blobs_in_caffe
from tests.measuring.nets import HEAD, LOSS, TAIL, conv, normalised, simple, write_images, write_net

pytestmark = pytest.mark.caffe

WORDS = "the weights of layers 'c1_bn' (BatchNorm), 'c1_scale' (Scale), 'slope' (PReLU), 'up' (Deconvolution) and 1 more of "
UP = 'layer { name: "up" type: "Deconvolution" bottom: "c1" top: "up" convolution_param { num_output: 4 kernel_size: 2 } }\n'


def without(weights: Path, path: Path, *names: str) -> Path:
    """A copy of a caffemodel without some layers."""
    model = CaffeModel(weights)
    with open(path, "wb") as handle:
        write_caffemodel(handle, "net", (model.record(layer) for layer in model if layer.name not in names))
    return path


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lacking")
    text = (
        HEAD.format(name="net") + conv("c1", "data", 8) + normalised("c1") + simple("slope", "PReLU", "c1") + UP
        + simple("shift", "Bias", "up") + conv("c2", "up", 8) + TAIL.format(last="c2") + LOSS
    )  # fmt: skip
    # The caffemodel has no blobs for what this helper does not know: PReLU, Deconvolution and Bias.
    model, weights = write_net(folder, text)
    plan, solver = folder / "ranks.json", folder / "solver.prototxt"
    plan.write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": {"c2": 4}}))
    solver.write_text(
        f'net: "{model}" base_lr: 0.01 lr_policy: "fixed" max_iter: 1 display: 1 test_iter: 1 test_interval: 1 solver_mode: CPU\n'
    )
    return {
        "model": model, "weights": without(weights, folder / "lacks.caffemodel", "c1_bn", "c1_scale"), "plan": plan,
        "solver": solver, "lmdb": write_images(folder / "lmdb", 8),
    }  # fmt: skip


def command(kit: dict[str, Path], name: str, out: Path) -> list[str]:
    net = ["--model", str(kit["model"]), "--weights", str(kit["weights"])]
    size, images, to = ["--input_shape", "3,12,12"], ["--lmdb", str(kit["lmdb"])], ["--out", str(out)]
    emit = ["emit", *net, *size, "--ranks", str(kit["plan"]), *to]
    return {
        "metrics": ["metrics", *net, *images, *to],
        "compress": ["compress", *net, *images, "--target_flops", "0.8", *to],
        "evaluate": ["evaluate", *net, *images],
        "distil": [*emit, "--distill"],
        "inspect": ["inspect", *net, *size],
        "spectra": ["metrics", *net, *size, *to],
        "emit": emit,
        "finetune": ["finetune", "--solver", str(kit["solver"]), "--weights", str(kit["weights"]), "--train_lmdb",
                     str(kit["lmdb"]), "--test_lmdb", str(kit["lmdb"]), *to],
    }[name]  # fmt: skip


@pytest.mark.parametrize("name", ["metrics", "compress", "evaluate", "distil"])
def test_a_network_that_is_run_as_trained_needs_all_its_weights(
    kit: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(command(kit, name, tmp_path / "out")) == 1
    first, second = capsys.readouterr().err.strip().splitlines()
    assert first.endswith(f"{kit['weights']}: {WORDS}{kit['model']} are not in it, and Caffe would run the network with the values of their fillers")  # fmt: skip
    assert second.startswith("give the caffemodel that was trained with this prototxt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["inspect", "spectra", "emit", "finetune"])
def test_a_network_that_may_be_trained_still_gets_a_line(
    kit: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(command(kit, name, tmp_path / "out")) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if WORDS in line]
    assert len(told) == 1 and told[0].startswith(f"{kit['weights']}: ")
    assert told[0].endswith("so train the network before you use it, or give the caffemodel that was trained with this prototxt")  # fmt: skip


def test_what_lacks_are_the_layers_that_have_blobs_in_caffe(tmp_path: Path) -> None:
    text = INPUT + "".join(LAYERS.values()) + 'layer { name: "gated" type: "Scale" bottom: "x" bottom: "i" top: "gated" scale_param { axis: 0 } }\n'  # fmt: skip
    (tmp_path / "n.prototxt").write_text(text)
    with open(tmp_path / "w.caffemodel", "wb") as handle:
        write_caffemodel(handle, "net", [layer_record("other", "ReLU", [])])
    with CaffeExecutor(1) as executor:
        caffe = executor.submit(blobs_in_caffe, text).result()
    found = lacking(read_net(tmp_path / "n.prototxt"), opened(tmp_path / "w.caffemodel"))
    assert set(found) == {name for name, blobs in caffe.items() if blobs} and "gated" not in found and "bn" in found


def test_blobs_of_another_layer_are_not_missed(tmp_path: Path) -> None:
    def twin(name: str, bias: str) -> str:
        shared = f'param {{ name: "w" }} {bias}'
        return conv(name, "data", 8).replace("convolution_param", f"{shared} convolution_param")

    def found(bias: str) -> set[str]:
        (tmp_path / "n.prototxt").write_text(HEAD.format(name="n") + twin("a", bias) + twin("b", bias))
        return set(lacking(read_net(tmp_path / "n.prototxt"), opened(tmp_path / "w.caffemodel")))

    with open(tmp_path / "w.caffemodel", "wb") as handle:
        arrays = [np.zeros((8, 3, 3, 3), np.float32), np.zeros(8, np.float32)]
        write_caffemodel(handle, "net", [layer_record("a", "Convolution", arrays)])
    assert found('param { name: "b" }') == set()
    # Its bias is its own.
    assert found("") == {"b"}


def test_an_enlargement_that_interpolates_lacks_nothing(tmp_path: Path) -> None:
    """Bilinear fillers are what such a layer computes; zeros, which other Deconvolutions begin with, are not."""
    with open(tmp_path / "w.caffemodel", "wb") as handle:
        write_caffemodel(handle, "net", [layer_record("other", "ReLU", [])])
    for filler, found in (
        ('weight_filler { type: "bilinear" }', set()),
        ('weight_filler { type: "xavier" }', {"up"}),
        ("", {"up"}),
    ):
        own = f"num_output: 3 group: 3 kernel_size: 4 stride: 2 bias_term: false {filler}"
        layer = f'layer {{ name: "up" type: "Deconvolution" bottom: "data" top: "up" convolution_param {{ {own} }} }}\n'
        (tmp_path / "n.prototxt").write_text(HEAD.format(name="n") + layer)
        assert set(lacking(read_net(tmp_path / "n.prototxt"), opened(tmp_path / "w.caffemodel"))) == found
