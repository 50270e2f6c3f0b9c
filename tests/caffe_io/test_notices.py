"""What is said of layers, fields and shapes that stock Caffe does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.notices import notices
from tests.caffe_io.test_variants import INPUT, conv, fc, layer, read

pytestmark = pytest.mark.caffe


def told(folder: Path, text: str) -> list[str]:
    """Lines for a prototxt."""
    return notices(*read(folder, INPUT + text), "n.prototxt")


def test_a_network_that_caffe_has_needs_no_words(tmp_path: Path) -> None:
    assert told(tmp_path, conv("c", "data")) == []


def test_a_type_is_told_once_whatever_it_is_near_to(tmp_path: Path) -> None:
    text = (
        conv("c", "data")
        + layer("n1", "BN", "c", top="c")
        + layer("n2", "BN", "c")
        + layer("r", "Rellu", "n2", top="n2")
        + conv("d", "n2")
    )
    assert told(tmp_path, text) == [
        "n.prototxt: layers n1, n2: Caffe has no type 'BN'; they are carried through as they stand",
        "n.prototxt: layer 'r': Caffe has no type 'Rellu' (did you mean ReLU?); it is carried through as it stands",
    ]


def test_the_flag_that_says_a_shape_is_named(tmp_path: Path) -> None:
    text = (
        conv("c", "data")
        + layer("w", "MyWarp", "c")
        + conv("d", "w")
        + fc("f", "d")
        + layer("v", "MyWarp", "d")
        + conv("e", "v")
    )
    assert told(tmp_path, text)[1:] == [
        "n.prototxt: 3 layers stay whole (d, f, e), since nothing says how large w is; --top_shape w=N,... does"
    ]


def test_fields_are_told_once(tmp_path: Path) -> None:
    pool = layer("p", "Pooling", "c", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }")
    text = conv("c", "data") + pool + pool.replace('"p"', '"q"') + layer("x", "ReLU", "p", "moving: 1")
    assert told(tmp_path, text) == [
        "n.prototxt: Caffe has no field pooling_param.ceil_mode (2 layers), moving; kept as written where the layer is "
        "(sizes follow pooling_param.ceil_mode)"
    ]
