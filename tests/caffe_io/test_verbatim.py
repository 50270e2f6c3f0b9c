"""Layers carried through as the user wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import read_commented, read_net, to_text, verbatim_text
from enc_caffe.caffe_io.verbatim import split_layers
from enc_caffe.errors import PrototxtError
from enc_caffe.form import Form

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 16, 16] } } }\n'
CONV = """# the one that costs
layer {
  top: "c"   bottom: "data"
  type: "Convolution" name: "c"
  convolution_param { kernel_size: 3 num_output: 8 }  # five by five was worse
}
"""
RELU = """
# in place,
# as always
layer < bottom: 'c' top: 'c' name: 'r{"' type: 'ReLU' > # behind
"""
FOREIGN = """layer {
  name: "fold" type: "Resample" bottom: "c" top: "up"
  interp_param { zoom_factor: 2 nested { height: 1 } list: [1, 2] }
}
layer { name: "d" type: "Convolution" bottom: "up" top: "d" convolution_param { num_output: 4 kernel_size: 3 } }
"""


def read(folder: Path, text: str):
    """The network of a text."""
    path = folder / "n.prototxt"
    path.write_text(text)
    return read_net(path)


def test_what_is_not_changed_is_written_as_it_stood(tmp_path: Path) -> None:
    text = "# from the zoo, MIT licence\n\nname: 'n'\n" + INPUT + CONV + RELU
    net = read(tmp_path, text)
    _, header = read_commented(tmp_path / "n.prototxt")
    out = verbatim_text(net, header)
    assert header == "# from the zoo, MIT licence"
    assert CONV.strip() in out and RELU.strip() in out and INPUT.strip() in out
    (tmp_path / "again.prototxt").write_text(out)
    assert to_text(read_net(tmp_path / "again.prototxt")) == to_text(net)
    # Nothing of it is in the text that keys and Caffe get.
    assert "#" not in to_text(net)


def test_a_changed_layer_is_written_anew(tmp_path: Path) -> None:
    net = read(tmp_path, INPUT + CONV + RELU)
    net.layer[1].convolution_param.num_output = 9
    out = verbatim_text(net)
    assert "num_output: 9" in out and "five by five" not in out and "# as always" in out


def test_comments_before_a_first_layer_stand_once(tmp_path: Path) -> None:
    net = read(tmp_path, "# only this\n" + INPUT + CONV)
    out = verbatim_text(net, read_commented(tmp_path / "n.prototxt")[1])
    assert out.count("# only this") == 1


def test_fields_of_a_foreign_layer_go_through(tmp_path: Path) -> None:
    net = read(tmp_path, INPUT + CONV + FOREIGN)
    network = describe(net)
    assert network["fold"].keep_reason == "unknown layer type"
    assert network["d"].keep_reason == (
        "the shape of its input is not known: layer 'fold' (Resample) does not say what it makes"
    )
    assert network["c"].has_weights and not network["d"].has_weights
    out = verbatim_text(replace_layers(net, network, {"c": Form("spatial", (2,))}))
    assert "interp_param { zoom_factor: 2 nested { height: 1 } list: [1, 2] }" in out
    assert 'name: "c_v"' in out and 'name: "c_h"' in out
    # The first of the pair has none of the replaced layer's text.
    assert "five by five" not in out


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (CONV.replace("kernel_size", "kernel_sze"), 6, "kernel_sze"),
        (FOREIGN.replace("kernel_size", "kernel_sze"), 6, "kernel_sze"),
        ("named: 3\n" + FOREIGN, 2, "named"),
        (FOREIGN.replace("zoom_factor: 2", "zoom_factor: }"), 4, ""),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(PrototxtError) as error:
        read(tmp_path, INPUT + text)
    assert f"n.prototxt:{line}:" in str(error.value) and words in str(error.value)


def test_lists_of_layers_are_read_and_written_anew(tmp_path: Path) -> None:
    body = CONV.split("layer ", 1)[1]
    net = read(tmp_path, INPUT + "layer: [ " + body + " ]\n")
    assert [x.name for x in net.layer] == ["data", "c"]
    assert "# five" not in verbatim_text(net) and 'name: "c"' in verbatim_text(net)


def test_python_layers_are_refused(tmp_path: Path) -> None:
    layer = 'layer {{ name: "p" type: "Python" top: "x" {} python_param {{ module: "os" layer: "L" }} }}\n'
    for text in (layer.format(""), layer.format("include { phase: TRAIN }"), layer.format("foo_param { a: 1 }")):
        with pytest.raises(PrototxtError, match="p' is a Python layer: .* run the module 'os'|no field named"):
            read(tmp_path, INPUT + text)
    path = tmp_path / "n.prototxt"
    path.write_text(INPUT + layer.format(""))
    assert len(read_net(path, python_layers=True).layer) == 2


@given(st.text(alphabet="layer{}<>#\"'\\ \n:;,[]x", max_size=60))
def test_any_text_is_split_without_a_loss(text: str) -> None:
    header, blocks, rest = split_layers(text)
    # What is left has the same lines, and every block stood in the text.
    assert rest.count("\n") == text.count("\n")
    assert all(block.text in text and block.body in block.text for block in blocks)
    assert not header or header in text
