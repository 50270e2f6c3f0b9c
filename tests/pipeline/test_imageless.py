"""A compression by singular values alone: no image is needed, stock Caffe loads what comes, and what does need images says so."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

import enc_caffe
from enc_caffe.caffe_tools.loadable import load
from enc_caffe.cli import main, parse
from enc_caffe.errors import UsageError
from tests.measuring import nets

pytestmark = pytest.mark.caffe


def command(folder: Path, *more: str) -> list[str]:
    model, weights = nets.write_net(folder, nets.grouped())
    return ["compress", "--model", str(model), "--weights", str(weights), "--input_shape", "3,12,12", "--target_flops", "0.5",
            "--out", str(folder / "out"), *more]  # fmt: skip


def test_ranks_by_singular_values_need_no_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my nets"
    assert main(command(folder)) == 0
    said, out = capsys.readouterr().out, folder / "out"
    assert "\nno images were given, so no accuracy\n" in said
    assert parse(shlex.split(said.split("fine-tune: enc-caffe ")[1])).solver == out / "solver.prototxt"
    assert load(out / "deploy.prototxt", out / "compressed.caffemodel") is None
    found = json.loads((out / "evaluation.json").read_text())
    assert found["macs"]["exact, all"] <= 0.5 and found["images"] == 0 and found["lmdb"] is None
    # With images the same network comes, and its accuracy.
    lmdb, first = nets.write_images(tmp_path / "lmdb", 40), (out / "compressed.caffemodel").read_bytes()
    for flag in ("--lmdb", "--test_lmdb"):
        assert main(command(folder, flag, str(lmdb), "--force")) == 0
        assert "accuracy on 40 images" in capsys.readouterr().out
        assert (out / "compressed.caffemodel").read_bytes() == first
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0


@pytest.mark.parametrize(("flags", "said"), [
    (["--quality", "best"], "--quality best: measures on images"),
    (["--metric", "divergence"], "--metric divergence: needs images"),
    (["--decomposition", "weighted"], "--decomposition weighted: needs images"),
    (["--recalibrate", "bias"], "--recalibrate: needs images"),
    (["--refine", "2"], "--refine 2: needs images"),
    (["--method", "inf"], "--method inf: needs images"),
    (["--distill"], "--distill: needs images"),
    (["--distill_iterations", "3"], "--distill_iterations: needs images"),
])  # fmt: skip
def test_what_measures_says_that_it_needs_images(
    tmp_path: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(tmp_path, *flags)) == 2
    error = capsys.readouterr().err
    assert said in error and "--lmdb" in error and "--images" in error and not (tmp_path / "out").exists()


def test_from_python_too(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.grouped())
    made = enc_caffe.compress(
        model, weights, None, tmp_path / "out", quality="paper", metric="pca", input_shape=(3, 12, 12), target_flops=0.5
    )
    assert made.before is None and made.unrated == "no images were given"
    with pytest.raises(UsageError, match="quality 'best': measures on images"):
        enc_caffe.compress(model, weights, None, tmp_path / "best", input_shape=(3, 12, 12), target_flops=0.5)


def test_images_that_only_train_are_enough_to_distil_by(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lmdb = nets.write_images(tmp_path / "lmdb", 40)
    flags = [
        x
        for x in command(tmp_path / "my nets", "--distill", "--train_lmdb", str(lmdb))
        if x not in ("--input_shape", "3,12,12")
    ]
    assert main(flags) == 0
    # The very command that it names, in a folder of two words.
    line = next(x for x in capsys.readouterr().out.splitlines() if "enc-caffe finetune" in x)
    assert main([*shlex.split(line.split("enc-caffe ")[1]), "--max_iter", "4", "--snapshot", "2"]) == 0
    assert (tmp_path / "my nets" / "out-finetuned" / "finetuned.caffemodel").is_file()
