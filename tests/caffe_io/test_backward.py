"""The network that gradients are taken of: what is kept, where gradients arrive, and which rates Caffe gets."""

from __future__ import annotations

import pytest

from enc_caffe.caffe_io.backward import backward_net, backward_text
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import from_text, to_text
from tests.measuring import nets

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'


def test_it_ends_with_the_scores_and_only_first_layers_learn() -> None:
    text = (
        INPUT + nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("b", "a", 8, bias=False)
        + nets.conv("other", "a", 4) + nets.conv("beside", "data", 8) + nets.simple("late", "ReLU", "b")
        + 'layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "beside" top: "sum" propagate_down: true propagate_down: false }\n'
        + nets.simple("prob", "Softmax", "sum", "prob")
    )  # fmt: skip
    net, reached, blocked = backward_net(from_text(text), "sum")
    assert [x.name for x in net.layer] == ["data", "a", "ra", "b", "beside", "late", "sum"]
    assert reached == {x.name for x in net.layer} and not blocked
    rates = {x.name: [p.lr_mult for p in x.param] for x in net.layer if x.type == "Convolution"}
    # Gradients arrive at b by themselves; a and beside read the data.
    assert rates == {"a": [1.0, 0.0], "b": [0.0], "beside": [1.0, 0.0]}
    assert list(net.layer[-1].loss_weight) == [1.0] and not net.layer[-1].propagate_down


def test_nothing_goes_into_a_layer_without_a_gradient() -> None:
    text, reached, blocked = backward_text(to_text(from_text(nets.behind_argmax().split("\n", 2)[2])), "fc")
    net = {x.name: x for x in from_text(text).layer}
    assert "lost" in blocked and "most" in blocked and {"a", "b", "sum", "c", "fc"} <= reached
    # The reader of an ArgMax says that its second bottom needs no gradient.
    assert list(net["sum"].propagate_down) == [True, False] and "loss" not in net


def test_what_is_wrong_in_place_reads_a_blob_of_its_own() -> None:
    power = "power_param { scale: 2 }"
    text = (
        INPUT + nets.simple("start", "Power", "data", extra=power) + nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a")
        + nets.simple("twice", "Power", "a", extra=power) + nets.simple("more", "AbsVal", "a") + nets.conv("b", "a", 8)
    )  # fmt: skip
    net, reached, _ = backward_net(from_text(text), "b")
    ends = {x.name: (list(x.bottom), list(x.top)) for x in net.layer}
    assert ends["start"] == (["data"], ["data"]) and ends["b"] == (["a"], ["b"]) and "a" in reached
    first, second = "a_before_twice", "a_before_more"
    assert ends["a"] == (["data"], [first]) and ends["ra"] == ([first], [first])
    assert ends["twice"] == ([first], [second]) and ends["more"] == ([second], ["a"])


@pytest.mark.parametrize(
    "flatten, wanted",
    [("", (1, -1)), ("axis: 0 end_axis: 1", (0, 2)), ("axis: -2", (-3, -1)), ("axis: -3 end_axis: -2", (-4, 2)), ("axis: 1 end_axis: -2", None)],
)  # fmt: skip
def test_a_flatten_is_written_as_a_reshape(flatten: str, wanted) -> None:
    text = INPUT + nets.conv("a", "data", 8) + nets.simple("f", "Flatten", "a", "f", f"flatten_param {{ {flatten} }}")
    layer = backward_net(from_text(text), "f")[0].layer[-1]
    own = layer.reshape_param
    # Where axes are counted from both ends, how many lie between is not known: then it stays.
    assert layer.type == ("Reshape" if wanted else "Flatten")
    assert wanted is None or ((own.axis, own.num_axes) == wanted and list(own.shape.dim) == [-1])
    if wanted:
        shapes = [
            describe(from_text(t), None, "n").shape_of("f")
            for t in (text, to_text(backward_net(from_text(text), "f")[0]))
        ]
        assert shapes[0] == shapes[1]


def test_weights_that_are_shared_keep_equal_rates() -> None:
    shared = 'param { name: "w" lr_mult: 0 } param { name: "v" lr_mult: 2 decay_mult: 0 }'
    text = (
        INPUT + nets.conv("a", "data", 3).replace("convolution_param", shared + " convolution_param")
        + nets.conv("b", "a", 3).replace("convolution_param", shared + " convolution_param")
    )  # fmt: skip
    net, reached, _ = backward_net(from_text(text), "b")
    assert (
        all(not p.HasField("lr_mult") and p.name in ("w", "v") for x in net.layer for p in x.param) and "a" in reached
    )
