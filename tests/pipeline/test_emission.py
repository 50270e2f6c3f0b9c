"""What is emitted costs the same in every command that says so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.pipeline.reporting import read_run
from tests.measuring.nets import residual, write_images, write_net

pytestmark = pytest.mark.caffe
LINE = re.compile(r"^MACs .*of the decomposable layers.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("costs")
    write_net(folder, residual())
    write_images(folder / "lmdb", 4, labels=False)
    return folder


@pytest.mark.parametrize(
    ("schemes", "more"),
    [
        # It takes a 1x1 convolution, which the paper leaves whole, and so does this plan.
        ("channel", ["--whole", "c4"]),
        ("prune", ["--method", "uniform"]),
    ],
)
def test_decomposable_layers_are_the_same_in_every_command(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schemes: str, more: list[str]
) -> None:
    net = ["--model", str(kit / "train_val.prototxt"), "--lmdb", str(kit / "lmdb")]
    weights, out = ["--weights", str(kit / "net.caffemodel")], tmp_path / "out"
    assert main(["inspect", *net, "--schemes", schemes]) == 0
    inspected = int(re.search(r"in decomposable layers ([\d,]+);", capsys.readouterr().out)[1].replace(",", ""))
    few = ["--target_flops", "0.8", "--count", "all", "--first_layer", "search", "--store", str(tmp_path / "s")]
    status = main(["compress", *net, *weights, "--schemes", schemes, *more, *few, "--out", str(out)])
    said = capsys.readouterr()
    assert status == 0, said.err
    compressed, costs = LINE.search(said.out)[0], json.loads((out / "evaluation.json").read_text())["macs"]
    assert main(["emit", *net[:2], *weights, "--input_shape", "3,12,12", "--ranks", str(out / "ranks.json"), "--out", str(tmp_path / "again")]) == 0  # fmt: skip
    assert LINE.search(capsys.readouterr().out)[0] == compressed
    # What the original's decomposable layers cost, by what is saved of them and of all layers.
    saved = 1 - costs["exact, all"]
    whole = int(re.search(r"original +([\d,]+)", said.out)[1].replace(",", ""))
    assert inspected == pytest.approx(saved * whole / (1 - costs["exact, decomposable"]), rel=1e-9)
    assert read_run(out).networks[1].macs["exact"] == costs["exact, decomposable"]
