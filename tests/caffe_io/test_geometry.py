"""Geometry in one value or two, and what converters read of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.geometry import one_dilation, write_geometry
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.form import Form
from enc_caffe.network import Convolution
from enc_caffe.workers.executor import CaffeExecutor
from tests.caffe_io.test_variants import INPUT, layer, read

pytestmark = pytest.mark.caffe


@pytest.mark.parametrize(
    ("conv", "wanted"),
    [
        (Convolution(4, (3, 3), (2, 2), (1, 1), (1, 1)), "num_output: 4 pad: 1 kernel_size: 3 stride: 2"),
        (Convolution(4, (1, 1)), "num_output: 4 kernel_size: 1"),
        (Convolution(4, (3, 1), (2, 1), (1, 0), (4, 1)), "num_output: 4 pad_h: 1 pad_w: 0 kernel_h: 3 kernel_w: 1 stride_h: 2 stride_w: 1 dilation: 4"),
        (Convolution(4, (1, 3), (2, 2), (0, 0), (1, 2), 2, False), "num_output: 4 bias_term: false pad: 0 group: 2 stride: 2 kernel_h: 1 kernel_w: 3 dilation: 2"),
        (Convolution(4, (3, 5), (1, 1), (2, 2), (2, 3)), "num_output: 4 pad: 2 kernel_h: 3 kernel_w: 5 dilation: 2 dilation: 3"),
        (Convolution(4, (1, 1), dilation=(2, 3)), "num_output: 4 kernel_size: 1"),
    ],
)  # fmt: skip
def test_what_agrees_is_written_once(conv: Convolution, wanted: str) -> None:
    param = caffe_pb2().ConvolutionParameter(kernel_h=7, kernel_w=7, pad=[3], stride=[5], dilation=[2, 2], group=9)
    write_geometry(param, conv)
    other = caffe_pb2().ConvolutionParameter()
    from google.protobuf import text_format

    text_format.Parse(wanted, other)
    assert param == other


def outputs(text: str, blob: str) -> np.ndarray:
    """A blob of a network whose weights and input are set by a seed."""
    from enc_caffe.workers.pycaffe import load_net

    net, rng = load_net(text, None), np.random.default_rng(3)
    net.blobs["data"].data[...] = rng.standard_normal(net.blobs["data"].data.shape)
    for layer_ in net.layers:
        for array in layer_.blobs:
            array.data[...] = rng.standard_normal(array.data.shape)
    net.forward()
    return net.blobs[blob].data.copy()


def test_one_dilation_is_the_same_function_in_caffe(tmp_path: Path) -> None:
    text = INPUT.replace("dim: 8 dim: 8", "dim: 24 dim: 24") + layer(
        "c", "Convolution", "data", "convolution_param { num_output: 6 kernel_size: 3 pad: 4 dilation: 4 }"
    )
    net, network = read(tmp_path, text)
    pair = replace_layers(net, network, {"c": Form("spatial", (4,))})
    assert [list(x.convolution_param.dilation) for x in pair.layer[1:]] == [[4], [4]]
    two = type(pair)()
    two.CopyFrom(pair)
    two.layer[1].convolution_param.dilation[:] = [4, 1]
    two.layer[2].convolution_param.dilation[:] = [1, 4]
    with CaffeExecutor(1, 1) as executor:
        one, other = (executor.result(executor.submit(outputs, to_text(x), "c")) for x in (pair, two))
    assert one.shape == (2, 6, 24, 24) and np.array_equal(one, other)


def test_dilation_of_an_axis_with_a_kernel_stays() -> None:
    assert one_dilation(Convolution(1, (3, 3), dilation=(2, 3))) == (2, 3)
    assert one_dilation(Convolution(1, (3, 1), dilation=(1, 5))) == (1, 1)
