"""The networks of ``docs/networks.md``, checked as its command does; those of a Caffe source tree where CAFFE_SRC names one."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.prototxt import read_net, read_solver
from enc_caffe.cli import main
from enc_caffe.pipeline import load
from enc_caffe.plan import RankPlan, write_plan
from enc_caffe.runtime.executor import CaffeExecutor
from tests.conftest import script

pytestmark = pytest.mark.caffe
networks = script("networks")
SOURCE = os.environ.get("CAFFE_SRC")
CASES = [*networks.FAMILIES, *(networks.shipped(Path(SOURCE)) if SOURCE else ())]

#: What OpenCV's Caffe reader cannot do; it must agree with Caffe on every other network.
OPENCV_CANNOT = {
    "DummyData and Parameter", "3-D convolution", "SPP", "Embed", "LSTM", "RNN", "element-wise and shape layers", "type of a forked Caffe",
}  # fmt: skip
#: Layers that must stay whole, and a word of the reason.
WHOLE = {
    "shared parameters (siamese)": dict.fromkeys(("conv1", "conv1_p", "feat", "feat_p"), "shared"),
    "convolution of two bottoms": {"c1": "several bottoms share one weight"},
    "1x1 convolutions": {"p1": "1x1", "p2": "1x1"},
    "depthwise separable": {"dw": "depthwise", "pw": "1x1", "dw2": "depthwise"},
    "Deconvolution": {"up": "deconvolution is not decomposed"},
    "3-D convolution": {"c1": "not a plain 2-D convolution", "c2": "not a plain 2-D convolution"},
    "Embed": {"e": "embedding"},
    "LSTM": {"embed": "embedding", "lstm": "recurrent layer"},
    "RNN": {"rnn": "recurrent layer"},
    "one name twice, another size in TRAIN": {"c1": "in another phase or stage"},
    "type of a forked Caffe": {"warp": "unknown layer type", "c3": "layer 'warp' (SpatialTransformer)"},
    "param name of one layer": {},
    "groups": {},
    "non-square": {},
    "dilated": {},
}


@pytest.fixture(scope="module")
def caffe():
    """One process for all networks of this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_full_rank_is_the_original(caffe: CaffeExecutor, tmp_path: Path, case) -> None:
    row = networks.check(case, tmp_path / "net", caffe)
    if case.foreign:
        assert row.error is None, row.worst
    else:
        assert row.error <= 1e-4, row.worst
    if case.name in WHOLE:
        assert row.whole.keys() == WHOLE[case.name].keys()
        assert all(word in row.whole[name] for name, word in WHOLE[case.name].items())
    assert (row.opencv == "yes") == (case.name not in OPENCV_CANNOT), row.opencv


def test_the_names_here_are_names_of_cases() -> None:
    names = {case.name for case in networks.FAMILIES}
    assert len(names) == len(networks.FAMILIES) >= 30
    assert names >= OPENCV_CANNOT and WHOLE.keys() <= names


def test_the_table_says_what_was_found() -> None:
    whole = {
        "a": "1x1 convolution",
        "b": "its weights are shared with layer 'c' (param { name })",
        "c": "its weights are shared with layer 'b' (param { name })",
    }
    rows = [networks.Row("x", 3, whole, 1.26e-6, "c2", "yes"), networks.Row("y", 0, {}, None, "", "no: its reason")]
    assert networks.table(rows).splitlines()[2:] == [
        "| x | 3 | `a`: 1x1 convolution; `b`, `c`: its weights are shared (param { name }) | 1.3e-06 | yes |",
        "| y | 0 | none | not run | no: its reason |",
    ]


def test_the_table_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "networks.md"
    path.write_text("# Networks\n\n<!-- table -->\nold\n<!-- end of table -->\n\nMore.\n")
    networks.write_table(path, "new")
    assert path.read_text() == "# Networks\n\n<!-- table -->\nnew\n<!-- end of table -->\n\nMore.\n"
    networks.write_table(tmp_path / "plain.md", "new")
    assert (tmp_path / "plain.md").read_text() == "new\n"


def emission(folder: Path, name: str, ranks: dict[str, int], **how) -> list[str]:
    """Flags of ``emit`` for a family's network with weights of ones."""
    model, weights = folder / "n.prototxt", folder / "n.caffemodel"
    model.write_text(next(c for c in networks.FAMILIES if c.name == name).text)
    with open(weights, "wb") as handle:
        layers = load(model, **how).network.weighted
        write_caffemodel(
            handle, "n", (layer_record(x.name, x.type, [np.ones(s) for s in expected_shapes(x)]) for x in layers)
        )
    write_plan(folder / "ranks.json", RankPlan("", ranks))
    given = {"model": model, "weights": weights, "ranks": folder / "ranks.json", "out": folder / "out"}
    return [word for flag, path in given.items() for word in (f"--{flag}", str(path))]


def test_emit_takes_stages_and_levels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = emission(tmp_path, "stage and level", {"c1": 2, "wide": 3}, level=1, stages=("serve",))
    assert main(["inspect", *flags[:2], "--level", "1", "--stage", "serve"]) == 0
    assert "wide" in capsys.readouterr().out
    assert main(["emit", *flags, "--level", "1", "--stage", "serve"]) == 0
    assert "without data and loss" not in capsys.readouterr().out
    out = tmp_path / "out"
    train_val, solver = read_net(out / "train_val.prototxt"), read_solver(out / "solver.prototxt")
    assert not train_val.HasField("state")
    assert {"c1_v", "c1_h", "wide_v", "wide_h", "narrow", "drop", "loss", "prob"} <= {x.name for x in train_val.layer}
    assert [(s.level, list(s.stage)) for s in solver.test_state] == [(1, ["serve"])]
    deploy = [x.name for x in read_net(out / "deploy.prototxt").layer]
    assert deploy == ["data", "c1_v", "c1_h", "wide_v", "wide_h", "gap", "fc", "prob"]
    assert main(["inspect", *flags[:2]]) != 0
    assert "--stage score, which chooses layer 'data'" in capsys.readouterr().err


def test_emit_says_why_a_network_cannot_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emit", *emission(tmp_path, "input and input_dim", {"c1": 2})]) == 0
    assert (
        "without data and loss: network '' has no SoftmaxWithLoss, Accuracy or Softmax layer" in capsys.readouterr().out
    )
    layers = read_net(tmp_path / "out" / "train_val.prototxt").layer
    assert [x.name for x in layers] == ["input", "c1_v", "c1_h", "c2"]
