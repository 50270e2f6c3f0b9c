"""A whole experiment on the digits' network, interrupted at every third step, in real Caffe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.errors import DatasetError, UsageError
from enc_caffe.experiments import run as module
from enc_caffe.experiments.inputs import Choices
from enc_caffe.experiments.settings import Experiment, read_experiment
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.report.render import write_report
from enc_caffe.report.sections import report_of
from enc_caffe.workers.choice import Workers
from tests.experiments.digits import ROOT, trained_digits

SETTINGS = """
network = "digits"
partial = 0.25
top_k = [1]
method = "map"

[search]
target_flops = 0.5
metric = "measured"
first_layer = "search"

[finetune]
epochs = 2
base_lr = 0.01
"""


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Experiment, Choices]:
    """Settings of ones own beside a copy of the digits' network, with weights of a few iterations."""
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    folder, weights, train, test = trained_digits(tmp_path)
    (folder / "own.toml").write_text(SETTINGS)
    choices = Choices(("map",), None, weights, train, test, True, True, Workers(1))
    return read_experiment(str(folder / "own.toml"), ROOT), choices


def run(x: Experiment, choices: Choices, out: Path, say: object) -> dict[str, bytes]:
    """The experiment and its report: what it wrote there, by name."""
    with ResultStore(out.parent / f"{out.name}.sqlite") as store:
        module.run(x, choices, out, store, lambda *a: None, say)  # type: ignore[arg-type]
    write_report(report_of([read_run(out)]), out / "report", force=True)
    return {p.name: p.read_bytes() for p in (out / "report").rglob("*") if p.is_file()}


def without_times(page: bytes) -> str:
    return re.sub(r"(search seconds)\D*[\d.e-]+", r"\1", page.decode())


@pytest.mark.caffe
def test_interrupted_again_and_again_it_ends_with_the_same_report(
    experiment: tuple[Experiment, Choices], tmp_path: Path
) -> None:
    x, choices = experiment
    through = run(x, choices, tmp_path / "through", lambda line: None)
    started: list[str] = []
    begun, rounds = 0, 0

    def say(line: str) -> None:
        nonlocal begun
        if line.endswith(" ..."):
            begun += 1
            if begun == 4:
                raise KeyboardInterrupt
            started.append(line)

    while True:
        begun, rounds = 0, rounds + 1
        try:
            broken = run(x, choices, tmp_path / "broken", say)
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "broken" / "experiment.json").exists()
    assert rounds > 4 and len(started) == len(set(started)) == len(list((tmp_path / "broken" / "steps").iterdir()))
    assert set(broken) == set(through)
    for name in ("report.html", "report.md"):
        ours, theirs = (without_times(page) for page in (broken[name], through[name]))
        assert ours == theirs
    # A third time nothing at all is done, and the report is the same to the byte.
    said: list[str] = []
    assert run(x, choices, tmp_path / "broken", said.append) == broken
    assert all(line.endswith("done before") for line in said)
    record = json.loads((tmp_path / "broken" / "experiment.json").read_text())
    tuned = record["networks"][-1]["finetuned"]
    # Stock caffe test and the counts of every image agree.
    assert tuned["score"]["correct"]["1"] == round(tuned["caffe_test"]["accuracy"] * 60) > 0


def test_images_that_are_missing_or_not_imagenet_are_said_first(tmp_path: Path) -> None:
    x = read_experiment("vgg16-25", ROOT)
    labels = np.arange(30)
    write_lmdb(tmp_path / "lmdb", from_arrays(np.zeros((30, 3, 8, 8), np.uint8), labels)[1])
    with ResultStore(tmp_path / "s.sqlite") as store:
        with pytest.raises(UsageError, match="convert_imageset --resize_height=256 --resize_width=256 --shuffle"):
            module.run(x, Choices(), tmp_path / "o", store, lambda *a: None, lambda line: None)
        choices = Choices(train_lmdb=tmp_path / "lmdb", test_lmdb=tmp_path / "lmdb")
        with pytest.raises(DatasetError, match="30 images, at least 1,000,000 are expected"):
            module.run(x, choices, tmp_path / "o", store, lambda *a: None, lambda line: None)
