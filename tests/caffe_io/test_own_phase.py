"""Layers with a phase of their own: stock Caffe follows it whatever the net's phase is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from enc_caffe.caffe_io.notices import notices
from enc_caffe.caffe_io.own_phase import check_repeatable, training_lines
from enc_caffe.errors import NetworkError
from tests.caffe_io.test_variants import INPUT, conv, layer, read

pytestmark = pytest.mark.caffe

DROPOUT = layer("d", "Dropout", "c", "phase: TRAIN", top="c")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (DROPOUT, r"layer 'd' \(Dropout\) has a phase: TRAIN of its own: in tests too it drops .*; take the field 'phase' out"),
        (DROPOUT + DROPOUT.replace('"d"', '"e"'), r"layer 'd' \(Dropout\) \(and 1 more\) has a phase"),
        (layer("n", "BatchNorm", "c", "phase: TRAIN"), r"layer 'n' \(BatchNorm\) .* in tests too it normalises by the images of each pass"),
        (DROPOUT.replace("TRAIN", "TEST"), ""),
        (DROPOUT.replace("phase: TRAIN", "include { phase: TRAIN } phase: TRAIN"), ""),
        (layer("d", "Dropout", "c", "phase: TRAIN dropout_param { dropout_ratio: 0 }"), ""),
        (layer("n", "BatchNorm", "c", "phase: TRAIN batch_norm_param { use_global_stats: true }"), ""),
        (layer("r", "ReLU", "c", "phase: TRAIN"), ""),
    ],
)  # fmt: skip
def test_layers_that_train_in_tests_too_are_told(tmp_path: Path, body: str, words: str) -> None:
    net, network = read(tmp_path, INPUT + conv("c", "data") + body)
    lines = training_lines(net)
    assert len(lines) == bool(words) and all(re.match(words, line) for line in lines)
    assert notices(net, network, "n.prototxt") == [f"n.prototxt: {line}" for line in lines]


def test_what_drops_at_random_cannot_be_measured(tmp_path: Path) -> None:
    batch = layer("n", "BatchNorm", "c", "phase: TRAIN", top="c")
    check_repeatable(read(tmp_path, INPUT + conv("c", "data") + batch)[0], "n.prototxt")
    with pytest.raises(NetworkError, match=r"n.prototxt: layer 'd' \(Dropout\) has .* measurements must repeat; take"):
        check_repeatable(read(tmp_path, INPUT + conv("c", "data") + DROPOUT)[0], "n.prototxt")
