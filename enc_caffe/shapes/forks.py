"""Shapes of layers that well-known forks of Caffe have and stock Caffe has not.

Their parameters are in no message of stock Caffe, so a formula takes them as text: values by name, as lists. A layer in place
keeps its blob's shape whatever its type is; what is not here is not known, and a user may give it.
Sources: ``Reshape`` of the layers in the SSD, SegNet, ENet, PSPNet, MobileNet, ShuffleNet, SENet, YOLO, Ristretto, FlowNet and
OpenPose forks.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Mapping, Sequence

from enc_caffe.errors import NetworkError
from enc_caffe.shapes.rules import SHAPE_RULES
from enc_caffe.shapes.sizes import UNKNOWN, Shape, canonical_axis, need_image

Values = Mapping[str, Sequence[Any]]
ForkRule = Callable[[Any, Values, "list[Shape]"], "list[Shape]"]


def _message(values: Values, name: str) -> Values:
    """The fields of a parameter message; none where it is not there."""
    found = [v for v in values.get(name, ()) if isinstance(v, Mapping)]
    return found[-1] if found else {}


def _number(values: Values, name: str, default: int) -> int:
    return int(_real(values, name, default))


def _real(values: Values, name: str, default: float) -> float:
    try:
        found = float(values[name][-1]) if values.get(name) else default
    except (TypeError, ValueError):
        found = math.nan
    if not math.isfinite(found) or abs(found) > 2**31:
        raise NetworkError(f"{name}: a number is needed")
    return found


def _same(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0]] * len(layer.top)


def _last(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """Axpy: a X + Y for a of one number for each channel."""
    return [bottoms[-1]]


def _permute(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    shape = bottoms[0]
    try:
        order = [canonical_axis(int(axis), shape) for axis in _message(values, "permute_param").get("order", ())]
    except (TypeError, ValueError):
        raise NetworkError("permute_param has an order that is no number") from None
    if len(set(order)) != len(order):
        raise NetworkError(f"permute_param has order {order}; every axis can stand in it once")
    return [tuple(shape[axis] for axis in [*order, *(a for a in range(len(shape)) if a not in order)])]


def _interp(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    n, channels, height, width = need_image(bottoms[0])
    if len(bottoms) > 1:
        return [(n, channels, *need_image(bottoms[1])[2:])]
    p = _message(values, "interp_param")
    if p.get("height") and p.get("width"):
        return [(n, channels, _number(p, "height", 0), _number(p, "width", 0))]
    pad, shrink, zoom = _number(p, "pad_beg", 0) + _number(p, "pad_end", 0), _number(p, "shrink_factor", 1), _number(p, "zoom_factor", 1)  # fmt: skip
    if shrink < 1 or zoom < 1:
        raise NetworkError(f"shrink_factor {shrink} and zoom_factor {zoom} must be at least 1")
    sizes = [(s + pad - 1) // shrink + 1 for s in (height, width)]
    return [(n, channels, *(s + (s - 1) * (zoom - 1) for s in sizes))]


def _upsample(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """SegNet's, by the places of a pooling, and YOLO's, by a scale alone."""
    n, channels, height, width = need_image(bottoms[0])
    p = _message(values, "upsample_param")
    scale = _number(p, "scale", _number(p, "stride", 2))
    down, across = _number(p, "scale_h", scale), _number(p, "scale_w", scale)
    return [(n, channels, _number(p, "upsample_h", height * down), _number(p, "upsample_w", width * across))]


def _prior_box(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    p = _message(values, "prior_box_param")
    flip = str(p.get("flip", ["true"])[-1]).lower() in ("true", "t", "1")
    ratios = [1.0]
    for i in range(len(p.get("aspect_ratio", ()))):
        ratio = _real({"aspect_ratio": [p["aspect_ratio"][i]]}, "aspect_ratio", 1)
        if all(abs(ratio - known) >= 1e-6 for known in ratios):
            ratios += [ratio, 1 / ratio] if flip and ratio else [ratio]
    priors = len(ratios) * len(p.get("min_size", ())) + len(p.get("max_size", ()))
    _, _, height, width = need_image(bottoms[0])
    return [(1, 2, height * width * priors * 4)]


def _regions(name: str) -> ForkRule:
    def rule(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
        p = _message(values, name)
        height, width = _number(p, "pooled_h", 0), _number(p, "pooled_w", 0)
        return [(bottoms[1][0], bottoms[0][1], height, width)]

    return rule


def _position_sensitive(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    p = _message(values, "psroi_pooling_param")
    side = _number(p, "group_size", 0)
    return [(bottoms[1][0], _number(p, "output_dim", 0), side, side)]


def _depthwise(kind: str) -> ForkRule:
    """A convolution whose groups are its channels; files say so, or leave it to the type."""

    def rule(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
        view = type(layer)()
        view.CopyFrom(layer)
        view.type, view.convolution_param.group = kind, 1
        if not view.convolution_param.num_output:
            view.convolution_param.num_output = need_image(bottoms[0])[1]
        return SHAPE_RULES[kind](view, bottoms)

    return rule


def _like(kind: str) -> ForkRule:
    """A layer of a fork that makes what a stock type makes, by the same fields."""

    def rule(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
        view = type(layer)()
        view.CopyFrom(layer)
        view.type = kind
        return SHAPE_RULES[kind](view, bottoms)

    return rule


def _twice_the_channels(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """CReLU: the positive parts and the negative ones, one behind the other."""
    n, channels, *rest = bottoms[0]
    return [(n, 2 * channels, *rest)]


def _reorg(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """YOLO's: blocks of stride x stride places become channels, or with ``reverse`` the other way round."""
    n, channels, height, width = need_image(bottoms[0])
    p = _message(values, "reorg_param")
    stride = _number(p, "stride", 2)
    if str(p.get("reverse", ["false"])[-1]).lower() in ("true", "t", "1"):
        return [_shuffled(bottoms[0], stride)]
    if stride < 1 or height % stride or width % stride:
        raise NetworkError(f"stride {stride} does not divide {height}x{width}")
    return [(n, channels * stride * stride, height // stride, width // stride)]


def _pixel_shuffle(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    p = _message(values, "pixelshuffle_param") or _message(values, "pixel_shuffle_param")
    return [_shuffled(need_image(bottoms[0]), _number(p, "upscale_factor", _number(p, "upscale", 1)))]


def _shuffled(shape: Shape, factor: int) -> Shape:
    """Channels as blocks of factor x factor places."""
    n, channels, height, width = shape
    if factor < 1 or channels % (factor * factor):
        raise NetworkError(f"{channels} channels are no multiple of {factor} x {factor}")
    return n, channels // (factor * factor), height * factor, width * factor


def _im_resize(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """OpenPose's: by a factor, or to a size."""
    n, channels, height, width = need_image(bottoms[0])
    p = _message(values, "imresize_param")
    factor = _real(p, "factor", 0)
    if factor > 0:
        return [(n, channels, int(height * factor), int(width * factor))]
    return [(n, channels, _number(p, "target_spatial_height", height), _number(p, "target_spatial_width", width))]


def _as_large_as_the_second(layer: Any, values: Values, bottoms: list[Shape]) -> list[Shape]:
    """FlowNet's Resample and Downsample: channels of the first bottom, height and width of the second, or those stated."""
    n, channels, *_ = need_image(bottoms[0])
    if len(bottoms) > 1:
        return [(n, channels, *need_image(bottoms[1])[2:])]
    p = _message(values, "resample_param")
    if not (p.get("height") and p.get("width")):
        # Other forks' layers of this name have other fields.
        return [UNKNOWN]
    return [(n, channels, _number(p, "height", 0), _number(p, "width", 0))]


_KEEP = [
    "BN", "SyncBN", "CuDNNBatchNorm", "InstanceNorm", "GroupNorm", "LayerNorm", "RMSNorm", "Normalize", "Normalization",
    "L2Normalization", "ReLU6", "Relu6", "HSwish", "HardSwish", "HSigmoid", "HardSigmoid", "Mish", "SELU", "GELU", "SiLU", "Softplus",
    "ShuffleChannel", "ChannelShuffle", "SpatialDropout", "DropBlock", "BroadcastMul", "ChannelScale", "LRNRistretto", "Noise", "GaussianNoise",
]  # fmt: skip

FORK_RULES: dict[str, ForkRule] = {
    **dict.fromkeys(_KEEP, _same),
    "Axpy": _last,
    "Permute": _permute,
    "Interp": _interp,
    "Upsample": _upsample,
    "PriorBox": _prior_box,
    "CReLU": _twice_the_channels,
    "Reorg": _reorg,
    "PixelShuffle": _pixel_shuffle,
    "ImResize": _im_resize,
    "Resample": _as_large_as_the_second,
    "Downsample": _as_large_as_the_second,
    "ConvolutionRistretto": _like("Convolution"),
    "DeconvolutionRistretto": _like("Deconvolution"),
    "FcRistretto": _like("InnerProduct"),
    "ROIPooling": _regions("roi_pooling_param"),
    "ROIAlign": _regions("roi_align_param"),
    "PSROIPooling": _position_sensitive,
    **dict.fromkeys(("ConvolutionDepthwise", "DepthwiseConvolution", "ConvolutionDepthWise"), _depthwise("Convolution")),
    **dict.fromkeys(("DeconvolutionDepthwise", "DepthwiseDeconvolution"), _depthwise("Deconvolution")),
}  # fmt: skip

#: Those that have weights, which are found by the layer's name.
FORK_WEIGHTED = frozenset(
    {"BN", "SyncBN", "CuDNNBatchNorm", "InstanceNorm", "GroupNorm", "LayerNorm", "RMSNorm", "Normalize", "Normalization", "ChannelScale"}
) | {kind for kind in FORK_RULES if kind.startswith(("Convolution", "Deconvolution", "Depthwise", "Fc"))}  # fmt: skip
