"""Data layers that stages choose: which state trains and which tests, and a network that needs none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enc_caffe.caffe_io.describe import describe, selected
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.caffe_io.states import NONE, by_phase, put_states, staged, training_state
from enc_caffe.caffe_io.variants import train_val_net
from enc_caffe.errors import NetworkError
from tests.measuring.nets import conv

pytestmark = pytest.mark.caffe
VAL, TRAIN = (0, ("val",)), (0, ("train",))


def data(name: str, rule: str = "") -> str:
    """A data layer."""
    return f'layer {{ name: "{name}" type: "Data" top: "data" top: "label" {rule} data_param {{ source: "none" batch_size: 4 backend: LMDB }} }}\n'


#: By stages alone, as DIGITS writes networks: one file for training, test and deployment.
STAGES = (
    data("t", 'include { stage: "train" }') + data("v", 'include { stage: "val" }')
    + 'layer { name: "i" type: "Input" top: "data" include { stage: "deploy" } input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }\n'
    + conv("c", "data", 4) + 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc" inner_product_param { num_output: 5 } }\n'
    + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" exclude { stage: "deploy" } }\n'
    + 'layer { name: "right" type: "Accuracy" bottom: "fc" bottom: "label" top: "right" include { stage: "val" } }\n'
)  # fmt: skip
PHASES = data("t", "include { phase: TRAIN }") + data("v", "include { phase: TEST }")


@pytest.mark.parametrize(
    ("text", "chosen", "wanted"),
    [
        (STAGES, VAL, TRAIN),
        (STAGES, TRAIN, VAL),
        # No images by these stages: those of the first layer that has some.
        (STAGES, (0, ("deploy",)), TRAIN),
        (STAGES, (1, ("deploy",)), (1, ("train",))),
        # What chooses layers besides the images holds for both.
        (STAGES, (1, ("fine", "val")), (1, ("fine", "train"))),
        (PHASES, (1, ("fine",)), (1, ("fine",))),
        (data("both"), (2, ()), (2, ())),
        # Data layers without stages serve the training too, whatever another stage has.
        (data("both") + data("more", 'include { stage: "pairs" }'), (0, ("report",)), (0, ("report",))),
        (data("t", 'include { phase: TRAIN not_stage: "val" }') + data("v", 'include { phase: TEST stage: "val" }'), VAL, NONE),
        (data("v", 'include { stage: "val" }'), VAL, VAL),
        (data("v", 'include { phase: TEST stage: "val" }'), VAL, NONE),
        (data("t", 'include { phase: TRAIN stage: "a" stage: "b" min_level: 2 }') + data("v", 'include { stage: "val" }'), VAL, (2, ("a", "b"))),
        (data("t", 'include { phase: TRAIN max_level: 0 stage: "a" }') + data("v", 'include { stage: "val" }'), (3, ("val",)), (0, ("a",))),
        ("", VAL, NONE),
    ],
)  # fmt: skip
def test_the_training_has_images_of_its_own(text: str, chosen: Any, wanted: Any) -> None:
    assert training_state(from_text(text), chosen) == wanted


def test_a_solver_keeps_its_own_states() -> None:
    net, solver = from_text(STAGES), caffe_pb2().SolverParameter()
    said = put_states(solver, net, VAL)
    assert said == "train_state has stage train, by which layer 't' brings images, in place of stage val"
    assert list(solver.train_state.stage) == ["train"] and [list(s.stage) for s in solver.test_state] == [["val"]]
    own = caffe_pb2().SolverParameter()
    own.train_state.stage.append("mine")
    own.test_state.add(stage=["one"])
    own.test_state.add(stage=["two"])
    assert put_states(own, net, VAL) == ""
    assert list(own.train_state.stage) == ["mine"] and [list(s.stage) for s in own.test_state] == [["one"], ["two"]]
    # What holds for both phases alike needs no word where nothing was chosen.
    plain = caffe_pb2().SolverParameter()
    put_states(plain, from_text(PHASES), NONE)
    assert not plain.HasField("train_state")


def test_a_network_without_states_has_the_same_layers() -> None:
    net, solver = from_text(STAGES), caffe_pb2().SolverParameter(base_lr=0.5)
    assert by_phase(net, solver) is None
    put_states(solver, net, VAL)
    plain, own = by_phase(net, solver)
    assert own.base_lr == 0.5 and not own.HasField("train_state") and not own.test_state
    assert not plain.HasField("state") and not any(s for x in plain.layer for rule in x.include for s in rule.stage)
    for phase, state in (("TRAIN", solver.train_state), ("TEST", solver.test_state[0])):
        wanted = [x.name for x in selected(staged(net, state), phase)]
        assert [x.name for x in selected(plain, phase)] == wanted
    assert [x.name for x in selected(plain, "TRAIN")] == ["t", "c", "fc", "loss"]
    assert [x.name for x in net.layer] == ["t", "v", "i", "c", "fc", "loss", "right"], "the network itself changed"
    solver.test_state.add(stage=["deploy"])
    assert by_phase(net, solver) is None, "two test nets are not one"


def test_each_lmdb_goes_to_the_stage_that_reads_it(tmp_path: Path) -> None:
    net = staged(from_text(STAGES), caffe_pb2().NetState(stage=["val"]))
    made = train_val_net(net, describe(net, (3, 8, 8), "n.prototxt"), tmp_path / "train", tmp_path / "test")
    sources = {x.name: x.data_param.source for x in made.layer if x.type == "Data"}
    assert sources == {"t": str(tmp_path / "train"), "v": str(tmp_path / "test")}
    # A single data layer of a stage trains.
    one = staged(
        from_text(STAGES.replace(data("t", 'include { stage: "train" }'), "")), caffe_pb2().NetState(stage=["val"])
    )
    made = train_val_net(one, describe(one, (3, 8, 8), "n.prototxt"), tmp_path / "train", tmp_path / "test")
    assert [x.data_param.source for x in made.layer if x.type == "Data"] == [str(tmp_path / "train")]


def test_the_stage_of_the_test_images_is_advised() -> None:
    with pytest.raises(
        NetworkError, match="'data' is produced by no layer without --stage val, which chooses layer 'v'"
    ):
        describe(from_text(STAGES), (3, 8, 8), "n.prototxt")
