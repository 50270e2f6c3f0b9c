"""Held-out images: which they are, which snapshot and which learning rate they choose."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools import selection
from enc_caffe.caffe_tools.programs import TrainingPoint
from enc_caffe.caffe_tools.selection import Criterion, best, criterion, hold_out, sweep
from enc_caffe.errors import UsageError
from tests.measuring import nets


def keys(path: Path) -> list[bytes]:
    images = ImageLmdb(path)
    found = [key for key, _ in images.raw()]
    images.close()
    return found


def test_held_out_images_are_spread_and_none_is_trained_on(tmp_path: Path, monkeypatch) -> None:
    nets.write_images(tmp_path / "all", 57)
    train, held, number = hold_out(tmp_path / "all", tmp_path / "split")
    everything, places = keys(tmp_path / "all"), keys(held)
    assert number == len(places) == 5
    assert sorted([*keys(train), *places]) == everything and not set(keys(train)) & set(places)
    at = [everything.index(key) for key in places]
    assert at[0] == 0 and set(np.diff(at)) <= {11, 12}
    # The same images are not split again; others are.
    monkeypatch.setattr(selection, "write_lmdb", lambda *a, **k: pytest.fail("split again"))
    assert hold_out(tmp_path / "all", tmp_path / "split") == (train, held, number)
    monkeypatch.undo()
    nets.write_images(tmp_path / "more", 30)
    assert hold_out(tmp_path / "more", tmp_path / "split")[2] == len(keys(held)) == 3
    # Whole batches, where there is one.
    for batch, number in ((2, 4), (5, 5), (6, 5)):
        assert hold_out(tmp_path / "all", tmp_path / f"split{batch}", batch)[2] == number


def test_few_images_cannot_be_held_out(tmp_path: Path) -> None:
    nets.write_images(tmp_path / "all", 19)
    with pytest.raises(
        UsageError, match="all: at least 20 images are needed to hold some out, and there are 19; give --held_out_lmdb"
    ):
        hold_out(tmp_path / "all", tmp_path / "split")


def test_most_images_that_are_held_out(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(selection, "HELD_OUT", 4)
    write_lmdb(tmp_path / "all", from_arrays(np.zeros((90, 1, 2, 2), np.uint8), np.zeros(90, np.int64))[1])
    assert hold_out(tmp_path / "all", tmp_path / "split")[2] == 4


def test_what_decides(tmp_path: Path) -> None:
    def of(text: str) -> Criterion:
        (tmp_path / "n.prototxt").write_text(text)
        return criterion(read_net(tmp_path / "n.prototxt"), "n.prototxt")

    accuracy = (
        'layer { name: "acc" type: "Accuracy" bottom: "fc" bottom: "label" top: "right" include { phase: TEST } }\n'
    )
    both = of(nets.grouped(nets.LOSS + accuracy))
    assert both.names == (("right", True), ("loss", False))
    assert of(nets.grouped()).names == (("loss", False),)
    with pytest.raises(UsageError, match="n.prototxt: the TEST phase has no accuracy and no loss"):
        of(nets.grouped(""))
    # More right images, and of as many the lower loss; what is no number is worst.
    assert both.key({"right": 0.9, "loss": 3}) < both.key({"right": 0.8, "loss": 1})
    assert both.key({"right": 0.9, "loss": 1}) < both.key({"right": 0.9, "loss": 3})
    assert both.key({"right": 0.1, "loss": 9}) < both.key({"right": math.nan, "loss": 0}) == both.key({"loss": 0})
    assert both.words({"right": 0.5, "loss": 2, "other": 1}) == "right 0.5000, loss 2.0000"


def test_heads_decide_together_and_auxiliary_classifiers_do_not(tmp_path: Path) -> None:
    def of(text: str) -> Criterion:
        (tmp_path / "n.prototxt").write_text(nets.HEAD.format(name="heads") + fc("a") + fc("b") + text)
        return criterion(read_net(tmp_path / "n.prototxt"), "n.prototxt")

    def fc(name: str) -> str:
        return f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" inner_product_param {{ num_output: 5 }} }}\n'

    def judged(kind: str, blob: str, label: str, more: str = "") -> str:
        top = f"{'right' if kind == 'Accuracy' else 'loss'}_{blob}"
        return f'layer {{ name: "{top}" type: "{kind}" bottom: "{blob}" bottom: "{label}" top: "{top}" {more} }}\n'

    marks = (
        'layer { name: "marks" type: "Data" top: "marks" data_param { source: "none" batch_size: 4 backend: LMDB } }\n'
    )
    loss, right = "SoftmaxWithLoss", "Accuracy"
    # As in GoogLeNet, whose auxiliary classifiers come first in the file.
    google = judged(loss, "a", "label", "loss_weight: 0.3") + judged(right, "a", "label") + judged(loss, "b", "label") + judged(right, "b", "label")  # fmt: skip
    assert of(google).names == (("right_b", True), ("loss_b", False))
    soft = nets.simple("prob", "Softmax", "b", "prob") + judged(loss, "b", "label")
    assert of(soft + judged(right, "prob", "label")).names == (("right_prob", True), ("loss_b", False))
    assert of(judged(right, "a", "label")).names == (("right_a", True),)
    two = marks + judged(loss, "a", "marks") + judged(loss, "b", "label", "loss_weight: 2") + judged(right, "a", "marks") + judged(right, "b", "label")  # fmt: skip
    both = of(two)
    assert [larger for _, larger in both.names] == [True, False]
    test = {"right_a": 0.5, "right_b": 1.0, "loss_a": 3.0, "loss_b": 0.25}
    assert both.key(test) == (-0.75, 3.5)
    assert both.words(test) == "right_a 0.5000, right_b 1.0000, loss_a 3.0000, loss_b 0.2500"
    assert both.key({**test, "right_a": math.nan})[0] == math.inf
    # A head without an accuracy would be lost sight of.
    assert of(two.replace(judged(right, "a", "marks"), "")).key(test) == (3.5,)


def test_the_start_counts_and_of_equals_the_earliest_is_kept() -> None:
    by = Criterion((("right", True), ("loss", False)))
    points = [TrainingPoint(i, test={"right": r, "loss": v}) for i, r, v in
              ((0, 0.5, 1.0), (10, 0.7, 2.0), (20, 0.7, 1.5), (30, 0.7, 1.5), (40, math.nan, 0.0))]  # fmt: skip
    points.insert(1, TrainingPoint(5, loss=3.0))
    assert best(points, by, lambda i: True) == (20, {"right": 0.7, "loss": 1.5})
    assert best(points, by, lambda i: i != 20) == (30, {"right": 0.7, "loss": 1.5})
    assert best(points[:1], by, lambda i: True) == (0, {"right": 0.5, "loss": 1.0})
    assert best(points, by, lambda i: i == 40) is None
    # A training that was interrupted tests an iteration again: the last word holds.
    again = [*points, TrainingPoint(20, test={"right": 0.6, "loss": 1.5})]
    assert best(again, by, lambda i: True) == (30, {"right": 0.7, "loss": 1.5})


@given(st.floats(-3, 3), st.sampled_from([1e-3, 0.02, 1.0]))
def test_the_sweep_ends_at_the_least_of_a_curve_with_one(at: float, start: float) -> None:
    tried: list[float] = []

    def value(rate: float) -> tuple[float]:
        tried.append(rate)
        return (abs(math.log(rate / start) / math.log(selection.RATIO) - at),)

    with tempfile.TemporaryDirectory() as folder:
        rate, values = sweep(start, value, Path(folder) / "rates.json", lambda done, all_: None)
    assert len(tried) == len(set(tried)) == len(values) <= selection.RATES
    places = np.round([math.log(r / start) / math.log(selection.RATIO) for r in values], 2)
    # It is the best that was tried, and so are both neighbours worse, if the number of trials allows.
    assert values[rate] == min(values.values())
    place = math.log(rate / start) / math.log(selection.RATIO)
    assert abs(place - at) <= 0.51 or len(values) == selection.RATES
    assert {round(place) - 1, round(place) + 1} <= {round(p) for p in places} or len(values) == selection.RATES


def test_a_sweep_goes_on_where_it_was_and_what_diverged_is_worst(tmp_path: Path) -> None:
    seen: list[float] = []

    def value(rate: float) -> tuple[float]:
        seen.append(rate)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return (math.inf if rate > 0.05 else 0.1 + abs(rate - 0.03),)

    with pytest.raises(KeyboardInterrupt):
        sweep(0.1, value, tmp_path / "rates.json", lambda done, all_: None)
    done: list[int] = []
    rate, values = sweep(0.1, value, tmp_path / "rates.json", lambda i, all_: done.append(i))
    # Two values were known, and the third is the first that is asked for again.
    assert seen[:2] == [0.1, 0.0333] and seen[2] == seen[3] and len(seen) == len(set(seen)) + 1
    assert rate == 0.0333 and values[0.1] == (math.inf,) and done == list(range(1, len(values) + 1))
    # Values of another training are not believed, nor is a damaged file.
    number = len(seen)
    assert sweep(0.1, value, tmp_path / "rates.json", lambda i, all_: None, {"iterations": 9})[0] == 0.0333
    assert len(seen) == number + len(values)
    (tmp_path / "rates.json").write_text("{")
    assert sweep(0.1, value, tmp_path / "rates.json", lambda i, all_: None)[0] == 0.0333
    assert len(seen) == number + 2 * len(values)
