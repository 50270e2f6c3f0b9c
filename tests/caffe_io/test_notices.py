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
        "n.prototxt: 3 layers stay whole (d, f, e) and are in no count of MACs, since nothing says how large w is; --top_shape w=N,... does"
    ]


@pytest.mark.parametrize("kind", ["SegAccuracy", "CReLU", "Lstm"])
def test_a_well_known_type_of_a_fork_is_no_slip_of_the_pen(tmp_path: Path, kind: str) -> None:
    lines = told(tmp_path, conv("c", "data") + layer("own", kind, "c"))
    assert lines == [f"n.prototxt: layer 'own': Caffe has no type '{kind}'; it is carried through as it stands"]


def test_an_input_that_stands_for_a_size_is_told(tmp_path: Path) -> None:
    small = INPUT.replace("dim: 8", "dim: 1")
    lines = notices(*read(tmp_path, small + conv("c", "data")), "n.prototxt")
    assert lines == [
        "n.prototxt: input 'data' is 1x1, smaller than the kernel 3x3 of layer 'c': MACs are of that size; --input_shape C,H,W says the "
        "one that the network is run with"
    ]


def test_fields_are_told_once(tmp_path: Path) -> None:
    pool = layer("p", "Pooling", "c", "pooling_param { kernel_size: 2 stride: 2 ceil_mode: false }")
    text = conv("c", "data") + pool + pool.replace('"p"', '"q"') + layer("x", "ReLU", "p", "moving: 1")
    assert told(tmp_path, text) == [
        "n.prototxt: Caffe has no field pooling_param.ceil_mode (2 layers), moving; kept as written where the layer is "
        "(sizes follow pooling_param.ceil_mode)"
    ]
