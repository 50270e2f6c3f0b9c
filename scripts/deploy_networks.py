"""The networks of ``make deploy-test``, each as it is and in the emissions of every scheme."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np
from network_families import bn, conv, data, fc, inplace, layer, pooled, total

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.runnable import OUTPUT, runnable
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.decomposition import Scheme, form_cost, group_spectra
from enc_caffe.decomposition.matrix import MatrixScheme
from enc_caffe.form import WHOLE, Form
from enc_caffe.network import Layer

ROOT = Path(__file__).resolve().parent.parent
#: Schemes that a network is emitted in, each with that of fully connected layers.
SCHEMES = ("spatial", "spatial_t", "channel", "tucker2")
#: Part of a layer's MACs that its form keeps, about.
PART = 0.5


@dataclass(frozen=True)
class DeployCase:
    """A network: its text, and a caffemodel or none for random weights."""

    name: str
    text: str
    weights: Optional[Path] = None


def _relu(blob: str) -> str:
    return inplace(f"{blob}_relu", "ReLU", blob)


def _max(name: str, bottom: str, more: str = "kernel_size: 2 stride: 2") -> str:
    return layer(name, "Pooling", bottom, f"pooling_param {{ pool: MAX {more} }}")


def _plain(widths: dict[str, int], bottom: str = "data", more: str = "") -> str:
    """Convolutions with ReLU, one after the other."""
    text = ""
    for name, outputs in widths.items():
        text += conv(name, bottom, outputs, more=more) + _relu(name)
        bottom = name
    return text


IMAGE = data(1, 3, 48, 40)
PROB = layer("prob", "Softmax", "fc")
VGG = (
    IMAGE + _plain({"c1_1": 16, "c1_2": 16}) + _max("p1", "c1_2") + _plain({"c2_1": 24, "c2_2": 24}, "p1") + _max("p2", "c2_2")
    + _plain({"c3_1": 32, "c3_2": 32}, "p2") + _max("p3", "c3_2") + fc("fc6", "p3", 64) + _relu("fc6") + inplace("drop6", "Dropout", "fc6")
    + fc("fc", "fc6", 10) + PROB
)  # fmt: skip
ALEXNET = (
    data(1, 3, 67, 67) + conv("conv1", "data", 24, 11, "stride: 4 pad: 0") + _relu("conv1")
    + layer("norm1", "LRN", "conv1", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }") + _max("pool1", "norm1", "kernel_size: 3 stride: 2")
    + conv("conv2", "pool1", 32, 5, "group: 2") + _relu("conv2") + conv("conv3", "conv2", 48) + _relu("conv3") + conv("conv4", "conv3", 32, 3, "group: 2")
    + _relu("conv4") + fc("fc6", "conv4", 64) + _relu("fc6") + fc("fc", "fc6", 10) + PROB
)  # fmt: skip


def _separable(name: str, bottom: str, inputs: int, outputs: int, stride: int = 1) -> str:
    return (
        conv(f"{name}_dw", bottom, inputs, 3, f"group: {inputs} stride: {stride} bias_term: false") + bn(f"{name}_dw")
        + conv(f"{name}_sep", f"{name}_dw", outputs, 1, "bias_term: false") + bn(f"{name}_sep")
    )  # fmt: skip


MOBILENET = (
    IMAGE + conv("c1", "data", 16, 3, "stride: 2 bias_term: false") + bn("c1") + _separable("s1", "c1", 16, 32) + _separable("s2", "s1_sep", 32, 48, 2)
    + conv("c4", "s2_sep", 32) + _relu("c4") + pooled("c4") + fc("fc", "gap", 10) + PROB
)  # fmt: skip
INCEPTION = (
    IMAGE + conv("c1", "data", 24, 7, "stride: 2") + _relu("c1") + _max("p1", "c1", "kernel_size: 3 stride: 2") + conv("i1", "p1", 16, 1) + _relu("i1")
    + conv("i3r", "p1", 12, 1) + _relu("i3r") + conv("i3", "i3r", 24) + _relu("i3") + conv("i5r", "p1", 8, 1) + conv("i5", "i5r", 12, 5)
    + _max("ip", "p1", "kernel_size: 3 stride: 1 pad: 1") + conv("ipp", "ip", 8, 1) + layer("cat", "Concat", "i1 i3 i5 ipp")
    + conv("c2", "cat", 32) + _relu("c2") + pooled("c2") + fc("fc", "gap", 10) + PROB
)  # fmt: skip
DILATED = (
    IMAGE + conv("c1", "data", 16) + _relu("c1") + conv("c2", "c1", 24, 3, "pad: 2 dilation: 2") + _relu("c2") + conv("c3", "c2", 24, 3, "pad: 4 dilation: 4")
    + _relu("c3") + conv("c4", "c3", 24, 3, "pad: 3 dilation: 3") + conv("score", "c4", 8, 1)
)  # fmt: skip
RESIDUAL = (
    IMAGE + conv("stem", "data", 16, more="bias_term: false") + bn("stem") + conv("a1", "stem", 16, more="bias_term: false") + bn("a1") + conv("a2", "a1", 16)
    + total("a", "stem a2") + inplace("ra", "ReLU", "a") + conv("b1", "a", 32, more="stride: 2") + bn("b1") + conv("b2", "b1", 32)
    + conv("proj", "a", 32, 1, "stride: 2 bias_term: false") + total("b", "proj b2") + inplace("rb", "ReLU", "b") + pooled("b") + fc("fc", "gap", 10) + PROB
)  # fmt: skip
DENSE = (
    IMAGE + conv("c0", "data", 16) + conv("d1", "c0", 12) + layer("k1", "Concat", "c0 d1") + conv("d2", "k1", 12) + layer("k2", "Concat", "k1 d2")
    + layer("k2_bn", "BatchNorm", "k2") + layer("k2_scale", "Scale", "k2_bn", "scale_param { bias_term: true }") + layer("k2_relu", "ReLU", "k2_scale")
    + conv("t", "k2_relu", 24, 1) + conv("d3", "t", 16) + pooled("d3") + fc("fc", "gap", 10) + PROB
)  # fmt: skip
FCN = (
    IMAGE + conv("c1", "data", 16, more="stride: 2") + _relu("c1") + conv("c2", "c1", 24, more="stride: 2") + _relu("c2") + conv("score", "c2", 8)
    + layer("up", "Deconvolution", "score", "convolution_param { num_output: 8 kernel_size: 4 stride: 2 pad: 1 bias_term: false }") + conv("skip", "c1", 8, 1)
    + total("sum", "up skip") + conv("out", "sum", 6)
)  # fmt: skip
SIDES = (
    IMAGE + conv("c1", "data", 16, more="kernel_h: 5 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 1") + inplace("r1", "PReLU", "c1")
    + conv("c2", "c1", 24, more="kernel_h: 3 kernel_w: 5 stride_h: 2 stride_w: 1 pad_h: 1 pad_w: 2") + inplace("r2", "ReLU", "c2", "relu_param { negative_slope: 0.1 }")
    + conv("c3", "c2", 24, more="kernel_size: 3 stride: 2 pad: 0") + layer("s3", "Sigmoid", "c3") + fc("fc", "s3", 10) + PROB
)  # fmt: skip


def cases(shared: Optional[Path]) -> list[DeployCase]:
    """All networks; those of the folder with the data only where it is known."""
    found = []
    if shared is not None:
        real = shared / "real"
        for name, text, weights in (
            ("SqueezeNet v1.1", shared / "squeezenet/squeezenet_v1.1_deploy.prototxt", shared / "squeezenet/squeezenet_v1.1.caffemodel"),
            ("MTCNN det1", real / "det1.prototxt", real / "det1.caffemodel"),
            ("MTCNN det2", real / "det2.prototxt", real / "det2.caffemodel"),
            ("slim-320 (face detector)", real / "slim-320.prototxt", real / "slim-320.caffemodel"),
            ("waifu2x rgb_scale2", real / "rgb_srcnn_old.prototxt", real / "rgb_scale2.caffemodel"),
            ("ResNet-56", ROOT / "prototxt/resnet56/deploy.prototxt", shared / "res56.caffemodel"),
        ):  # fmt: skip
            if text.is_file() and weights.is_file():
                found.append(DeployCase(name, one_image(text.read_text()), weights))
    own = {
        "VGG-like": VGG, "AlexNet-like, groups": ALEXNET, "MobileNet-like, depthwise": MOBILENET, "Inception-like": INCEPTION,
        "dilated": DILATED, "residual": RESIDUAL, "DenseNet-like": DENSE, "FCN, Deconvolution": FCN, "unequal sides, PReLU": SIDES,
    }  # fmt: skip
    return [DeployCase(name, text) for name, text in own.items()] + found


def one_image(text: str) -> str:
    """The prototxt of a deploy network with a batch of one image: converters to ncnn know no other."""
    text = re.sub(r"(input_dim\s*:\s*)\d+", r"\g<1>1", text, count=1)
    return re.sub(r"((?:input_shape|input_param\s*\{\s*shape)\s*:?\s*\{\s*dim\s*:\s*)\d+", r"\g<1>1", text, count=1)


def half(layer: Layer, scheme: Scheme, blob: np.ndarray) -> Form:
    """The form of a scheme that has nearest to half of a layer's MACs; ``blob`` is its weight."""
    whole = form_cost(layer, WHOLE)[0]
    if isinstance(scheme, MatrixScheme):
        forms = [Form(scheme.name, (r,)) for r in range(1, scheme.max_rank(layer) + 1)]
    else:
        forms = list(scheme.forms(layer, group_spectra(scheme.matrices(layer, blob))))
    return min(forms, key=lambda form: abs(form_cost(layer, form)[0] / whole - PART))


def stock_part(path: Path) -> str:
    """The deploy form of what stock Caffe has of a network: without data, losses, and what stands from a fork's first layer on."""
    net, name = read_net(path), path.name
    network = describe(net, None, name)
    part = runnable(net, network, name).net
    kept = [x for x in part.layer if not x.name.startswith(OUTPUT)]
    del part.layer[:]
    for param in kept:
        part.layer.add().CopyFrom(param)
    return to_text(deploy_net(part, describe(part, None, name)))
