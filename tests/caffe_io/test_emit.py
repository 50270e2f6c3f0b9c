"""Emitted networks: what they cost by their own prototxt, what stages are called, and names that are taken."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import chain_blobs, replace_layers, write_compressed
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import scheme_for, schemes
from enc_caffe.errors import PlanError
from enc_caffe.form import Form
from enc_caffe.network import Layer, Network

pytestmark = pytest.mark.caffe


def parsed(text: str) -> Any:
    """A NetParameter from text."""
    net = caffe_pb2().NetParameter()
    text_format.Parse(text, net)
    return net


def data(channels: int, height: int, width: int) -> str:
    dims = f"dim: 2 dim: {channels} dim: {height} dim: {width}"
    return f'name: "n" layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'


@st.composite
def networks(draw: Any) -> Any:
    """One to four layers, one after the other or all on the data, and perhaps a fully connected one at the end."""
    # Four kernels of 3, dilated, the first with a stride of 3, fit into 41 rows.
    channels, size = draw(st.sampled_from((4, 8, 12))), (draw(st.integers(41, 47)), draw(st.integers(41, 47)))
    text, bottom, inputs = data(channels, *size), "data", channels
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    for i in range(draw(st.integers(1, 4))):
        groups, outputs = pick(1, 1, 2, 4), pick(4, 8, 12)
        kernel, pad, dilation = (pick(1, 2, 3), pick(1, 3)), (pick(0, 1, 2), pick(0, 1)), pick(1, 1, 2)
        stride = (pick(1, 1, 2, 3), pick(1, 1, 2)) if i == 0 else (1, 1)
        square = kernel[0] == kernel[1] and pad[0] == pad[1] and stride[0] == stride[1] and draw(st.booleans())
        param = (
            f"kernel_size: {kernel[0]} pad: {pad[0]} stride: {stride[0]}" if square
            else "".join(f" kernel_{a}: {k} pad_{a}: {p} stride_{a}: {s}" for a, k, p, s in zip("hw", kernel, pad, stride))
        )  # fmt: skip
        text += (
            f'layer {{ name: "c{i}" type: "Convolution" bottom: "{bottom}" top: "c{i}" convolution_param {{ num_output: {outputs} {param} '
            f"dilation: {dilation} group: {groups} bias_term: {pick('true', 'false')} }} }}\n"
        )
        bottom, inputs = (f"c{i}", outputs) if draw(st.booleans()) else ("data", channels)
    if draw(st.booleans()):
        axis = pick(1, 1, 2)
        text += (
            f'layer {{ name: "fc" type: "InnerProduct" bottom: "{bottom}" top: "fc" inner_product_param {{ num_output: {pick(3, 7)} '
            f"axis: {axis} transpose: {pick('true', 'false')} }} }}\n"
        )
    return parsed(text)


@st.composite
def plans(draw: Any, network: Network) -> dict[str, Form]:
    """A form that it can take for some of the layers."""
    forms = {}
    for layer in network.weighted:
        able = [s for s in schemes().values() if not s.refuses(layer)]
        if able and draw(st.integers(0, 3)):
            scheme = draw(st.sampled_from(able))
            forms[layer.name] = Form(scheme.name, tuple(draw(st.integers(1, n)) for n in scheme.limits(layer)))
    return forms


def side(param: Any, name: str, axis: str) -> int:
    """Kernel along one axis, by the rules of ``caffe.proto``."""
    if param.HasField(f"{name}_{axis}"):
        return getattr(param, f"{name}_{axis}")
    (size,) = param.kernel_size
    return size


def counted(net: Any) -> tuple[int, int, dict[str, int]]:
    """MACs of one image, weights, and weights by layer, of all convolutions and inner products of a NetParameter."""
    described = describe(net)
    macs, weights = 0, {}
    for param in net.layer:
        own = described[param.name]
        if param.type == "Convolution":
            conv = param.convolution_param
            _, channels, _, _ = own.bottom_shapes[0]
            _, outputs, height, width = own.top_shapes[0]
            assert outputs == conv.num_output
            per_output = channels // (conv.group or 1) * side(conv, "kernel", "h") * side(conv, "kernel", "w")
            weights[param.name] = outputs * per_output
            macs += weights[param.name] * height * width
        elif param.type == "InnerProduct":
            axis = param.inner_product_param.axis
            inputs = int(np.prod(own.bottom_shapes[0][axis:], dtype=int))
            weights[param.name] = inputs * param.inner_product_param.num_output
            macs += weights[param.name] * int(np.prod(own.bottom_shapes[0][1:axis], dtype=int))
    return macs, sum(weights.values()), weights


@settings(max_examples=200, deadline=None)
@given(networks(), st.data())
def test_costs_are_those_of_the_emitted_prototxt(net: Any, drawn: st.DataObject) -> None:
    network = describe(net)
    whole = network_complexity(network, {})
    assert (whole.macs, whole.parameters) == counted(net)[:2]
    forms = drawn.draw(plans(network))
    emitted = replace_layers(net, network, forms)
    macs, parameters, weights = counted(emitted)
    cost = network_complexity(network, forms)
    assert (cost.macs, cost.parameters) == (macs, parameters)
    # By the paper every stage counts at the output size of the layer that it stands for.
    paper = 0
    for layer in network.weighted:
        places = (
            int(np.prod(layer.output))
            if layer.convolution is not None
            else int(np.prod(layer.top_shapes[0][1:-1], dtype=int))
        )
        paper += places * sum(
            w for name, w in weights.items() if name == layer.name or name.startswith(layer.name + "_")
        )
    assert network_complexity(network, forms, "paper").macs == paper
    # One to three layers each, whose outputs are those of the original.
    described = describe(emitted)
    for name in forms:
        stages = [x for x in described.layers if x.name.startswith(name + "_")]
        assert 1 <= len(stages) <= 3 and stages[-1].top_shapes == network[name].top_shapes
        assert stages[0].bottom_shapes == network[name].bottom_shapes and stages[-1].tops == network[name].tops
    some = drawn.draw(st.sets(st.sampled_from([x.name for x in network.weighted])))
    own = network_complexity(network, forms, "exact", some)
    assert own.parameters == sum(w for name, w in weights.items() if name.partition("_")[0] in some)
    assert own.counted == "decomposable" and cost.counted == "all"


@settings(max_examples=60, deadline=None)
@given(networks(), st.data())
def test_blobs_have_the_shapes_that_the_emitted_layers_need(net: Any, drawn: st.DataObject) -> None:
    network = describe(net)
    forms = drawn.draw(plans(network))
    described, rng = describe(replace_layers(net, network, forms)), np.random.default_rng(0)
    for name, form in forms.items():
        layer = network[name]
        arrays = [rng.standard_normal(s, np.float32) for s in expected_shapes(layer)]
        blobs = chain_blobs(layer, form, arrays, scheme_for(form.scheme).factorise(layer, arrays[0], form))
        assert list(blobs) == [x.name for x in described.layers if x.name.startswith(name + "_")]
        for own, made in blobs.items():
            assert [b.shape for b in made] == [tuple(s) for s in expected_shapes(described[own])]
            assert all(b.dtype == np.float32 for b in made)
        if layer.bias:
            np.testing.assert_array_equal(list(blobs.values())[-1][1], arrays[1])


CONV = 'layer { name: "c" type: "Convolution" bottom: "data" top: "y" param { name: "w" lr_mult: 1 } param { lr_mult: 2 } loss_weight: 0.5 \
convolution_param { num_output: 8 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "msra" } bias_filler { type: "constant" } } }\n'


def test_three_stages_are_one_after_the_other() -> None:
    net = parsed(data(8, 9, 9) + CONV + 'layer { name: "r" type: "ReLU" bottom: "y" top: "y" }\n')
    emitted = replace_layers(net, describe(net), {"c": Form("tucker2", (3, 4))})
    assert [p.name for p in emitted.layer] == ["data", "c_in", "c_core", "c_out", "r"]
    first, core, last = emitted.layer[1:4]
    assert [(list(p.bottom), list(p.top)) for p in (first, core, last)] == [
        (["data"], ["c_in"]), (["c_in"], ["c_core"]), (["c_core"], ["y"]),
    ]  # fmt: skip
    # What belongs to the top and the bias stays with the last; no stage shares a weight with another.
    assert [list(p.loss_weight) for p in (first, core, last)] == [[], [], [0.5]]
    assert [[(s.name, s.lr_mult) for s in p.param] for p in (first, core, last)] == [
        [("", 1)],
        [("", 1)],
        [("", 1), ("", 2)],
    ]
    assert [p.convolution_param.bias_term for p in (first, core, last)] == [False, False, True]
    assert [p.convolution_param.HasField("bias_filler") for p in (first, core, last)] == [False, False, True]
    assert [p.convolution_param.weight_filler.type for p in (first, core, last)] == ["msra"] * 3
    assert [p.convolution_param.num_output for p in (first, core, last)] == [3, 4, 8]
    assert (list(core.convolution_param.stride), list(core.convolution_param.pad)) == ([2], [1])
    assert not first.convolution_param.stride and not last.convolution_param.pad


def test_one_stage_is_the_layer_under_another_name() -> None:
    net = parsed(data(8, 9, 9) + CONV)
    emitted = replace_layers(net, describe(net), {"c": Form("tucker2", (8, 8))})
    (core,) = emitted.layer[1:]
    assert core.name == "c_core" and list(core.bottom) == ["data"] and list(core.top) == ["y"]
    assert describe(emitted)["c_core"].convolution == describe(net)["c"].convolution
    assert list(core.loss_weight) == [0.5] and [s.lr_mult for s in core.param] == [1, 2]


@pytest.mark.parametrize(
    ("form", "taken"), [("spatial:3", "_h"), ("spatial_t:3", "_v"), ("channel:3", "_v"), ("tucker2:2x2", "_core")]
)
@pytest.mark.parametrize("blob", [True, False])
def test_a_name_that_is_taken_is_said(form: str, taken: str, blob: bool) -> None:
    from enc_caffe.form import parse_form

    other = f'layer {{ name: "{"other" if blob else "c" + taken}" type: "ReLU" bottom: "data" top: "{"c" + taken if blob else "z"}" }}\n'
    net = parsed(data(8, 9, 9) + other + CONV)
    with pytest.raises(PlanError, match=f"layer 'c': the name 'c{taken}' of its new layer is taken already"):
        replace_layers(net, describe(net), {"c": parse_form(form)})


def test_networks_of_an_open_file_decompose_a_layer_once_and_are_those_of_a_fresh_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = parsed(data(3, 9, 8) + CONV)
    network = describe(net)
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s, np.float32) for s in expected_shapes(network["c"])]
    with open(tmp_path / "weights", "wb") as handle:
        write_caffemodel(handle, "net", [layer_record("c", "Convolution", arrays)])
    made: list[str] = []
    scheme = scheme_for("spatial")
    original = scheme.factoriser

    def counted(layer: Layer, weights: np.ndarray) -> Any:
        made.append(layer.name)
        return original(layer, weights)

    monkeypatch.setattr(scheme, "factoriser", counted)
    kept = CaffeModel(tmp_path / "weights")
    for rank in (1, 2, 3):
        forms = {"c": Form("spatial", (rank,))}
        write_compressed(tmp_path / "kept", kept, network, forms)
        write_compressed(tmp_path / "fresh", CaffeModel(tmp_path / "weights"), network, forms)
        assert (tmp_path / "kept").read_bytes() == (tmp_path / "fresh").read_bytes()
    assert made == ["c"] * 4


def test_a_file_that_is_not_wanted_any_more_takes_its_decompositions_with_it(tmp_path: Path) -> None:
    net = parsed(data(3, 9, 8) + CONV)
    network = describe(net)
    arrays = [np.ones(s, np.float32) for s in expected_shapes(network["c"])]
    with open(tmp_path / "weights", "wb") as handle:
        write_caffemodel(handle, "net", [layer_record("c", "Convolution", arrays)])
    model = CaffeModel(tmp_path / "weights")
    model.plain(network["c"], Form("spatial", (1,)))
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()
