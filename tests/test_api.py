"""The package from Python: the example of docs/python.md as it stands, and what is imported when."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import enc_caffe
from enc_caffe.errors import DatasetError, UsageError
from enc_caffe.workers.choice import Workers, workers_of
from tests.measuring import nets

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.caffe
def test_the_example_of_the_docs_runs(demo, tmp_path: Path) -> None:
    folder = demo[0]
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    for name, target in {
        "train_val.prototxt": folder / "original" / "train_val.prototxt",
        "net.caffemodel": folder / "original" / "finetuned.caffemodel",
        # Fewer images are faster; which ones does not matter here.
        "train_lmdb": folder / "digits_test_lmdb",
        "test_lmdb": folder / "digits_test_lmdb",
    }.items():
        (tmp_path / name).symlink_to(target)
    # In a file, as people have it: worker processes do not begin it once more.
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *forms, counted, accuracy = done.stdout.splitlines()
    assert forms and all(re.fullmatch(r"\w+ \w+:\d+(x\d+)*", line) for line in forms)
    part, _, words = counted.partition(" of ")
    assert 0.4 < float(part) <= 0.5 and words == "all convolutions and fully connected layers"
    # The original has 0.9889; guessing gives 0.1.
    assert float(accuracy.split()[0]) > 0.9 and accuracy.endswith("on 360 images")
    assert (tmp_path / "compressed" / "deploy.prototxt").is_file()


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, enc_caffe; assert 'numpy' not in sys.modules; from enc_caffe.metrics.table import MetricsTable; enc_caffe.search; "
        "assert not {'lmdb', 'cv2', 'caffe', 'matplotlib', 'google.protobuf'} & set(sys.modules); print(callable(enc_caffe.search))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


def test_rooms_are_functions_too() -> None:
    for name in enc_caffe.__all__:
        function = getattr(enc_caffe, name)
        assert callable(function) and inspect.signature(function).parameters
    assert "target_flops" in enc_caffe.search._function.__doc__
    assert inspect.ismodule(enc_caffe.metrics) and enc_caffe.metrics.__path__


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="no attribute 'shrink'"):
        enc_caffe.shrink  # noqa: B018
    with pytest.raises(UsageError, match="quality 'great': known are best, max, paper"):
        enc_caffe.compress("m", "w", "i", "o", quality="great", target_flops=0.5)


@pytest.mark.caffe
def test_max_distils(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.grouped())
    lmdb, said = nets.write_images(tmp_path / "lmdb", 40), []
    result = enc_caffe.compress(
        model, weights, lmdb, tmp_path / "out", "max", target_flops=0.3, refine=0, distill_iterations=4, notice=said.append
    )  # fmt: skip
    # The folder that there is, not the one that it was made in.
    assert result.emitted.folder == tmp_path / "out" and (result.emitted.folder / "deploy.prototxt").is_file()
    assert result.making.endswith("distilled in 4 iterations") and any(x.startswith("distillation: ") for x in said)


def test_images_to_fit_to_arrive_where_the_command_s_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What comes of them is tests/pipeline/test_compression.py's.
    seen = []
    monkeypatch.setattr("enc_caffe.pipeline.compression.compress", lambda *args, **_: seen.append((args[4], args[6])))
    monkeypatch.setattr("enc_caffe.caffe_io.stockform.in_stock_form", lambda path, *_: path)
    for quality in ("max", "best"):
        enc_caffe.compress("m", "w", "i", tmp_path / "o", quality, train_lmdb="more", target_flops=0.5)
    enc_caffe.compress("m", "w", "i", tmp_path / "o", "max", target_flops=0.5)
    assert [(m.fit_train, m.iterations, o.train_lmdb) for m, o in seen] == [
        (True, 1000, Path("more")), (False, 0, Path("more")), (True, 1000, None),
    ]  # fmt: skip


def test_what_a_caller_decides_goes_before_the_quality_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("enc_caffe.pipeline.compression.compress", lambda *args, **_: seen.append(args[4]))
    monkeypatch.setattr("enc_caffe.caffe_io.stockform.in_stock_form", lambda path, *_: path)
    for more in ({}, {"placement": "exact"}, {"stride_placement": "exact"}):
        enc_caffe.compress("m", "w", "i", tmp_path / "o", "paper", target_flops=0.5, **more)
    assert [making.placement for making in seen] == ["published", "exact", "exact"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target_flop": 0.5}, "option 'target_flop' is unknown (did you mean target_flops?)"),
        ({"target_flops": "0.5"}, "target_flops '0.5': a number is needed"),
        ({"multiple_of": 4.0}, "multiple_of 4.0: an integer is needed"),
        ({"refine": "3"}, "refine '3': an integer is needed"),
        ({"refine": -1}, "--refine -1: 0 or more evaluations are needed"),
        ({"placement": "inexact"}, "--stride_placement inexact: exact or published is needed"),
        ({"recalibrate": "autto"}, "--recalibrate autto: known are bn, change, bias, auto"),
        ({"recalibrate": 1}, "recalibrate 1: a name, or names, are needed"),
        ({"schemes": ("spatail",)}, "'spatail' is unknown (did you mean spatial?)"),
        ({"bounds": {"c2": 3}}, "bounds {'c2': 3}: (lowest, highest) is needed"),
        ({"bounds": "c2=3:4"}, "a mapping of layer to (lowest, highest) is needed"),
        ({"whole": 3}, "whole 3: a name, or names, are needed"),
        ({"workers": 0}, "workers 0: a number of processes of 1 or more is needed"),
        ({"workers": "2"}, "workers '2': a number of processes"),
    ],
)
def test_wrong_options_are_errors_of_one_line(options: dict, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        enc_caffe.compress("m", "w", "i", "o", **{"target_flops": 0.5, **options})
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_workers_may_be_a_number() -> None:
    assert (
        workers_of(2) == Workers(2) and workers_of(None) == Workers() and workers_of(Workers(gpus="all")).gpus == "all"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_shape": "3,12,12"}, "input_shape '3,12,12': (channels, height, width) is needed"),
        ({"mean_value": "104"}, "mean_value '104': a number is needed"),
        ({"scale": 0}, "--scale 0: a finite number other than 0 is needed"),
        ({"resize": 12}, "resize 12: (height, width) is needed"),
        ({"top_k": "5"}, "top_k '5': an integer is needed"),
        ({"channel_order": "gbr"}, "--channel_order gbr: known are bgr, rgb"),
    ],
)
def test_what_is_said_of_images_is_checked(options: dict, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        enc_caffe.compress("m", "w", "i", "o", **{"target_flops": 0.5, **options})
    assert words in str(caught.value)


@pytest.mark.caffe
def test_a_deploy_file_and_images_as_the_command_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    text = 'name: "d" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
    text += (
        nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 8) + nets.TAIL.format(last="b")
    )
    model, weights = nets.write_net(tmp_path, text + nets.simple("prob", "Softmax", "fc", "prob"))
    images = tmp_path / "images.npz"
    np.savez(
        images,
        images=np.random.default_rng(0).integers(0, 255, (10, 3, 12, 12)).astype(np.uint8),
        labels=np.arange(10) % 5,
    )
    said: list[str] = []
    fed = {"mean_value": (104, 117, 123), "scale": 0.01}
    made = enc_caffe.compress(
        model, weights, images, tmp_path / "out", target_flops=0.7, refine=0, decomposition="weighted", recalibrate=(), reconstruct="none",
        first_layer="search", top_k=(1, 2), notice=said.append, **fed,
    )  # fmt: skip
    assert any("(value - [104, 117, 123]) * 0.01, by the flags" in line for line in said)
    assert not any(str(tmp_path / "cache") in line for line in said)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["lmdb"] == str(images)
    whole = enc_caffe.evaluate(model, weights, images, (1, 2), **fed)
    assert (
        made.before is not None
        and whole.correct == made.before.correct
        and whole.cross_entropy == made.before.cross_entropy
    )
    # A plan by its file.
    again = enc_caffe.emit(enc_caffe.load(model, **fed), weights, tmp_path / "out" / "ranks.json", tmp_path / "again")
    assert again.ratio("exact", "all") == made.emitted.ratio("exact", "all")
    # Errors name what the caller did.
    np.savez(images, images=np.zeros((4, 3, 9, 9), np.uint8))
    with pytest.raises(DatasetError, match=re.escape(f"{images}: images become (3, 9, 9)")):
        enc_caffe.metrics(enc_caffe.load(model), weights, images)
