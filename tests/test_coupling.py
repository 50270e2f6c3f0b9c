"""Which layers lose channels together, by hand: makers, keepers, readers, offsets, sums, and why some cannot."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.narrow import Narrow
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import PlanError
from enc_caffe.network import Network

pytestmark = pytest.mark.caffe
DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }'


def layer(kind: str, name: str, bottoms: str, param: str = "", tops: str = "") -> str:
    ends = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(f' top: "{t}"' for t in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}"{ends} {param} }}\n'


def conv(name: str, bottom: str, outputs: int, more: str = "") -> str:
    return layer(
        "Convolution", name, bottom, f"convolution_param {{ num_output: {outputs} kernel_size: 3 pad: 1 {more} }}"
    )


def dense(name: str, bottom: str, outputs: int, more: str = "") -> str:
    return layer("InnerProduct", name, bottom, f"inner_product_param {{ num_output: {outputs} {more} }}")


def network(*layers: str) -> Network:
    net = caffe_pb2().NetParameter()
    text_format.Parse(DATA + "".join(layers), net)
    return describe(net)


def why(net: Network, name: str) -> str:
    group, reason = net.coupled.read_by(name)
    assert (group is None) == bool(reason)
    return reason


def test_a_residual_block_and_all_that_stands_between() -> None:
    net = network(
        conv("stem", "data", 4), conv("c0", "stem", 6), layer("BatchNorm", "bn", "c0", tops="c0"),
        layer("Scale", "scale", "c0", tops="c0"), layer("PReLU", "relu", "c0", tops="c0"),
        conv("dw", "c0", 6, "group: 6"), conv("c1", "dw", 4), layer("Eltwise", "sum", "stem c1"), dense("fc", "sum", 5),
    )  # fmt: skip
    group, reason = net.coupled.read_by("c1")
    assert group is not None and reason == ""
    assert (group.makers, group.readers) == (("c0",), ("c1",)) and len(group.units) == 6
    assert group.keepers == ("bn", "scale", "relu", "dw")
    # Both makers of a sum lose the same channels, and both that read them.
    stem = next(g for g in net.coupled.groups if "stem" in g.makers)
    assert (stem.makers, stem.readers, stem.why_not) == (("stem", "c1"), ("c0", "fc"), "")
    np.testing.assert_array_equal(net.coupled.tops["stem"][0], net.coupled.tops["c1"][0])
    assert why(net, "c0") == "stem and c1 are read by fc too, which would have to lose the same channels"
    assert why(net, "stem") == "layer 'data' (Input) brings them in"
    last = next(g for g in net.coupled.groups if "fc" in g.makers)
    assert last.why_not == "blob 'fc' is an output of the network"


def test_concat_has_offsets_and_slice_gives_them_back() -> None:
    net = network(
        conv("a", "data", 2), conv("b", "data", 3), layer("Concat", "cat", "a b"),
        layer("Slice", "cut", "cat", "slice_param { slice_point: 4 }", "left right"), conv("l", "left", 2), conv("r", "right", 2),
        layer("Concat", "end", "l r"), dense("fc", "end", 3),
    )  # fmt: skip
    tops, bottoms = net.coupled.tops, net.coupled.bottoms
    first, second = tops["a"][0], tops["b"][0]
    np.testing.assert_array_equal(bottoms["l"][0], [*first, *second[:2]])
    np.testing.assert_array_equal(bottoms["r"][0], second[2:])
    assert why(net, "l").startswith("its inputs are those of several layers side by side (a, b)")
    narrow = Narrow(net, frozenset({int(first[1]), int(second[0])}))
    np.testing.assert_array_equal(narrow.kept(bottoms["l"][0]), [True, False, False, True])
    out = narrow.net(
        _text(net, conv("a", "data", 2), layer("Slice", "cut", "cat", "slice_param { slice_point: 4 }", "left right"))
    )
    assert out.layer[0].convolution_param.num_output == 1 and list(out.layer[1].slice_param.slice_point) == [2]
    with pytest.raises(PlanError, match="layer 'cut' \\(Slice\\): no channel would be left of one of its tops"):
        Narrow(net, frozenset({int(second[2])})).net(_text(net, layer("Slice", "cut", "cat", "", "left right")))


def _text(net: Network, *layers: str):  # noqa: ANN202
    found = caffe_pb2().NetParameter()
    text_format.Parse("".join(layers), found)
    return found


def test_a_fully_connected_layer_after_a_map_loses_all_inputs_of_a_channel() -> None:
    net = network(
        conv("c", "data", 4),
        layer("Pooling", "p", "c", "pooling_param { kernel_size: 4 stride: 4 }"),
        dense("fc", "p", 3),
    )
    group, _ = net.coupled.read_by("fc")
    assert group is not None and group.makers == ("c",)
    narrow = Narrow(net, frozenset({group.units[1]}))
    weight, bias = np.arange(3 * 16.0).reshape(3, 16), np.arange(3.0)
    kept = narrow.blobs("fc", [weight, bias])
    np.testing.assert_array_equal(kept[0], np.delete(weight, range(4, 8), axis=1))
    np.testing.assert_array_equal(kept[1], bias)
    wide = narrow.widened("fc", [kept[0] + 100, kept[1]], [weight, bias])
    np.testing.assert_array_equal(np.delete(wide[0], range(4, 8), axis=1), kept[0] + 100)
    np.testing.assert_array_equal(wide[0][:, 4:8], weight[:, 4:8])


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (layer("Reshape", "x", "c", "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 8 } }"), "layer 'x' (Reshape) does not treat every channel by itself"),
        (layer("LRN", "x", "c"), "layer 'x' (LRN): it normalises across channels"),
        (layer("Softmax", "x", "c"), "layer 'x' (Softmax) does not treat"),
        (layer("Scale", "x", "c", "scale_param { axis: 2 num_axes: 2 }"), "layer 'x' (Scale): its axis is 2 and its num_axes 2"),
        (layer("Concat", "x", "c c", "concat_param { axis: 2 }"), "layer 'x' (Concat): its axis is 2"),
        (conv("x", "c", 4, "group: 2"), "layer 'x' (Convolution): 2 groups"),
        (layer("Deconvolution", "x", "c", "convolution_param { num_output: 4 kernel_size: 1 }"), "layer 'x' (Deconvolution): deconvolution"),
        (layer("Convolution", "x", "c", 'convolution_param { num_output: 4 kernel_size: 1 } param { name: "w" }')
         + layer("Convolution", "y", "x", 'convolution_param { num_output: 4 kernel_size: 1 } param { name: "w" }'), "its weights are shared with layer 'y'"),
        (layer("ReLU", "x", "c") + layer("SoftmaxWithLoss", "loss", "c data"), "layer 'loss' (SoftmaxWithLoss) does not treat"),
        (layer("ReLU", "x", "c") + layer("ReLU", "out", "c"), "blob 'out' is an output of the network"),
    ],
)  # fmt: skip
def test_what_forbids_it_is_said(between: str, words: str) -> None:
    net = network(conv("c", "data", 4), between, conv("end", "x", 2))
    group = next(g for g in net.coupled.groups if "c" in g.makers)
    assert words in group.why_not
    with pytest.raises(PlanError, match="cannot be taken out: "):
        Narrow(net, frozenset({group.units[0]}))


def test_at_least_one_channel_stays() -> None:
    net = network(conv("c", "data", 2), conv("end", "c", 2))
    group, _ = net.coupled.read_by("end")
    assert group is not None
    with pytest.raises(PlanError, match="no channel of layer 'c' would be left"):
        Narrow(net, frozenset(group.units))


def test_a_layer_of_another_phase_that_reads_a_blob_holds_it() -> None:
    train = 'layer { name: "aux" type: "Convolution" bottom: "c" top: "aux" include { phase: TRAIN } convolution_param { num_output: 2 kernel_size: 1 } }'
    net = network(conv("c", "data", 4), train, conv("end", "c", 2))
    assert "layer 'aux' (Convolution) of another phase reads it" in why(net, "end")
