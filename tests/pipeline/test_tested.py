"""Which images and which scores accuracies are of, said before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enc_caffe.cli import main
from tests.measuring import nets

pytestmark = pytest.mark.caffe
BODY = (
    'name: "face"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n' + nets.conv("c1", "data", 8) + nets.conv("c2", "c1", 8)
    + nets.TAIL.format(last="c2").replace("fc", "age") + nets.simple("age_prob", "Softmax", "age", "age_prob")
)  # fmt: skip
SECOND = (
    nets.TAIL.format(last="c2")
    .replace("fc", "sex")
    .replace('"pool"', '"pool_2"')
    .replace("num_output: 5", "num_output: 2")
)
BOTH = BODY + SECOND + nets.simple("sex_prob", "Softmax", "sex", "sex_prob")


def compress(folder: Path, text: str, *more: str) -> int:
    """Exit status; labels of the images go from 0 to 4."""
    model, weights = nets.write_net(folder, text)
    if not (folder / "lmdb").exists():
        nets.write_images(folder / "lmdb", 24)
    return main(["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(folder / "lmdb"), "--scale", "0.01",
                 "--target_flops", "0.6", "--store", str(folder / "s"), "--out", str(folder / "out"), "--force", *more])  # fmt: skip


def test_labels_of_other_classes_are_none_unless_they_were_asked_for(tmp_path: Path, capsys) -> None:
    assert compress(tmp_path, BOTH) == 0
    said = capsys.readouterr()
    assert "labels go from 0 to 4, but the network has 2 classes in 'sex'; no accuracy" in said.err
    assert "top-1" not in said.out and "original" not in json.loads((tmp_path / "out" / "evaluation.json").read_text())
    for more, words in (
        (["--test_lmdb", str(tmp_path / "lmdb")], "accuracies need labels of these"),
        (["--metric", "measured"], "--metric measured needs labels"),
    ):
        assert compress(tmp_path, BOTH, "--quality", "best", *more) in (1, 2)
        said = capsys.readouterr().err
        assert words in said and "measuring" not in said


def test_of_several_class_scores_it_is_said_which(tmp_path: Path, capsys) -> None:
    three = nets.simple("third", "Power", "age", "third") + nets.simple("last_prob", "Softmax", "third", "last_prob")
    nets.write_images(tmp_path / "lmdb", 24)
    # A loss says which scores labels are of.
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "age" bottom: "label" top: "loss" }\n'
    trained = nets.DATA.format(phase="TEST") + BOTH[BOTH.index("layer") :] + loss
    for text, named in ((BOTH + three, True), (trained, False)):
        model, weights = nets.write_net(tmp_path, text)
        given = ["--model", str(model), "--weights", str(weights), "--lmdb", str(tmp_path / "lmdb"), "--scale", "0.01"]
        assert main(["evaluate", *given]) == 0
        said = capsys.readouterr()
        words = "the network has several class scores (age, sex, third); accuracies are those of 'third', the last one"
        assert (words in said.out + said.err) == named and "top-1" in said.out


def test_more_classes_than_there_are_cost_no_measurement(tmp_path: Path, capsys) -> None:
    assert compress(tmp_path, BODY, "--top_k", "1,6", "--quality", "best") == 2
    said = capsys.readouterr().err
    assert "--top_k 1,6: the network has 5 classes" in said and "measuring" not in said
