"""A network whose layers stages choose, as DIGITS writes them: trained, compressed, trained again by stock Caffe itself, distilled."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.prototxt import read_net, read_solver
from enc_caffe.caffe_tools.programs import run_caffe
from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe
DATA = (
    'layer {{ name: "{0}-images" type: "Data" top: "data" top: "label" include {{ stage: "{0}" }} transform_param {{ scale: 0.0039 }} '
    'data_param {{ source: "{1}" batch_size: 10 backend: LMDB }} }}\n'
)
SOLVER = (
    'net: "{net}" {states} test_iter: 2 test_interval: 10 base_lr: 0.01 lr_policy: "fixed" max_iter: 10 snapshot: 10 snapshot_prefix: "s"\n'
    "solver_mode: GPU\n"
)


def test_a_network_of_stages_goes_all_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = nets.write_images(tmp_path / "train", 60), nets.write_images(tmp_path / "test", 20, seed=1)
    model, solver, weights = (
        tmp_path / "all.prototxt",
        tmp_path / "solver.prototxt",
        tmp_path / "first" / "finetuned.caffemodel",
    )
    model.write_text(
        'name: "staged"\n' + DATA.format("train", train) + DATA.format("val", test)
        + 'layer { name: "input" type: "Input" top: "data" include { stage: "deploy" } input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
        + nets.conv("c1", "data", 8) + nets.simple("r1", "ReLU", "c1") + nets.conv("c2", "c1", 8) + nets.simple("r2", "ReLU", "c2")
        + nets.TAIL.format(last="c2") + nets.LOSS.replace('top: "loss"', 'top: "loss" exclude { stage: "deploy" }')
        + 'layer { name: "right" type: "Accuracy" bottom: "fc" bottom: "label" top: "right" include { stage: "val" } }\n'
        + 'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" include { stage: "deploy" } }\n'
    )  # fmt: skip
    solver.write_text(SOLVER.format(net=model, states='train_state { stage: "train" } test_state { stage: "val" }'))
    # Most public solvers name a GPU; without --gpu the CPU trains, and says so.
    assert main(["finetune", "--solver", str(solver), "--base_lr", "auto", "--out", str(weights.parent)]) == 0
    said = capsys.readouterr()
    assert "caffe test on 20 images: " in said.out and "on 6 held-out images" in said.out
    assert (
        "solver.prototxt: solver_mode is GPU, but --gpu was not given: training runs on the CPU" in said.out + said.err
    )

    out = tmp_path / "out"
    command = ["compress", "--model", str(model), "--weights", str(weights), "--stage", "val", "--lmdb", str(train), "--test_lmdb", str(test),
               "--target_flops", "0.7", "--distill", "--store", str(tmp_path / "store"), "--out", str(out)]  # fmt: skip
    assert main(command) == 0
    own = read_solver(out / "solver.prototxt")
    assert list(own.train_state.stage) == ["train"] and [list(s.stage) for s in own.test_state] == [["val"]]
    sources = {x.name: x.data_param.source for x in read_net(out / "train_val.prototxt").layer if x.type == "Data"}
    assert sources == {"train-images": str(train), "val-images": str(test)}
    # Stock Caffe trains it by the emitted files alone.
    text = (out / "solver.prototxt").read_text()
    short = tmp_path / "short.prototxt"
    short.write_text(text.replace(f"max_iter: {own.max_iter}", "max_iter: 2"))
    log = run_caffe(
        ["train", "-solver", str(short), "-weights", str(out / "compressed.caffemodel")], tmp_path / "caffe.log"
    )
    assert "Optimization Done" in log and "Test net output #" in log
    capsys.readouterr()
    for number, flags in enumerate(
        (
            ["--solver", str(out / "solver.prototxt"), "--weights", str(out / "compressed.caffemodel")],
            ["--distill", str(out)],
        )
    ):
        assert main(["finetune", *flags, "--max_iter", "4", "--out", str(tmp_path / f"tuned{number}")]) == 0
        assert "caffe test on 20 images: " in capsys.readouterr().out

    # Chosen by the stage to deploy by, it is trained by the images of another one, which a line says.
    command[command.index("val")], command[-1] = "deploy", str(tmp_path / "deployed")
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "train_state has stage train, by which layer 'train-images' brings images, in place of stage deploy" in said
    flags = ["--distill", str(tmp_path / "deployed"), "--train_lmdb", str(train), "--test_lmdb", str(test)]
    assert main(["finetune", *flags, "--max_iter", "4", "--out", str(tmp_path / "tuned2")]) == 0
