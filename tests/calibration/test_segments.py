"""Where a network can be cut into runs."""

from __future__ import annotations

from pathlib import Path

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.calibration.segments import Segment, activations, cuts, held_blobs, segments
from enc_caffe.form import Form
from enc_caffe.network import Network
from tests.measuring import nets

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'


def network(folder: Path, text: str) -> Network:
    """The network of a text."""
    (folder / "n.prototxt").write_text('name: "n"\n' + INPUT + text)
    return describe(read_net(folder / "n.prototxt"))


def block(name: str, bottom: str, tail: str = "") -> str:
    """Two convolutions beside a shortcut; with ``tail``, what its name ends in, the first one is a chain of two layers."""
    second = f"{name}a{tail}"
    text = nets.conv(f"{name}a", bottom, 3)
    if tail:
        text = nets.conv(f"{name}a_v", bottom, 2) + nets.conv(second, f"{name}a_v", 3)
    return (
        text + nets.simple(f"{name}r", "ReLU", second) + nets.conv(f"{name}b", second, 3)
        + f'layer {{ name: "{name}s" type: "Eltwise" bottom: "{name}b" bottom: "{bottom}" top: "{name}s" }}\n'
        + nets.simple(f"{name}sr", "ReLU", f"{name}s")
    )  # fmt: skip


def test_a_network_is_cut_between_blocks_and_not_inside_one(tmp_path: Path) -> None:
    whole = network(tmp_path, block("x", "data") + block("y", "xs"))
    # Behind the data, the sum, the ReLU in place; never where a shortcut passes.
    assert cuts(whole) == {1: "data", 5: "xs", 6: "xs", 10: "ys", 11: "ys"}


def test_runs_go_from_block_to_block_behind_what_is_in_place(tmp_path: Path) -> None:
    whole = network(tmp_path, block("x", "data") + block("y", "xs"))
    small = network(tmp_path, block("x", "data") + block("y", "xs", "_h"))
    forms = {"xa": Form("spatial", (1,)), "ya": Form("spatial", (1,))}
    chains = {"xa": ["xa"], "ya": ["ya_v", "ya_h"]}
    # Each block has one decomposed layer only: both make a run.
    assert segments(whole, small, forms, chains) == [Segment(1, 12, "data", "ys")]
    forms |= {"xb": Form("spatial", (1,)), "yb": Form("spatial", (1,))}
    chains |= {"xb": ["xb"], "yb": ["yb"]}
    assert segments(whole, small, forms, chains) == [Segment(1, 6, "data", "xs"), Segment(6, 12, "xs", "ys")]


def test_layers_before_the_first_decomposed_one_are_in_no_run(tmp_path: Path) -> None:
    whole = network(tmp_path, block("x", "data") + block("y", "xs") + block("z", "ys"))
    forms = {n: Form("spatial", (1,)) for n in ("ya", "yb", "za")}
    found = segments(whole, whole, forms, {n: [n] for n in forms})
    # The last run has what is left.
    assert found == [Segment(6, 11, "xs", "ys"), Segment(11, 16, "ys", "zs")]
    assert segments(whole, whole, {}, {}) == []


def test_a_blob_of_another_size_is_no_place_to_cut(tmp_path: Path) -> None:
    first = network(tmp_path, nets.conv("a", "data", 4) + nets.conv("b", "a", 4) + nets.conv("c", "b", 4))
    other = network(tmp_path, nets.conv("a", "data", 4) + nets.conv("b", "a", 5) + nets.conv("c", "b", 4))
    forms = {n: Form("spatial", (1,)) for n in "abc"}
    own = {n: [n] for n in forms}
    assert [s.top for s in segments(first, first, forms, own)] == ["b", "c"]
    assert [s.top for s in segments(first, other, forms, own)] == ["c"]


def test_activations_as_later_layers_read_them(tmp_path: Path) -> None:
    text = block("x", "data") + nets.conv("a", "xs", 3) + nets.simple("ar", "PReLU", "a") + nets.conv("b", "xs", 3)
    text += nets.simple("br", "ReLU", "b") + nets.simple("bd", "Dropout", "b")
    text += 'layer { name: "j" type: "Concat" bottom: "a" bottom: "b" top: "j" }\n' + nets.conv("e", "j", 3)
    text += nets.simple("p", "Pooling", "e", "p", "pooling_param { kernel_size: 2 }") + nets.simple(
        "pr", "ReLU", "p", "q"
    )
    # Of blobs that are joined what they make together, and nothing in front of an activation (xb, e, p).
    assert activations(network(tmp_path, text)) == {"xa", "xs", "j", "q"}
    # One that another layer reads too is held.
    assert "a" in activations(network(tmp_path, text + nets.conv("f", "a", 2)))


def test_all_runs_together_are_held_to_what_is_behind_them_and_to_activations(tmp_path: Path) -> None:
    head, between = nets.conv("h", "data", 3) + nets.simple("hr", "ReLU", "h"), nets.conv("m", "xs", 3)
    whole = network(tmp_path, head + block("x", "h") + between + block("y", "m"))
    small = network(tmp_path, head + block("x", "h") + between + block("y", "m", "_h"))
    runs = [Segment(3, 8, "h", "xs"), Segment(8, 15, "xs", "ys")]
    # Not what comes before the first run, nor the first convolution of the second block, whose layer has another top here.
    assert held_blobs(whole, small, runs) == ("xa", "xs", "ys")
    assert held_blobs(whole, whole, runs) == ("xa", "xs", "ya", "ys")
    # Behind a run there may be no activation.
    assert held_blobs(whole, small, [*runs[:1], Segment(8, 9, "xs", "m")]) == ("xa", "xs", "m")
    assert held_blobs(whole, small, []) == ()
