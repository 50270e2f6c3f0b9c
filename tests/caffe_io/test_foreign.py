"""Fields that forks added: read, followed, kept where they are; slips of the pen are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.foreign import Foreign, packed, unpacked, with_foreign
from enc_caffe.caffe_io.prototxt import read_net, to_text, verbatim_text
from enc_caffe.caffe_io.verbatim import foreign_of
from enc_caffe.errors import PrototxtError

pytestmark = pytest.mark.caffe
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 15, 15] } } }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c" quantization_param { bits: [8, 4] # per layer\n} '
    "convolution_param { num_output: 8 kernel_size: 3 } }\n"
)
POOL = """layer {
  name: "p" type: "Pooling" bottom: "c" top: "p"
  pooling_param { pool: MAX kernel_size: 2 stride: 2 ceil_mode: %s }
}
"""


def read(folder: Path, text: str):
    """The network of a text."""
    (folder / "n.prototxt").write_text(text)
    return read_net(folder / "n.prototxt")


@pytest.mark.parametrize(("mode", "size"), [("false", 6), ("true", 7)])
def test_fields_of_forks_stay_where_they_are_and_sizes_follow_them(tmp_path: Path, mode: str, size: int) -> None:
    net = read(tmp_path, "bn_stats_batch_size: 32\n" + INPUT + CONV + POOL % mode)
    network = describe(net)
    # 13 by windows of 2: six whole ones.
    assert network.shape_of("p") == (1, 8, size, size)
    written = verbatim_text(net)
    assert "bn_stats_batch_size: 32\n" in written and CONV in written and POOL % mode in written
    assert "quantization" not in to_text(net) and ("round_mode: FLOOR" in to_text(net)) == (mode == "false")
    words = [[f.words for f in foreign_of(x)] for x in (net, *net.layer)]
    assert words == [["bn_stats_batch_size"], [], ["quantization_param"], ["pooling_param.ceil_mode"]]
    assert to_text(read(tmp_path, written)) == to_text(net)


def test_a_changed_layer_keeps_the_fields_of_its_fork(tmp_path: Path) -> None:
    net = read(tmp_path, INPUT + CONV + POOL % "false")
    net.layer[2].pooling_param.kernel_size = 3
    net.layer[1].convolution_param.ClearField("kernel_size")
    net.layer[1].convolution_param.kernel_h = net.layer[1].convolution_param.kernel_w = 3
    written = verbatim_text(net)
    assert "kernel_size: 2" not in written
    again = read(tmp_path, written)
    assert [f.words for x in again.layer for f in foreign_of(x)] == ["quantization_param", "pooling_param.ceil_mode"]
    assert to_text(again) == to_text(net)


def test_holes_are_dilations(tmp_path: Path) -> None:
    text = CONV.replace("kernel_size: 3", "kernel_size: 3 hole: 2")
    assert describe(read(tmp_path, INPUT + text)).shape_of("c") == (1, 8, 11, 11)


def test_fields_of_old_formats_are_followed(tmp_path: Path) -> None:
    text = 'input: "data" input_dim: 1 input_dim: 3 input_dim: 15 input_dim: 15\n'
    text += 'layers { name: "p" type: POOLING bottom: "data" top: "p" pooling_param { kernel_size: 2 stride: 2 ceil_mode: false } }\n'
    net = read(tmp_path, text)
    assert describe(net).shape_of("p") == (1, 3, 7, 7)
    assert [f.words for f in foreign_of(net)] == ["layers.pooling_param.ceil_mode"]
    assert "round_mode: FLOOR" in verbatim_text(net) and "ceil_mode" not in verbatim_text(net)


@pytest.mark.parametrize(
    ("wrong", "line", "words"),
    [
        ("kernel_size: 3 ceil_mod: true kernl_size: 4", 3, "kernl_size"),
        ("stirde: 2", 3, "stirde"),
        ("kernel_size: big", 3, "big"),
    ],
)
def test_slips_of_the_pen_are_refused(tmp_path: Path, wrong: str, line: int, words: str) -> None:
    with pytest.raises(PrototxtError, match=f"n.prototxt:{line}:.*{words}"):
        read(
            tmp_path,
            "bn_stats_batch_size: 32\n"
            + INPUT
            + CONV.replace("[8, 4] # per layer\n", "8").replace("kernel_size: 3", wrong),
        )


@pytest.mark.parametrize(
    ("param", "words"),
    [
        (
            "pooling_param { kernel_size: 2 kernel_size: 2 kernel_size: 2 }",
            "PoolingParameter has 'kernel_size' more than once.* a fork's pooling over as many axes.* write kernel_h and kernel_w",
        ),
        (
            "pooling_param { kernel_size: 2 stride: 2 stride: 1 }",
            "'stride' more than once.* write stride_h and stride_w",
        ),
        (
            "lrn_param { alpha: 1 alpha: 2 }",
            "LRNParameter has 'alpha' more than once.* takes one value; leave one of them",
        ),
    ],
)
def test_several_values_where_caffe_takes_one_say_what_to_do(tmp_path: Path, param: str, words: str) -> None:
    pool = f'layer {{ name: "p" type: "Pooling" bottom: "data" top: "p" {param} }}\n'
    with pytest.raises(PrototxtError, match=f"n.prototxt:2:.*{words}"):
        read(tmp_path, INPUT + pool)


@pytest.mark.parametrize("fork", ["kernel_d: 3", "relu6_param { a: 1 }", "dilation_h: 2", "frozen: true"])
def test_names_near_to_stock_ones_are_those_of_forks(tmp_path: Path, fork: str) -> None:
    place = ("kernel_size: 3", f"kernel_size: 3 {fork}") if "param" not in fork else ("bits", "bits")
    net = read(
        tmp_path,
        INPUT
        + CONV.replace(*place).replace(
            "quantization_param", fork.split()[0] if "param" in fork else "quantization_param"
        ),
    )
    assert fork.split(":")[0].split()[0] in " ".join(f.words for f in foreign_of(net.layer[1]))


@pytest.mark.parametrize(
    ("param", "whole"),
    [
        ("normalize: true", "its convolution_param.normalize, a field of a fork, may change what it computes"),
        ("kernel_d: 3", "its convolution_param.kernel_d, a field of a fork, may change what it computes"),
        ("cudnn_math_override: 0", ""),
        ("hole: 1", ""),
    ],
)
def test_a_layer_whose_fork_computes_something_else_stays_whole(tmp_path: Path, param: str, whole: str) -> None:
    net = read(tmp_path, INPUT + CONV.replace("kernel_size: 3", f"kernel_size: 3 {param}"))
    assert describe(net)["c"].keep_reason == whole


def test_foreign_fields_go_with_a_layer_and_back_into_a_text() -> None:
    fields = [Foreign((), "q", "q { a: 1 }"), Foreign(("p",), "c", "c: 2", True), Foreign(("r", "s"), "t", "t: 3")]
    assert unpacked(packed(fields)) == fields
    assert with_foreign('name: "x"\np {\n  k: 1\n}\n', fields, "\n") == (
        'name: "x"\np {\n  k: 1\nc: 2\n}\nq { a: 1 }\nr { s { t: 3 } }\n'
    )


def test_comments_may_be_in_any_encoding(tmp_path: Path) -> None:
    path = tmp_path / "n.prototxt"
    comment = "# \u5377\u79ef\u5c42 { ".encode("gbk") + b'\\ "\n'
    path.write_bytes(comment + (INPUT + CONV.replace("# per layer", "# \u00e9")).encode("latin-1"))
    net = read_net(path)
    assert verbatim_text(net).encode(errors="surrogateescape").count(b"# \xe9") == 1
    # Names are another matter: they are compared, and written elsewhere too.
    path.write_bytes((INPUT + CONV).replace('name: "c"', 'name: "\u00e9"').encode("latin-1"))
    with pytest.raises(PrototxtError, match="a string is not in UTF-8"):
        read_net(path)
    path.write_bytes((INPUT + CONV).replace("num_output", "\u00e9").encode("latin-1"))
    with pytest.raises(PrototxtError, match="is binary"):
        read_net(path)


def test_a_mark_of_utf8_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    """As Caffe does; UTF-16, which editors on Windows write too, it does not read."""
    path, text = tmp_path / "n.prototxt", INPUT + CONV
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert verbatim_text(read_net(path)) == text
    path.write_text(text, encoding="utf-16")
    with pytest.raises(PrototxtError, match="is in UTF-16, which Caffe does not read; save it in UTF-8"):
        read_net(path)
