"""What stock Caffe gives layers, against stock Caffe."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.blobs import misfits, needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel, fits
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.workers.executor import CaffeExecutor
from tests.caffe_io.legacy import write_legacy
from tests.caffe_io.test_variants import layer

pytestmark = pytest.mark.caffe

INPUT = (
    'layer { name: "in" type: "Input" top: "x" top: "t" top: "cont" top: "s" top: "i" top: "v" input_param { '
    "shape { dim: [2, 6, 9, 8] } shape { dim: [3, 2, 5] } shape { dim: [3, 2] } shape { dim: [2, 4] } shape { dim: [2] } "
    "shape { dim: [2, 3, 5, 6, 7] } } }\n"
)
LAYERS = {
    "conv": layer("conv", "Convolution", "x", "convolution_param { num_output: 4 kernel_size: 3 group: 2 }"),
    "pair": layer(
        "pair", "Convolution", "x", "convolution_param { num_output: 4 kernel_h: 3 kernel_w: 1 bias_term: false }"
    ),
    "volume": layer("volume", "Convolution", "v", "convolution_param { num_output: 4 kernel_size: 3 }"),
    "up": layer("up", "Deconvolution", "x", "convolution_param { num_output: 4 kernel_size: 2 group: 2 }"),
    "fc": layer("fc", "InnerProduct", "x", "inner_product_param { num_output: 7 }"),
    "fct": layer(
        "fct", "InnerProduct", "x", "inner_product_param { num_output: 7 transpose: true bias_term: false axis: 2 }"
    ),
    "bn": layer("bn", "BatchNorm", "x"),
    "scale": layer("scale", "Scale", "x", "scale_param { bias_term: true }"),
    "scale2": layer("scale2", "Scale", "x", "scale_param { axis: 1 num_axes: 2 }"),
    "scale0": layer("scale0", "Scale", "x", "scale_param { num_axes: 0 bias_term: true }"),
    "gate": layer("gate", "Scale", "x i", "scale_param { axis: 0 bias_term: true }"),
    "bias": layer("bias", "Bias", "x", "bias_param { axis: 2 num_axes: -1 }"),
    "prelu": layer("prelu", "PReLU", "x"),
    "shared": layer("shared", "PReLU", "x", "prelu_param { channel_shared: true }"),
    "embed": layer("embed", "Embed", "i", "embed_param { input_dim: 10 num_output: 3 }"),
    "lstm": layer("lstm", "LSTM", "t cont s", "recurrent_param { num_output: 4 }"),
    "rnn": layer("rnn", "RNN", "t cont", "recurrent_param { num_output: 4 }"),
    "param": 'layer { name: "param" type: "Parameter" top: "param" parameter_param { shape { dim: [3, 5] } } }\n',
    "relu": layer("relu", "ReLU", "x"),
}


def blobs_in_caffe(text: str) -> dict[str, list[tuple[int, ...]]]:
    """Shapes of all layers' blobs in stock Caffe."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(text, None)
    return {name: [tuple(b.data.shape) for b in net.layer_dict[name].blobs] for name in net._layer_names}


def test_every_layer_has_the_blobs_that_caffe_gives_it(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(INPUT + "".join(LAYERS.values()))
    net = read_net(tmp_path / "n.prototxt")
    needed = needed_blobs(net, describe(net))
    with CaffeExecutor(1, 1) as executor:
        found = executor.result(executor.submit(blobs_in_caffe, to_text(net)))
    assert {name: needed[name] for name in LAYERS} == {name: found[name] for name in LAYERS}


def test_misfits_are_told_by_layer(tmp_path: Path) -> None:
    import numpy as np

    kept = ("bn", "fc", "prelu", "scale")
    (tmp_path / "n.prototxt").write_text(INPUT + "".join(LAYERS[name] for name in kept))
    net = read_net(tmp_path / "n.prototxt")
    layers = {
        "bn": ("BatchNorm", [np.zeros(6), np.ones(6), np.ones(1), np.ones(6), np.zeros(6)]),
        "fc": ("InnerProduct", [np.ones((7, 432)), np.ones(7)]),
        "prelu": ("PReLU", [np.ones(5)]),
    }
    model = CaffeModel(write_legacy(tmp_path / "w", "four dimensions", layers))
    assert misfits(model, needed_blobs(net, describe(net))) == {
        "bn": "has 5 blobs, stock Caffe needs 3",
        "prelu": "has a blob 0 of shape (1, 1, 1, 5), stock Caffe needs (6,)",
        "scale": "has no weights in the caffemodel",
    }
    bias = model.layers["fc"].blobs[1]
    assert bias.legacy and fits(bias, (7,)) and not fits(bias, (7, 1)) and not fits(bias, (1, 1, 1, 1, 7))
