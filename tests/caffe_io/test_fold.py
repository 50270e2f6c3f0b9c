"""Folding BatchNorm and Scale: which layers, and the same function in real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.fold import can_fold, fold, folded, gain_and_shift
from enc_caffe.caffe_io.prototxt import read_net, to_text

HEAD = (
    'name: "f" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
)


def conv(name: str, bottom: str, bias: bool = True) -> str:
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: 4 '
        f"kernel_size: 3 pad: 1 bias_term: {'true' if bias else 'false'} }} }}\n"
    )


def norm(name: str, bottom: str, top: str, more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "BatchNorm" bottom: "{bottom}" top: "{top}" {more} }}\n'


def scale(name: str, bottom: str, top: str, bias: bool = True) -> str:
    return f'layer {{ name: "{name}" type: "Scale" bottom: "{bottom}" top: "{top}" scale_param {{ bias_term: {"true" if bias else "false"} }} }}\n'


NETS = {
    "in place": (conv("c", "data") + norm("n", "c", "c") + scale("s", "c", "c"), {"c": ("n", "s")}),
    "own tops": (conv("c", "data", False) + norm("n", "c", "u") + scale("s", "u", "v", False), {"c": ("n", "s")}),
    "no scale": (conv("c", "data") + norm("n", "c", "c", "batch_norm_param { eps: 0.01 }"), {"c": ("n", None)}),
    "two": (
        conv("c", "data") + norm("n", "c", "c") + scale("s", "c", "c")
        + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n'
        + conv("d", "c", False) + norm("m", "d", "d") + scale("t", "d", "d"),
        {"c": ("n", "s"), "d": ("m", "t")},
    ),
    # Someone else reads the convolution's own output.
    "read by another": (
        conv("c", "data") + norm("n", "c", "u") + scale("s", "u", "u")
        + 'layer { name: "e" type: "Eltwise" bottom: "c" bottom: "u" top: "e" }\n', {},
    ),
    "scale read by another": (
        conv("c", "data") + norm("n", "c", "u") + scale("s", "u", "v")
        + 'layer { name: "e" type: "Eltwise" bottom: "v" bottom: "u" top: "e" }\n', {"c": ("n", None)},
    ),
    "ReLU between": (
        conv("c", "data") + 'layer { name: "r" type: "ReLU" bottom: "c" top: "c" }\n' + norm("n", "c", "c"), {},
    ),
    "batch statistics": (conv("c", "data") + norm("n", "c", "c", "batch_norm_param { use_global_stats: false }"), {}),
    "batch statistics by its own phase": (conv("c", "data") + norm("n", "c", "c", "phase: TRAIN"), {}),
    "shared weights": (
        conv("c", "data").replace("bottom", 'param { name: "w" } bottom', 1) + norm("n", "c", "c"), {},
    ),
}  # fmt: skip


def weights(net, path: Path) -> CaffeModel:
    """Random blobs for every layer of a net of 3 and 4 channels."""
    rng, inputs, records = np.random.default_rng(0), 3, []
    for layer in net.layer:
        arrays = []
        if layer.type == "Convolution":
            arrays = [rng.standard_normal((4, inputs, 3, 3))]
            inputs = 4
            if layer.convolution_param.bias_term:
                arrays.append(rng.standard_normal(4))
        elif layer.type == "BatchNorm":
            # Caffe stores sums and the factor that they are divided by.
            arrays = [rng.standard_normal(4) * 7, (rng.random(4) + 0.5) * 7, np.array([7.0])]
        elif layer.type == "Scale":
            arrays = [rng.standard_normal(4)] + ([rng.standard_normal(4)] if layer.scale_param.bias_term else [])
        if arrays:
            records.append(layer_record(layer.name, layer.type, [a.astype(np.float32) for a in arrays]))
    with open(path, "wb") as handle:
        write_caffemodel(handle, "f", records)
    return CaffeModel(path)


@pytest.mark.parametrize("kind", list(NETS))
def test_what_is_folded(kind: str, tmp_path: Path) -> None:
    text, wanted = NETS[kind]
    (tmp_path / "n.prototxt").write_text(HEAD + text)
    net = read_net(tmp_path / "n.prototxt")
    simple, followers = fold(net)
    assert {c: (f.batch_norm, f.scale) for c, f in followers.items()} == wanted
    gone = {n for pair in wanted.values() for n in pair if n}
    assert [x.name for x in simple.layer] == [x.name for x in net.layer if x.name not in gone]
    assert can_fold(weights(net, tmp_path / "w"), followers)


@pytest.mark.caffe
@pytest.mark.parametrize("kind", list(NETS))
def test_the_same_function_in_caffe(kind: str, tmp_path: Path) -> None:
    from enc_caffe.workers.executor import CaffeExecutor
    from enc_caffe.workers.pycaffe import forward

    (tmp_path / "n.prototxt").write_text(HEAD + NETS[kind][0])
    net = read_net(tmp_path / "n.prototxt")
    model = weights(net, tmp_path / "w")
    simple, followers = fold(net)
    records = []
    for layer in simple.layer:
        if layer.name in model.layers:
            arrays = [model.array(b) for b in model.layers[layer.name].blobs]
            if layer.name in followers:
                bias = arrays[1] if len(arrays) > 1 else None
                arrays = list(folded(arrays[0], bias, gain_and_shift(model, followers[layer.name])))
            records.append(layer_record(layer.name, layer.type, arrays))
    with open(tmp_path / "v", "wb") as handle:
        write_caffemodel(handle, "f", records)
    data = {"data": np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    top = net.layer[-1].top[0]
    with CaffeExecutor(1, 1) as executor:
        first, second = (
            executor.result(executor.submit(forward, to_text(n), str(w), data, [simple.layer[-1].top[0] if n is simple else top]))
            for n, w in ((net, tmp_path / "w"), (simple, tmp_path / "v"))
        )  # fmt: skip
    one, two = next(iter(first.values())), next(iter(second.values()))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-4 * np.abs(one).max())
