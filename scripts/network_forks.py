"""Small networks as users of forks of Caffe write them: the second table of ``scripts/networks.py``.

Each is its family's in the small: the layers, the names of types and the fields are those that such files have.
"""

from __future__ import annotations

from network_families import IMAGE, Case, bn, conv, data, fc, inplace, layer, pooled, total

CEIL = "pooling_param { pool: MAX kernel_size: 3 stride: 2 ceil_mode: false }"
#: The BN of SegNet, PSPNet and ENet.
_BN = 'bn_param { bn_mode: INFERENCE scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.001 } }'


def own(name: str, kind: str, bottom: str, param: str = "", top: str = "") -> str:
    """A layer of a type that only a fork has."""
    return layer(name, kind, bottom, param, top)


def depthwise(name: str, bottom: str, channels: int, stride: int = 1, kind: str = "ConvolutionDepthwise") -> str:
    """A depthwise convolution of a fork."""
    return own(
        name, kind, bottom,
        f'convolution_param {{ num_output: {channels} kernel_size: 3 pad: 1 stride: {stride} bias_term: false engine: CAFFE weight_filler {{ type: "msra" }} }}',
    )  # fmt: skip


def separable(
    i: int, bottom: str, inputs: int, outputs: int, stride: int = 1, kind: str = "ConvolutionDepthwise"
) -> str:
    """A block of MobileNet."""
    dw, pw = f"conv{i}/dw", f"conv{i}/sep"
    return depthwise(dw, bottom, inputs, stride, kind) + bn(dw) + conv(pw, dw, outputs, 1, "bias_term: false") + bn(pw)


def inverted(i: int, bottom: str, channels: int, wide: int) -> str:
    """A block of MobileNet v2, with ReLU6."""
    up, dw, down = f"b{i}/expand", f"b{i}/dwise", f"b{i}/linear"
    return (
        conv(up, bottom, wide, 1) + own(f"{up}/relu6", "ReLU6", up, "", up)
        + conv(dw, up, wide, 3, f"group: {wide} engine: CAFFE") + own(f"{dw}/relu6", "ReLU6", dw, "", dw) + conv(down, dw, channels, 1)
        + total(f"b{i}", f"{down} {bottom}")
    )  # fmt: skip


def shuffled(i: int, bottom: str, channels: int) -> str:
    """A unit of ShuffleNet."""
    a, b, c = f"u{i}_c1", f"u{i}_c2", f"u{i}_c3"
    return (
        conv(a, bottom, channels, 1, "group: 2") + bn(a) + own(f"u{i}_shuffle", "ShuffleChannel", a, "shuffle_channel_param { group: 2 }")
        + depthwise(b, f"u{i}_shuffle", channels) + conv(c, b, channels, 1, "group: 2") + total(f"u{i}", f"{bottom} {c}")
    )  # fmt: skip


def head(source: str, channels: int) -> str:
    """Boxes and scores of SSD from one map."""
    loc, conf = f"{source}_loc", f"{source}_conf"
    order = "permute_param { order: 0 order: 2 order: 3 order: 1 }"
    return (
        conv(loc, source, 4 * channels) + own(f"{loc}_perm", "Permute", loc, order) + layer(f"{loc}_flat", "Flatten", f"{loc}_perm")
        + conv(conf, source, 3 * channels) + own(f"{conf}_perm", "Permute", conf, order) + layer(f"{conf}_flat", "Flatten", f"{conf}_perm")
        + own(f"{source}_prior", "PriorBox", f"{source} data", "prior_box_param { min_size: 8 max_size: 12 aspect_ratio: 2 flip: true clip: false variance: 0.1 }")
    )  # fmt: skip


SSD = (
    data(2, 3, 40, 40) + conv("c1", "data", 16) + inplace("r1", "ReLU", "c1") + layer("p1", "Pooling", "c1", CEIL) + conv("c2", "p1", 24)
    + own("norm", "Normalize", "c2", "norm_param { across_spatial: false scale_filler { type: \"constant\" value: 20 } channel_shared: false }")
    + head("norm", 4) + conv("c3", "c2", 24, 3, "stride: 2") + inplace("r3", "ReLU", "c3") + head("c3", 4)
    + layer("mbox_loc", "Concat", "norm_loc_flat c3_loc_flat") + layer("mbox_conf", "Concat", "norm_conf_flat c3_conf_flat")
    + layer("mbox_prior", "Concat", "norm_prior c3_prior", "concat_param { axis: 2 }")
    + layer("scores", "Reshape", "mbox_conf", "reshape_param { shape { dim: 0 dim: -1 dim: 3 } }") + layer("soft", "Softmax", "scores", "softmax_param { axis: 2 }")
    + layer("softflat", "Flatten", "soft")
    + own("detection_out", "DetectionOutput", "mbox_loc softflat mbox_prior", "detection_output_param { num_classes: 3 nms_param { nms_threshold: 0.45 top_k: 400 } }")
)  # fmt: skip
REGIONS = (
    data(2, 3, 40, 40) + data(1, 3, top="im_info") + conv("c1", "data", 16, 3, "stride: 2") + inplace("r1", "ReLU", "c1") + conv("c2", "c1", 24, 3, "stride: 2")
    + conv("rpn", "c2", 16) + conv("rpn_cls", "rpn", 6, 1) + conv("rpn_box", "rpn", 12, 1)
    + layer("rois", "Python", "rpn_cls rpn_box im_info", 'python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" param_str: "\'feat_stride\': 4" }')
    + own("pool5", "ROIPooling", "c2 rois", "roi_pooling_param { pooled_w: 4 pooled_h: 4 spatial_scale: 0.25 }")
    + fc("fc6", "pool5", 32) + inplace("r6", "ReLU", "fc6") + fc("cls_score", "fc6", 4) + layer("prob", "Softmax", "cls_score")
)  # fmt: skip
SENSITIVE = (
    data(2, 3, 40, 40) + data(20, 5, top="rois") + conv("c1", "data", 16, 3, "stride: 2") + conv("c2", "c1", 24, 3, "stride: 2")
    + conv("c3", "c2", 24, more="kernel_size: 3 pad: 4 hole: 4") + conv("rfcn_cls", "c3", 3 * 9, 1)
    + own("psroi", "PSROIPooling", "rfcn_cls rois", "psroi_pooling_param { spatial_scale: 0.25 output_dim: 3 group_size: 3 }")
    + layer("ave", "Pooling", "psroi", "pooling_param { pool: AVE kernel_size: 3 stride: 3 }") + layer("prob", "Softmax", "ave")
)  # fmt: skip
SEGNET = (
    data(2, 3, 32, 32) + conv("conv1_1", "data", 16) + own("conv1_1_bn", "BN", "conv1_1", _BN, "conv1_1") + inplace("relu1_1", "ReLU", "conv1_1")
    + layer("pool1", "Pooling", "conv1_1", "pooling_param { pool: MAX kernel_size: 2 stride: 2 }", "pool1 pool1_mask") + conv("conv2_1", "pool1", 24)
    + own("conv2_1_bn", "BN", "conv2_1", _BN, "conv2_1") + own("upsample1", "Upsample", "conv2_1 pool1_mask", "upsample_param { scale: 2 }", "pool1_D")
    + conv("conv1_D", "pool1_D", 16) + own("conv1_D_bn", "BN", "conv1_D", _BN, "conv1_D") + conv("score", "conv1_D", 5, 1)
)  # fmt: skip
PYRAMID = (
    data(2, 3, 33, 33) + conv("c1", "data", 16, 3, "stride: 2") + own("c1/bn", "BN", "c1", _BN, "c1") + conv("c2", "c1", 24, 3, "dilation: 2 pad: 2")
    + layer("pool3", "Pooling", "c2", "pooling_param { pool: AVE kernel_size: 6 stride: 6 }") + conv("pool3_conv", "pool3", 8, 1)
    + own("pool3_interp", "Interp", "pool3_conv", "interp_param { height: 17 width: 17 }") + layer("concat", "Concat", "c2 pool3_interp")
    + conv("c5", "concat", 16) + conv("c6", "c5", 5, 1) + own("c6_interp", "Interp", "c6", "interp_param { zoom_factor: 2 }")
)  # fmt: skip
ENET = (
    data(2, 3, 32, 32) + conv("initial", "data", 13, 3, "stride: 2") + layer("initial_pool", "Pooling", "data", "pooling_param { kernel_size: 2 stride: 2 }")
    + layer("cat", "Concat", "initial initial_pool") + own("cat_bn", "BN", "cat", _BN, "cat") + inplace("cat_prelu", "PReLU", "cat") + conv("b_reduce", "cat", 8, 1)
    + conv("b_v", "b_reduce", 8, more="kernel_h: 5 kernel_w: 1 pad_h: 2 pad_w: 0") + conv("b_h", "b_v", 8, more="kernel_h: 1 kernel_w: 5 pad_h: 0 pad_w: 2")
    + conv("b_expand", "b_h", 16, 1) + own("b_drop", "SpatialDropout", "b_expand", "dropout_param { dropout_ratio: 0.1 }", "b_expand") + total("b", "cat b_expand")
    + layer("up", "Deconvolution", "b", "convolution_param { num_output: 5 kernel_size: 2 stride: 2 }")
)  # fmt: skip
SENET = (
    IMAGE + conv("c1", "data", 16) + bn("c1") + conv("c2", "c1", 16) + layer("squeeze", "Pooling", "c2", "pooling_param { pool: AVE global_pooling: true ceil_mode: false }")
    + conv("down", "squeeze", 4, 1) + inplace("down_relu", "ReLU", "down") + conv("up", "down", 16, 1) + layer("gate", "Sigmoid", "up")
    + own("axpy", "Axpy", "gate c2 c1") + conv("c3", "axpy", 24) + pooled("c3")
)  # fmt: skip
CRNN = (
    data(2, 1, 16, 48) + conv("c1", "data", 16) + layer("p1", "Pooling", "c1", "pooling_param { kernel_size: 2 stride: 2 }") + conv("c2", "p1", 24)
    + layer("p2", "Pooling", "c2", "pooling_param { kernel_h: 8 kernel_w: 1 }") + own("perm", "Permute", "p2", "permute_param { order: 3 order: 0 order: 1 order: 2 }")
    + layer("flat", "Flatten", "perm", "flatten_param { axis: 2 }") + own("lstm", "ReverseLstm", "flat", "lstm_param { num_output: 12 }") + fc("fc", "lstm", 11, "axis: 2")
)  # fmt: skip
RESNEXT = IMAGE + conv("c0", "data", 16) + "".join(
    conv(f"b{i}_1", f"b{i - 1}" if i else "c0", 16, 1) + bn(f"b{i}_1") + conv(f"b{i}_2", f"b{i}_1", 16, 3, "group: 4") + bn(f"b{i}_2") + conv(f"b{i}_3", f"b{i}_2", 16, 1)
    + total(f"b{i}", f"b{i}_3 " + (f"b{i - 1}" if i else "c0")) for i in range(2)
) + pooled("b1")  # fmt: skip
DENSENET = (
    IMAGE + conv("c0", "data", 8) + conv("d1", "c0", 6) + layer("dr1", "Dropout", "d1", "dropout_param { dropout_ratio: 0.2 sample_weights_test: false }")
    + layer("k1", "Concat", "c0 dr1") + bn("k1") + conv("d2", "k1", 6) + layer("k2", "Concat", "k1 d2") + conv("t", "k2", 8, 1)
    + layer("tp", "Pooling", "t", "pooling_param { pool: AVE kernel_size: 2 stride: 2 ceil_mode: false }") + conv("d3", "tp", 8) + pooled("d3")
)  # fmt: skip
YOLO = (
    data(2, 3, 32, 32) + conv("c1", "data", 16) + bn("c1") + layer("p1", "Pooling", "c1", "pooling_param { kernel_size: 2 stride: 2 }") + conv("c2", "p1", 24)
    + conv("route", "c2", 8, 1) + own("up", "Upsample", "route", "upsample_param { scale: 2 }") + layer("cat", "Concat", "up c1") + conv("out", "cat", 18)
)  # fmt: skip

FORKS: tuple[Case, ...] = (
    Case("SSD", SSD),
    Case("Faster R-CNN", REGIONS),
    Case("Faster R-CNN, --top_shape rois=30,5", REGIONS, {"rois": (30, 5)}),
    Case("R-FCN, with hole", SENSITIVE),
    Case("SegNet", SEGNET),
    Case("PSPNet", PYRAMID),
    Case("ENet", ENET),
    Case("SENet", SENET),
    Case("MobileNet v1", IMAGE + conv("conv1", "data", 16, 3, "stride: 2") + bn("conv1") + separable(2, "conv1", 16, 24) + separable(3, "conv2/sep", 24, 32, 2) + pooled("conv3/sep")),
    Case("MobileNet v1, DepthwiseConvolution", IMAGE + conv("conv1", "data", 16) + separable(2, "conv1", 16, 24, 1, "DepthwiseConvolution") + conv("conv3", "conv2/sep", 24) + pooled("conv3")),
    Case("MobileNet v2", IMAGE + conv("conv1", "data", 16, 3, "stride: 2") + inverted(1, "conv1", 16, 48) + inverted(2, "b1", 16, 48) + conv("last", "b2", 24) + pooled("last")),
    Case("ShuffleNet", IMAGE + conv("conv1", "data", 16, 3, "stride: 2") + shuffled(1, "conv1", 16) + shuffled(2, "u1", 16) + conv("conv5", "u2", 24) + pooled("conv5")),
    Case("CRNN", CRNN),
    Case("ResNeXt", RESNEXT),
    Case("DenseNet", DENSENET),
    Case("YOLO v3", YOLO),
    Case("Inception, ceil_mode", IMAGE + conv("c0", "data", 16) + layer("p0", "Pooling", "c0", CEIL) + conv("i1", "p0", 8, 1) + conv("i3", "p0", 12) + conv("i5", "p0", 6, 5) + layer("cat", "Concat", "i1 i3 i5") + conv("c1", "cat", 24) + pooled("c1")),
    Case("FCN", IMAGE + conv("c1", "data", 16, more="pad: 10") + layer("p1", "Pooling", "c1", "pooling_param { kernel_size: 2 stride: 2 }") + conv("c2", "p1", 24) + conv("score", "c2", 5, 1) + layer("up", "Deconvolution", "score", "convolution_param { num_output: 5 kernel_size: 4 stride: 2 bias_term: false }") + layer("crop", "Crop", "up data", "crop_param { axis: 2 offset: 4 }")),
    Case("C3D", data(1, 3, 8, 16, 16) + layer("c1", "Convolution", "data", "convolution_param { num_output: 8 kernel_size: 3 pad: 1 }") + layer("flat", "Reshape", "c1", "reshape_param { shape { dim: 0 dim: -1 dim: 16 dim: 16 } }") + conv("c2", "flat", 16) + fc("fc", "c2", 5)),
    Case("quantised by a fork", IMAGE + layer("c1", "Convolution", "data", "quantization_param { precision: DYNAMIC_FIXED_POINT bw_params: 8 fl_params: 7 } convolution_param { num_output: 16 kernel_size: 3 }") + conv("c2", "c1", 16) + pooled("c2")),
)  # fmt: skip
