"""Caffe's output-size arithmetic, against Caffe itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import NetworkError
from enc_caffe.shapes import canonical_axis, conv_output, pool_output
from enc_caffe.workers.executor import CaffeExecutor


def layer(name: str, kind: str, bottom: str, param: str = "", tops: str = "") -> str:
    """One layer of a test network."""
    bottoms = " ".join(f'bottom: "{b}"' for b in bottom.split())
    outs = " ".join(f'top: "{t}"' for t in (tops or name).split())
    return f'layer {{ name: "{name}" type: "{kind}" {bottoms} {outs} {param} }}\n'


def network() -> str:
    """Every shape rule in one network."""
    text = 'name: "n"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 13 dim: 11 } } }\n'
    for i, (k, s, p) in enumerate(((2, 2, 0), (3, 2, 0), (3, 2, 1), (5, 3, 2), (3, 1, 1), (2, 3, 1))):
        text += layer(f"pool{i}", "Pooling", "data", f"pooling_param {{ kernel_size: {k} stride: {s} pad: {p} }}")
    text += layer(
        "poolw",
        "Pooling",
        "data",
        "pooling_param { kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 1 pad_w: 0 }",
    )
    text += layer("poolg", "Pooling", "data", "pooling_param { global_pooling: true pool: AVE }")
    text += layer(
        "conv",
        "Convolution",
        "data",
        "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 2 dilation: 2 dilation: 1 group: 2 }",
    )
    text += layer(
        "deconv", "Deconvolution", "data", "convolution_param { num_output: 3 kernel_size: 4 stride: 2 pad: 1 }"
    )
    text += layer("cat", "Concat", "pool0 pool0") + layer("cat2", "Concat", "data data", "concat_param { axis: 2 }")
    text += layer("sl", "Slice", "data", "slice_param { axis: 1 slice_point: 2 slice_point: 3 }", "s0 s1 s2")
    text += layer("sl2", "Slice", "data", "slice_param { axis: 1 }", "t0 t1")
    text += layer("flat", "Flatten", "data") + layer("flat2", "Flatten", "data", "flatten_param { axis: 2 }")
    text += layer("re", "Reshape", "data", "reshape_param { shape { dim: 0 dim: -1 dim: 11 } }")
    text += layer("fc", "InnerProduct", "data", "inner_product_param { num_output: 7 }")
    text += layer("fc2", "InnerProduct", "data", "inner_product_param { num_output: 7 axis: -1 }")
    text += layer("red", "Reduction", "data", "reduction_param { axis: 2 }")
    text += layer("arg", "ArgMax", "fc", "argmax_param { top_k: 2 out_max_val: true }")
    text += layer("arg2", "ArgMax", "data", "argmax_param { axis: 1 }") + layer("arg3", "ArgMax", "data")
    text += layer("crop", "Crop", "data pool4", "crop_param { axis: 2 }")
    text += layer("crop2", "Crop", "cat2 data", "crop_param { axis: 2 }")
    text += layer("elt", "Eltwise", "data data") + layer("prelu", "PReLU", "data") + layer("lrn", "LRN", "data")
    text += layer("soft", "Softmax", "fc") + layer("emb", "Embed", "arg2", "embed_param { input_dim: 9 num_output: 5 }")
    return text


def caffes_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Shapes of all blobs of a network, from pycaffe (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(text, None)
    return {name: tuple(blob.data.shape) for name, blob in net.blobs.items()}


@pytest.mark.caffe
def test_every_rule_agrees_with_caffe(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(network())
    described = describe(read_net(tmp_path / "n.prototxt"))
    with CaffeExecutor(1, 1) as executor:
        wanted = executor.result(executor.submit(caffes_shapes, network()))
    ours = {top: shape for x in described.layers for top, shape in zip(x.tops, x.top_shapes)}
    assert len(ours) > 30
    assert {k: wanted[k] for k in ours} == ours


def test_formulas_by_hand() -> None:
    assert conv_output(224, 7, 2, 3, 1) == 112
    assert conv_output(13, 3, 1, 2, 2) == 13
    assert pool_output(13, 3, 2, 0) == 6
    assert pool_output(12, 3, 2, 0) == 6
    assert pool_output(4, 2, 2, 1) == 3
    assert canonical_axis(-1, (2, 3, 4)) == 2
    with pytest.raises(NetworkError):
        canonical_axis(3, (2, 3, 4))


@pytest.mark.caffe
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            layer("c", "Convolution", "data", "convolution_param { num_output: 4 kernel_size: 30 }"),
            "does not fit into 13 x 11",
        ),
        (
            layer("c", "Convolution", "data", "convolution_param { num_output: 4 kernel_size: 3 group: 4 }"),
            "multiples of group 4",
        ),
        (
            layer(
                "c", "Convolution", "data", "convolution_param { num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3 }"
            ),
            "has kernel_size, and kernel_h or kernel_w as well; Caffe takes one of them",
        ),
        (
            layer("p", "Pooling", "data", "pooling_param { kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2 }"),
            "has stride, and stride_h or stride_w as well",
        ),
        (layer("e", "Eltwise", "data pool0"), "must have equal shapes"),
        (layer("r", "Reshape", "data", "reshape_param { shape { dim: 5 dim: -1 } }"), "cannot be reshaped"),
        (layer("s", "Slice", "data", "", "a b c d"), "cannot be cut into 4 tops"),
        (
            layer("i", "Input", "", "input_param { shape { dim: 0 dim: 3 dim: 8 dim: 8 } }"),
            "'i' is 0x3x8x8, which holds no values; write 1 for",
        ),
        (
            layer("i", "Input", "", "input_param { shape { dim: 1 dim: 3 dim: 0 dim: 0 } }"),
            "'i' is 1x3x0x0, .*; write its size in input_param",
        ),
    ],
)
def test_illegal_shapes_name_the_layer(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "n.prototxt").write_text(network() + text)
    with pytest.raises(NetworkError, match=words) as caught:
        describe(read_net(tmp_path / "n.prototxt"))
    assert "layer '" in str(caught.value)
