"""Small networks that layers are timed in: what stands in them, and that stock Caffe runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.errors import NetworkError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.contexts import context, copies_of, empty, followers, random_model, whole_network, without
from enc_caffe.runtimes.known import RUNTIMES, interpreter
from enc_caffe.runtimes.process import RuntimeProcess

NET = """
name: "two"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 10 dim: 8 dim: 12 dim: 14 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { lr_mult: 1 }
  convolution_param { num_output: 16 kernel_size: 3 pad: 1 stride: 2 weight_filler { type: "xavier" } } }
layer { name: "an" type: "BatchNorm" bottom: "a" top: "a" }
layer { name: "as" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true } }
layer { name: "ar" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 16 kernel_size: 3 pad: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "fc" type: "InnerProduct" bottom: "sum" top: "fc" inner_product_param { num_output: 10 } }
"""


@pytest.fixture
def net() -> Any:
    return from_text(NET)


def names(net: Any) -> list[str]:
    return [f"{x.name} {','.join(x.bottom)}>{','.join(x.top)}" for x in net.layer]


def test_a_layer_takes_along_what_follows_it_in_place(net: Any) -> None:
    network = describe(net)
    assert [x.name for x in followers(net, network["a"])] == ["an", "as", "ar"]
    # b's output is read by a sum, not changed in place.
    assert followers(net, network["b"]) == []
    large = context(net, network["a"], WHOLE, 1000)
    assert names(large) == [
        "data >data", "context_in data>context_in", "a context_in>a", "an a>a", "as a>a", "ar a>a", "context_out a>context_out",
    ]  # fmt: skip
    # The contexts of its input and of its output.
    assert [describe(x)["context_in"].top_shapes for x in without(net, network["a"], 1000)] == [
        ((1000, 8, 12, 14),), ((1000, 16, 6, 7),),
    ]  # fmt: skip
    # A small one stands there six times, after itself whole; one of 10 million MACs three times.
    assert [copies_of(network["a"], batch) for batch in (3, 200, 1000)] == [6, 3, 1]
    made = context(net, network["a"], WHOLE, 3)
    assert names(made)[2:10] == [
        "context_whole context_in>context_whole", "context_whole_an context_whole>context_whole", "context_whole_as context_whole>context_whole",
        "context_whole_ar context_whole>context_whole", "context_out context_whole>context_out", "a_0 context_in>a_0", "a_0_an a_0>a_0", "a_0_as a_0>a_0",
    ]  # fmt: skip
    assert [x for x in names(made) if x.startswith("context_out_")] == [
        f"context_out_{i + 1} a_{i}>context_out_{i + 1}" for i in range(6)
    ]
    (rest,) = without(net, network["a"], 3)
    assert names(rest)[:6] == names(made)[:6]
    assert names(rest)[6:] == ["context_out context_whole>context_out"] + [f"context_out_{i} context_whole>context_out_{i}" for i in range(1, 7)]  # fmt: skip
    described = describe(made)
    assert described["a_2"].bottom_shapes == ((3, 8, 12, 14),) and described["a_2"].top_shapes == ((3, 16, 6, 7),)
    assert described["data"].top_shapes == ((3, 4, 12, 14),)
    assert described["a_2"].convolution == network["a"].convolution
    # Nothing of training.
    assert not made.layer[2].param and not made.layer[2].convolution_param.HasField("weight_filler")


def test_forms_stand_in_the_same_context(net: Any) -> None:
    network = describe(net)
    made = context(net, network["a"], Form("spatial", (4,)), 1)
    assert [x.split()[0] for x in names(made)][:7] == ["data", "context_in", "context_whole", "context_whole_an", "context_whole_as", "context_whole_ar", "context_out"]  # fmt: skip
    assert [x.split()[0] for x in names(made)][7:13] == [
        "a_0_v",
        "a_0_h",
        "a_0_an",
        "a_0_as",
        "a_0_ar",
        "context_out_1",
    ]
    assert len(made.layer) == 7 + 6 * 6
    dense = context(net, network["fc"], Form("inner_product", (3,)), 1)
    assert [x.type for x in dense.layer] == ["Input", "Convolution"] + 13 * ["InnerProduct"]
    large = context(net, network["fc"], Form("inner_product", (3,)), 10**6)
    assert [x.type for x in large.layer] == ["Input", "Convolution", "InnerProduct", "InnerProduct"]
    assert [x.type for x in empty((1, 16), 1).layer] == ["Input", "InnerProduct"]
    assert [x.type for x in empty((1, 16, 5, 5), 1).layer] == ["Input", "Convolution", "Pooling"]


def test_a_whole_network_of_another_batch(net: Any) -> None:
    network = describe(net)
    made = whole_network(net, network, {"b": Form("channel", (4,))}, 2)
    described = describe(made)
    assert described["fc"].top_shapes == ((2, 10),) and "b" not in described
    assert described["b_v"].out_channels == 4 and described["b_h"].top_shapes[0][0] == 2


def test_an_input_of_regions_has_those_of_its_images() -> None:
    regions = 'layer { name: "rois" type: "Input" top: "rois" input_param { shape { dim: 30 } } }\n'
    pool = 'layer { name: "p" type: "BatchReindex" bottom: "sum" bottom: "rois" top: "p" }\n'
    net = from_text(
        NET.replace('layer { name: "fc"', regions + pool + 'layer { name: "fc"').replace(
            '"sum" top: "fc"', '"p" top: "fc"'
        )
    )
    network = describe(net)
    assert network.images == 10 and network["fc"].repeats == 3
    for batch in (1, 2):
        described = describe(whole_network(net, network, {}, batch))
        assert described["rois"].top_shapes == ((3 * batch,),) and described["fc"].top_shapes == ((3 * batch, 10),)


def test_steps_are_not_taken_for_images() -> None:
    steps = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ dim: 4 dim: 10 }} }} }}\n'
        for name in ("cont", "words")
    )
    lstm = (
        'layer { name: "e" type: "Embed" bottom: "words" top: "e" embed_param { num_output: 8 input_dim: 5 } }\n'
        'layer { name: "lstm" type: "LSTM" bottom: "e" bottom: "cont" bottom: "fc" top: "lstm" recurrent_param { num_output: 6 } }\n'
    )
    net = from_text(NET + steps + lstm)
    network = describe(net)
    described = describe(whole_network(net, network, {}, 10))
    assert described["words"].top_shapes == ((4, 10),) and described["lstm"].top_shapes == ((4, 10, 6),)
    with pytest.raises(NetworkError, match="recurrent layers, .* written for passes of 10 images: .* --batch 10"):
        whole_network(net, network, {}, 1)


@pytest.mark.caffe
@pytest.mark.parametrize("runtime", ["opencv", "ncnn"])
def test_stock_caffe_and_a_runtime_compute_the_same_of_a_context(net: Any, tmp_path: Path, runtime: str) -> None:
    try:
        interpreter(RUNTIMES[runtime])
    except UsageError as exc:
        pytest.skip(str(exc))
    network, found = describe(net), {}
    models = {
        "form": random_model(context(net, network["a"], Form("spatial", (4,)), 1), tmp_path, "form"),
        "whole": random_model(whole_network(net, network, {}, 1), tmp_path, "whole"),
    }
    for name in ("caffe", runtime):
        with RuntimeProcess(RUNTIMES[name]) as process:
            assert process.load_all(models) == {}
            # ncnn's are converted as one.
            assert (process.folder("form") == process.folder("whole")) == (name == "ncnn")
            for what, model in models.items():
                inputs = {
                    n: np.random.default_rng(1).standard_normal(s).astype(np.float32) for n, s in model.inputs.items()
                }
                # Seven of the form, one of the network, whose runtimes give them other names.
                found[name, what] = np.concatenate([value.ravel() for value in process.outputs(what, inputs).values()])
            # Medians of real passes, in turns: more work takes longer.
            assert process.time(["whole", "form"], 7, 0.001).shape == (2, 7)
    for what in models:
        scale = np.abs(found["caffe", what]).max()
        assert scale > 0.01 and np.abs(found["caffe", what] - found[runtime, what]).max() <= 1e-3 * scale


def test_unknown_weights_are_said(tmp_path: Path) -> None:
    text = NET.replace('type: "Eltwise"', 'type: "Axpy"')
    with pytest.raises(
        NetworkError,
        match=r"layer 'sum' \(Axpy\): the shapes of its weights are not known \(stock Caffe has no such type\)",
    ):
        random_model(from_text(text), tmp_path, "n")
