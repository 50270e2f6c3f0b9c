"""Small networks of every shape that users bring: the generated families of ``scripts/networks.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping


@dataclass(frozen=True)
class Case:
    """A network to check.

    Attributes
    ----------
    name, text : str
        The text is a prototxt.
    shapes : mapping of blob to shape
        Tops of data layers, whose sources are not there.
    below : mapping of blob to int
        Inputs of integers, from 0 to below this; every other input is normally distributed.
    stages : tuple of str
    level : int
    foreign : bool
        A type of it is in no stock Caffe: it cannot be run, only carried through.
    legacy : str
        Format of its caffemodel: V0, V1, or four dimensions for blobs with num, channels, height and width; empty: today's.
    """

    name: str
    text: str
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    below: Mapping[str, int] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    level: int = 0
    foreign: bool = False
    legacy: str = ""


def layer(name: str, kind: str, bottoms: str = "", param: str = "", tops: str = "") -> str:
    """One layer; its top has its name unless ``tops`` says otherwise."""
    lines = "".join(f' bottom: "{b}"' for b in bottoms.split()) + "".join(
        f' top: "{t}"' for t in (tops or name).split()
    )
    return f'layer {{ name: "{name}" type: "{kind}"{lines} {param} }}\n'


def data(*dims: int, top: str = "data") -> str:
    """An Input layer."""
    return layer(top, "Input", "", f"input_param {{ shape {{ {' '.join(f'dim: {d}' for d in dims)} }} }}")


def conv(name: str, bottom: str, outputs: int, kernel: int = 3, more: str = "", param: str = "", tops: str = "") -> str:
    """A convolution with "same" padding, if ``more`` does not say otherwise."""
    pad = "" if "pad" in more else f"pad: {kernel // 2} "
    size = "" if "kernel" in more else f"kernel_size: {kernel} "
    return layer(
        name, "Convolution", bottom, f"{param} convolution_param {{ num_output: {outputs} {size}{pad}{more} }}", tops
    )


def fc(name: str, bottom: str, outputs: int, more: str = "", param: str = "") -> str:
    """A fully connected layer."""
    return layer(name, "InnerProduct", bottom, f"{param} inner_product_param {{ num_output: {outputs} {more} }}")


def inplace(name: str, kind: str, blob: str, param: str = "") -> str:
    """A layer whose top is its bottom."""
    return layer(name, kind, blob, param, blob)


def bn(blob: str) -> str:
    """BatchNorm, Scale and ReLU in place."""
    scale = inplace(f"{blob}_scale", "Scale", blob, "scale_param { bias_term: true }")
    return inplace(f"{blob}_bn", "BatchNorm", blob) + scale + inplace(f"{blob}_relu", "ReLU", blob)


def total(name: str, bottoms: str, more: str = "") -> str:
    """An Eltwise layer."""
    return layer(name, "Eltwise", bottoms, f"eltwise_param {{ {more} }}" if more else "")


def pooled(bottom: str) -> str:
    """Global average pooling."""
    return layer("gap", "Pooling", bottom, "pooling_param { pool: AVE global_pooling: true }")


IMAGE = data(2, 3, 20, 18)
SCORES = "".join((fc("fc", "gap", 10), layer("prob", "Softmax", "fc")))
LABELLED = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "lmdb" batch_size: 8 backend: LMDB } }\n'
SHAPES = {"data": (2, 3, 20, 18), "label": (2,)}
V1 = (
    'input: "data"\ninput_dim: 2 input_dim: 3 input_dim: 20 input_dim: 18\n'
    'layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1" blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0 '
    "convolution_param { num_output: 12 kernel_size: 5 stride: 2 } }\n"
    'layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }\n'
    'layers { name: "conv2" type: CONVOLUTION bottom: "conv1" top: "conv2" convolution_param { num_output: 16 kernel_size: 3 group: 2 } }\n'
    'layers { name: "pool" type: POOLING bottom: "conv2" top: "pool" pooling_param { pool: MAX kernel_size: 2 stride: 2 } }\n'
    'layers { name: "ip" type: INNER_PRODUCT bottom: "pool" top: "ip" inner_product_param { num_output: 10 } }\n'
    'layers { name: "prob" type: SOFTMAX bottom: "ip" top: "prob" }\n'
)
V0 = (
    'input: "data"\ninput_dim: 2 input_dim: 3 input_dim: 20 input_dim: 18\n'
    'layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "data" top: "pad1" }\n'
    'layers { layer { name: "conv1" type: "conv" num_output: 12 kernelsize: 5 stride: 2 blobs_lr: 1. blobs_lr: 2. } bottom: "pad1" top: "conv1" }\n'
    'layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }\n'
    'layers { layer { name: "conv2" type: "conv" num_output: 16 kernelsize: 3 group: 2 } bottom: "conv1" top: "conv2" }\n'
    'layers { layer { name: "ip" type: "innerproduct" num_output: 10 } bottom: "conv2" top: "ip" }\n'
    'layers { layer { name: "prob" type: "softmax" } bottom: "ip" top: "prob" }\n'
)
STAGED = (
    LABELLED.replace("data_param", 'include { phase: TRAIN } include { phase: TEST stage: "score" } data_param')
    + layer("data", "Input", "", 'input_param { shape { dim: 2 dim: 3 dim: 20 dim: 18 } } include { phase: TEST stage: "serve" }')
    + conv("c1", "data", 8)
    + conv("wide", "c1", 12, 5, param="include { min_level: 1 }", tops="c2")
    + conv("narrow", "c1", 6, 3, param="include { max_level: 0 }", tops="c2")
    + inplace("drop", "Dropout", "c2", "include { phase: TRAIN }") + pooled("c2") + fc("fc", "gap", 10)
    + layer("loss", "SoftmaxWithLoss", "fc label", 'exclude { stage: "serve" }')
    + layer("prob", "Softmax", "fc", 'include { stage: "serve" }')
)  # fmt: skip
TWIN = 'param { name: "w" } param { name: "b" lr_mult: 2 }'
SHARED = (
    data(2, 1, 16, 16) + data(2, 1, 16, 16, top="data_p")
    + conv("conv1", "data", 8, param=TWIN) + conv("conv1_p", "data_p", 8, param=TWIN)
    + conv("conv2", "conv1", 10) + conv("conv2_p", "conv1_p", 10)
    + fc("feat", "conv2", 6, param='param { name: "f" }') + fc("feat_p", "conv2_p", 6, param='param { name: "f" }')
    + total("difference", "feat feat_p", "operation: SUM coeff: 1 coeff: -1")
)  # fmt: skip
RESIDUAL = (
    IMAGE + conv("stem", "data", 8, more="bias_term: false") + bn("stem")
    + conv("a1", "stem", 8, more="bias_term: false") + bn("a1") + conv("a2", "a1", 8) + total("a", "stem a2") + inplace("ra", "ReLU", "a")
    + conv("b1", "a", 12, more="stride: 2") + bn("b1") + conv("b2", "b1", 12) + conv("proj", "a", 12, 1, "stride: 2 bias_term: false")
    + total("b", "proj b2") + inplace("rb", "ReLU", "b") + pooled("b") + SCORES
)  # fmt: skip
INCEPTION = (
    IMAGE + conv("c", "data", 8) + conv("i1", "c", 6, 1) + conv("i3r", "c", 4, 1) + conv("i3", "i3r", 8)
    + conv("i5r", "c", 3, 1) + conv("i5", "i5r", 6, 5)
    + layer("ip", "Pooling", "c", "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }") + conv("ipp", "ip", 4, 1)
    + layer("cat", "Concat", "i1 i3 i5 ipp") + pooled("cat") + SCORES
)  # fmt: skip
SQUEEZE = (
    IMAGE + conv("c1", "data", 12) + bn("c1") + conv("c2", "c1", 12) + pooled("c2") + conv("down", "gap", 4, 1)
    + inplace("rd", "ReLU", "down") + conv("up", "down", 12, 1) + layer("gate", "Sigmoid", "up")
    + layer("flat", "Flatten", "gate") + layer("gated", "Scale", "c2 flat", "scale_param { axis: 0 }") + conv("c3", "gated", 8)
)  # fmt: skip
SEGMENTATION = (
    LABELLED.replace(' top: "label"', "")
    + 'layer { name: "label" type: "Data" top: "label" data_param { source: "labels" batch_size: 8 backend: LMDB } }\n'
    + conv("c1", "data", 8, more="pad: 4") + layer("p1", "Pooling", "c1", "pooling_param { kernel_size: 2 stride: 2 }") + conv("c2", "p1", 12)
    + conv("score", "c2", 5, 1) + layer("up", "Deconvolution", "score", "convolution_param { num_output: 5 kernel_size: 4 stride: 2 bias_term: false }")
    + layer("crop", "Crop", "up data", "crop_param { axis: 2 offset: 2 }")
    + layer("loss", "SoftmaxWithLoss", "crop label", "loss_param { ignore_label: 255 normalize: false }")
)  # fmt: skip
RECURRENT = (
    'layer { name: "data" type: "HDF5Data" top: "words" top: "cont" top: "label" hdf5_data_param { source: "list" batch_size: 4 } }\n'
    + layer("embed", "Embed", "words", "embed_param { input_dim: 12 num_output: 8 }")
    + layer("lstm", "LSTM", "embed cont", "recurrent_param { num_output: 10 }")
    + fc("predict", "lstm", 12, "axis: 2") + layer("loss", "SoftmaxWithLoss", "predict label", "softmax_param { axis: 2 }")
)  # fmt: skip
SUPERVISED = (
    LABELLED + conv("c1", "data", 8) + fc("fc1", "c1", 10)
    + layer("loss1/loss", "SoftmaxWithLoss", "fc1 label", "loss_weight: 0.3", "loss1") + layer("loss1/top1", "Accuracy", "fc1 label")
    + conv("c2", "c1", 12) + pooled("c2") + fc("fc", "gap", 10) + layer("loss", "SoftmaxWithLoss", "fc label", "", "loss2")
    + layer("top1", "Accuracy", "fc label")
)  # fmt: skip
DENSE = (
    IMAGE + conv("c0", "data", 6) + conv("d1", "c0", 4) + layer("k1", "Concat", "c0 d1") + conv("d2", "k1", 4)
    + layer("k2", "Concat", "k1 d2") + bn("k2") + conv("t", "k2", 8, 1) + conv("d3", "t", 4) + pooled("d3") + SCORES
)  # fmt: skip
ELEMENTWISE = (
    IMAGE + conv("c0", "data", 8) + layer("abs", "AbsVal", "c0") + layer("power", "Power", "abs", "power_param { power: 2 scale: 0.1 shift: 1 }")
    + layer("log", "Log", "power") + layer("exp", "Exp", "log") + layer("tanh", "TanH", "exp") + layer("elu", "ELU", "tanh")
    + layer("bnll", "BNLL", "elu") + layer("mvn", "MVN", "bnll") + layer("lrn", "LRN", "mvn") + layer("sigmoid", "Sigmoid", "lrn")
    + layer("bias", "Bias", "sigmoid") + conv("c1", "bias", 8) + layer("tile", "Tile", "c1", "tile_param { axis: 1 tiles: 2 }")
    + layer("shaped", "Reshape", "tile", "reshape_param { shape { dim: 0 dim: 4 dim: -1 } }")
    + layer("mean", "Reduction", "shaped", "reduction_param { operation: MEAN axis: 2 }")
    + layer("best", "ArgMax", "c1", "argmax_param { top_k: 3 }")
)  # fmt: skip
FORKED = (
    "# A type of a forked Caffe, with its own fields.\n" + IMAGE + conv("c1", "data", 8) + conv("c2", "c1", 8)
    + 'layer {\n  name: "warp"   # stays as it stands\n  type: "SpatialTransformer"\n  bottom: "c2"\n  top: "warp"\n'
    '  st_param { to_compute_dU: true mode: "affine" }\n}\n' + conv("c3", "warp", 8)
)  # fmt: skip
NAMESAKES = (
    IMAGE + conv("c1", "data", 8, param="include { phase: TEST }") + conv("c1", "data", 16, param="include { phase: TRAIN }")
    + inplace("act", "ReLU", "c1") + conv("c2", "c1", 8) + inplace("act", "ReLU", "c2") + pooled("c2") + SCORES
)  # fmt: skip

FAMILIES: tuple[Case, ...] = (
    Case("input and input_dim", 'input: "data"\ninput_dim: 2 input_dim: 3 input_dim: 20 input_dim: 18\n' + conv("c1", "data", 8) + conv("c2", "c1", 8)),
    Case(
        "two inputs by input_shape",
        'input: "data" input: "side"\ninput_shape { dim: 2 dim: 3 dim: 20 dim: 18 } input_shape { dim: 2 dim: 4 }\n'
        + conv("c1", "data", 8) + fc("f1", "c1", 6) + layer("cat", "Concat", "f1 side") + fc("f2", "cat", 5),
    ),
    Case("V0 file", V0, legacy="V0"),
    Case("V1 file", V1, legacy="V1"),
    Case("stage and level", STAGED, SHAPES, {"label": 10}, ("serve",), 1),
    Case("all in place", IMAGE + "".join(conv(f"c{i}", f"c{i - 1}" if i else "data", 8) + bn(f"c{i}") + inplace(f"d{i}", "Dropout", f"c{i}") for i in range(3))),
    Case("shared parameters (siamese)", SHARED),
    Case("param name of one layer", IMAGE + conv("c1", "data", 8, param=TWIN) + conv("c2", "c1", 8) + pooled("c2") + fc("fc", "gap", 4, param='param { name: "own" }')),
    Case("convolution of two bottoms", IMAGE + data(2, 3, 20, 18, top="other") + conv("c1", "data other", 8, tops="x y") + conv("c2", "x", 8) + conv("c3", "y", 8)),
    Case("several data layers", SEGMENTATION, {"data": (2, 3, 20, 18), "label": (2, 1, 20, 18)}, {"label": 5}),
    Case("several outputs", IMAGE + conv("c1", "data", 8) + conv("box", "c1", 4) + conv("cls", "c1", 6) + layer("prob", "Softmax", "cls") + fc("angle", "c1", 3)),
    Case("two losses", SUPERVISED, SHAPES, {"label": 10}),
    Case("no class scores", LABELLED + conv("c1", "data", 8) + fc("y", "c1", 2) + layer("loss", "EuclideanLoss", "y label"), {"data": (2, 3, 20, 18), "label": (2, 2)}),
    Case("DummyData and Parameter", layer("data", "DummyData", "", 'dummy_data_param { shape { dim: 2 dim: 3 dim: 20 dim: 18 } data_filler { type: "constant" value: 0.5 } }') + conv("c1", "data", 8) + layer("more", "Parameter", "", "parameter_param { shape { dim: 2 dim: 8 dim: 20 dim: 18 } }") + total("s", "c1 more") + conv("c2", "s", 8)),
    Case("1x1 convolutions", IMAGE + conv("c1", "data", 8) + conv("p1", "c1", 12, 1) + conv("p2", "p1", 6, 1, "stride: 2")),
    Case("depthwise separable", IMAGE + conv("c1", "data", 8) + conv("dw", "c1", 8, 3, "group: 8") + bn("dw") + conv("pw", "dw", 12, 1) + conv("dw2", "pw", 24, 3, "group: 12 stride: 2")),
    Case("groups", IMAGE + conv("c1", "data", 8, 5, "stride: 2") + conv("g2", "c1", 12, 3, "group: 2") + conv("g4", "g2", 8, 3, "group: 4")),
    Case("Deconvolution", IMAGE + conv("c1", "data", 8, 3, "stride: 2") + layer("up", "Deconvolution", "c1", "convolution_param { num_output: 6 kernel_size: 4 stride: 2 pad: 1 }") + conv("c2", "up", 8)),
    Case("dilated", IMAGE + conv("c1", "data", 8, 3, "pad: 2 dilation: 2") + conv("c2", "c1", 8, 3, "pad: 2 pad: 4 dilation: 2 dilation: 4") + conv("c3", "c2", 8, 3, "dilation: 3 stride: 2 pad: 3")),
    Case("non-square", IMAGE + conv("c1", "data", 8, more="kernel_h: 5 kernel_w: 3 stride_h: 1 stride_w: 2 pad_h: 2 pad_w: 0") + conv("c2", "c1", 8, more="kernel_size: 1 kernel_size: 7 pad: 0 pad: 3") + conv("c3", "c2", 8, more="kernel_h: 7 kernel_w: 1 pad_h: 3 pad_w: 0 stride_h: 2 stride_w: 1")),
    Case("3-D convolution", data(2, 2, 6, 9, 8) + layer("c1", "Convolution", "data", "convolution_param { num_output: 6 kernel_size: 3 pad: 1 }") + layer("c2", "Convolution", "c1", "convolution_param { num_output: 4 kernel_size: 1 kernel_size: 3 kernel_size: 3 stride: 1 stride: 2 stride: 2 }") + fc("fc", "c2", 5)),
    Case("1-D convolution", data(2, 4, 30) + layer("c1", "Convolution", "data", "convolution_param { num_output: 6 kernel_size: 5 stride: 2 }") + fc("fc", "c1", 5)),
    Case("im2col by force", IMAGE + conv("c1", "data", 8, more="force_nd_im2col: true") + conv("c2", "c1", 8)),
    Case("PReLU", IMAGE + conv("c1", "data", 8) + inplace("p1", "PReLU", "c1") + conv("c2", "c1", 8) + layer("p2", "PReLU", "c2", "prelu_param { channel_shared: true }") + conv("c3", "p2", 8)),
    Case("BatchNorm and Scale, not in place", IMAGE + conv("c1", "data", 8, more="bias_term: false") + layer("n1", "BatchNorm", "c1") + layer("s1", "Scale", "n1", "scale_param { bias_term: true }") + layer("r1", "ReLU", "s1") + conv("c2", "r1", 8)),
    Case("Concat (Inception)", INCEPTION),
    Case("Concat (DenseNet)", DENSE),
    Case("Slice", IMAGE + conv("c1", "data", 12) + layer("cut", "Slice", "c1", "slice_param { axis: 1 slice_point: 4 slice_point: 6 }", "x y z") + conv("cx", "x", 8) + conv("cy", "y", 8) + conv("cz", "z", 8) + total("s", "cx cy cz", "operation: MAX")),
    Case("Crop", IMAGE + conv("c1", "data", 8, more="pad: 4") + layer("crop", "Crop", "c1 data", "crop_param { axis: 2 offset: 3 offset: 2 }") + conv("c2", "crop", 8)),
    Case("Eltwise", IMAGE + conv("c1", "data", 8) + conv("c2", "data", 8) + total("p", "c1 c2", "operation: PROD") + total("m", "c1 p", "operation: MAX") + total("d", "m c2", "coeff: 0.5 coeff: -2") + conv("c3", "d", 8)),
    Case("residual", RESIDUAL, legacy="four dimensions"),
    Case("squeeze and excitation", SQUEEZE),
    Case("SPP", IMAGE + conv("c1", "data", 8) + layer("spp", "SPP", "c1", "spp_param { pyramid_height: 3 pool: MAX }") + fc("fc", "spp", 9)),
    Case("Embed", data(4, 6, top="words") + layer("e", "Embed", "words", "embed_param { input_dim: 12 num_output: 8 }") + fc("fc", "e", 10), {}, {"words": 12}),
    Case("LSTM", RECURRENT, {"words": (3, 4), "cont": (3, 4), "label": (3, 4)}, {"words": 12, "cont": 2, "label": 12}),
    Case("RNN", data(3, 2, 6) + data(3, 2, top="cont") + layer("rnn", "RNN", "data cont", "recurrent_param { num_output: 8 }") + fc("fc", "rnn", 9, "axis: 2"), {}, {"cont": 2}),
    Case("InnerProduct transposed, over later axes", IMAGE + fc("f1", "data", 12, "axis: 2 transpose: true") + fc("f2", "f1", 8, "axis: -1 bias_term: false")),
    Case("element-wise and shape layers", ELEMENTWISE),
    Case("one name twice, another size in TRAIN", NAMESAKES),
    Case("type of a forked Caffe", FORKED, foreign=True),
)  # fmt: skip
