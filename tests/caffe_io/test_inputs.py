"""--input_shape for networks with Input layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.errors import NetworkError, UsageError
from enc_caffe.pipeline.loading import load
from tests.caffe_io.test_variants import conv, fc

pytestmark = pytest.mark.caffe


def loaded(folder: Path, head: str, **how):
    """A network with another head."""
    (folder / "n.prototxt").write_text(head + conv("c", "data"))
    return load(folder / "n.prototxt", **how)


def test_the_flag_holds_whatever_the_input_says(tmp_path: Path) -> None:
    heads = (
        'input: "data" input_shape { dim: 2 dim: 3 dim: 16 dim: 16 }\n', 'input: "data"\n',
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: [2, 3, 16, 16] } } }\n',
        'input: "info" input: "data" input_shape { dim: 2 dim: 3 } input_shape { dim: 2 dim: 3 dim: 16 dim: 16 }\n',
    )  # fmt: skip
    for head in heads:
        found = loaded(tmp_path, head, input_shape=(3, 64, 48))
        assert found.network["c"].top_shapes[0][1:] == (5, 64, 48)
        assert found.network["c"].top_shapes[0][0] == (2 if "dim" in head else 1)
    assert loaded(tmp_path, heads[1], input_shapes={"data": (4, 3, 9, 9)}).network["c"].top_shapes == ((4, 5, 9, 9),)


def test_where_the_flag_cannot_be_meant_it_is_refused(tmp_path: Path) -> None:
    two = 'input: "data" input: "b" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8 input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9\n'
    with pytest.raises(
        UsageError,
        match=r"--input_shape 3,64,48: the network has several inputs of images \(data, b\); give --top_shape",
    ):
        loaded(tmp_path, two, input_shape=(3, 64, 48))
    found = loaded(tmp_path, two, input_shape=(3, 64, 48), input_shapes={"b": (1, 3, 9, 9)})
    assert found.network["c"].top_shapes == ((1, 5, 64, 48),)
    with pytest.raises(UsageError, match="has no input of images"):
        (tmp_path / "n.prototxt").write_text('input: "data" input_shape { dim: 4 dim: 7 }\n' + fc("f", "data"))
        load(tmp_path / "n.prototxt", input_shape=(3, 64, 48))


def test_an_input_without_a_size_names_the_flags(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="does not say how large its tops are; give --input_shape C,H,W"):
        loaded(tmp_path, 'input: "data"\n')


def test_a_network_without_a_name_has_that_of_its_file(tmp_path: Path) -> None:
    head = 'input: "data" input_shape { dim: 2 dim: 3 dim: 16 dim: 16 }\n'
    assert loaded(tmp_path, head).network.name == "n" and loaded(tmp_path, 'name: "own"\n' + head).network.name == "own"
