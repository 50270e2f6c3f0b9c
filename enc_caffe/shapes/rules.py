"""One small formula per layer type, and the table from type to formula.

A formula takes the layer's parameter view and its bottom shapes, and returns its top shapes. Shapes are tuples in
Caffe's axis order (N, C, H, W). A type that is not in :data:`SHAPE_RULES` is reported by the caller, never guessed.
Source: BVLC Caffe 99bd997, ``src/caffe/layers/*.cpp`` (``Reshape`` of each layer).
"""

from __future__ import annotations

import math
from typing import Any, Callable, Sequence

from enc_caffe.errors import NetworkError, UnknownSizeError
from enc_caffe.shapes.sizes import (
    UNKNOWN,
    Shape,
    canonical_axis,
    check_outputs,
    conv_output,
    count,
    need_image,
    pool_output,
    shape_dims,
    spatial_pair,
)

Rule = Callable[[Any, "list[Shape]"], "list[Shape]"]


def _convolution_nd(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    """Convolution or deconvolution over any number of axes (``BaseConvolutionLayer::LayerSetUp``)."""
    param, tops = layer.convolution_param, []
    for bottom in bottoms:
        axis = canonical_axis(param.axis, bottom)
        sizes = bottom[axis + 1 :]
        _check_groups(param, bottom[axis])
        fields = [("kernel_size", param.kernel_size, 0), ("stride", param.stride, 1), ("pad", param.pad, 0),
                  ("dilation", param.dilation, 1)]  # fmt: skip
        lists = []
        for name, values, default in fields:
            if len(values) > 1 and len(values) != len(sizes):
                raise NetworkError(f"{name} has {len(values)} values for {len(sizes)} spatial axes")
            lists.append([int(v) for v in values] * (1 if len(values) > 1 else len(sizes)) or [default] * len(sizes))
        tops.append((*bottom[:axis], int(param.num_output), *_windows(layer.type, sizes, *lists)))
    return tops


def _windows(
    kind: str, sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int], dilation: Sequence[int]
) -> list[int]:  # fmt: skip
    """Output sizes of a convolution or deconvolution along each axis."""
    if min((*kernel, *stride, *dilation), default=1) < 1:
        raise NetworkError(f"kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1")
    each = zip(sizes, kernel, stride, pad, dilation)
    if kind == "Deconvolution":
        out = [st * (s - 1) + d * (k - 1) + 1 - 2 * p for s, k, st, p, d in each]
    else:
        out = [conv_output(*axis) for axis in each]
    if min(out, default=1) < 1:
        raise NetworkError(f"kernel {kernel} with pad {pad} does not fit into {' x '.join(map(str, sizes))}")
    return out


def _check_groups(param: Any, channels: int) -> None:
    group = int(param.group)
    if group < 1:
        raise NetworkError(f"group is {group}; 1 or more is needed")
    if param.num_output < 1 or channels % group or param.num_output % group:
        raise NetworkError(
            f"{channels} input channels and num_output {param.num_output} must be multiples of group {group}"
        )


def _plain(param: Any, bottoms: list[Shape]) -> bool:
    return param.axis == 1 and all(len(b) == 4 for b in bottoms)


def _convolution(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    """Convolution or deconvolution, mostly of images: their sizes may be given by ``_h`` and ``_w`` fields."""
    param = layer.convolution_param
    if not _plain(param, bottoms):
        return _convolution_nd(layer, bottoms)
    windows = [
        spatial_pair(param, "kernel", 0),
        *(spatial_pair(param, n, d) for n, d in (("stride", 1), ("pad", 0), ("dilation", 1))),
    ]
    tops = []
    for bottom in bottoms:
        n, channels, *sizes = need_image(bottom)
        _check_groups(param, channels)
        tops.append((n, int(param.num_output), *_windows(layer.type, sizes, *windows)))
    return tops


def _pooling(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.pooling_param
    n, channels, height, width = need_image(bottoms[0])
    if param.global_pooling:
        top: Shape = (n, channels, 1, 1)
    else:
        kernel, stride = spatial_pair(param, "kernel", 0), spatial_pair(param, "stride", 1)
        pad = spatial_pair(param, "pad", 0)
        if min(kernel) < 1 or min(stride) < 1:
            raise NetworkError(f"kernel {kernel} and stride {stride} must be at least 1")
        ceil = getattr(param, "round_mode", 0) == 0
        padded = any(pad)
        out = []
        for s, k, st, p in zip((height, width), kernel, stride, pad):
            size = pool_output(s, k, st, p, ceil)
            # Caffe clips both axes as soon as one of them is padded.
            if padded and not p and (size - 1) * st >= s:
                size -= 1
            out.append(size)
        if min(out) < 1:
            raise NetworkError(f"kernel {kernel} with pad {pad} does not fit into {height} x {width}")
        top = (n, channels, *out)
    return [top] * len(layer.top)


def _inner_product(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.inner_product_param
    axis = canonical_axis(param.axis, bottoms[0])
    return [bottoms[0][:axis] + (check_outputs(param.num_output),)]


def _same(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0]] * len(layer.top)


def _scalars(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    if not bottoms:
        raise NetworkError("a loss of no bottom")
    return [()] * len(layer.top)


def _softmax_loss(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return ([(), bottoms[0]])[: len(layer.top)]


def _accuracy(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    classes = bottoms[0][canonical_axis(layer.accuracy_param.axis, bottoms[0])]
    return ([(), (classes,)])[: len(layer.top)]


def _eltwise(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    for other in bottoms[1:]:
        if other != bottoms[0]:
            raise NetworkError(f"bottoms {bottoms[0]} and {other} must have equal shapes")
    return [bottoms[0]]


def _concat(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.concat_param
    axis = param.concat_dim if param.HasField("concat_dim") else param.axis
    axis = canonical_axis(axis, bottoms[0])
    for other in bottoms[1:]:
        if other[:axis] + other[axis + 1 :] != bottoms[0][:axis] + bottoms[0][axis + 1 :]:
            raise NetworkError(f"bottoms {bottoms[0]} and {other} may differ in axis {axis} only")
    return [bottoms[0][:axis] + (sum(b[axis] for b in bottoms),) + bottoms[0][axis + 1 :]]


def _slice(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.slice_param
    axis = canonical_axis(param.slice_dim if param.HasField("slice_dim") else param.axis, bottoms[0])
    size, parts = bottoms[0][axis], len(layer.top)
    if param.slice_point:
        cuts = [0, *param.slice_point, size]
        sizes = [b - a for a, b in zip(cuts, cuts[1:])]
    else:
        sizes = [size // parts] * parts if parts and size % parts == 0 else []
    if len(sizes) != parts or any(s < 1 for s in sizes):
        raise NetworkError(f"axis {axis} of size {size} cannot be cut into {parts} tops")
    return [bottoms[0][:axis] + (s,) + bottoms[0][axis + 1 :] for s in sizes]


def _split(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0]] * len(layer.top)


def _flatten(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    shape = bottoms[0]
    start = canonical_axis(layer.flatten_param.axis, shape)
    end = canonical_axis(layer.flatten_param.end_axis, shape)
    return [shape[:start] + (count(shape[start : end + 1]),) + shape[end + 1 :]]


def _reshape(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param, shape = layer.reshape_param, bottoms[0]
    first = param.axis if param.axis >= 0 else len(shape) + param.axis + 1
    last = len(shape) if param.num_axes == -1 else first + param.num_axes
    middle = [shape[first + i] if d == 0 else d for i, d in enumerate(shape_dims(param.shape))]
    if -1 in middle:
        known = math.prod(d for d in middle if d != -1)
        total = count(shape[first:last])
        if known == 0 or total % known:
            raise NetworkError(f"{shape} cannot be reshaped to {tuple(param.shape.dim)}")
        middle[middle.index(-1)] = total // known
    top = shape[:first] + tuple(middle) + shape[last:]
    if count(top) != count(shape):
        raise NetworkError(f"{shape} cannot be reshaped to {top}: {count(shape)} against {count(top)} values")
    return [top]


def _reduction(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0][: canonical_axis(layer.reduction_param.axis, bottoms[0])]]


def _argmax(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param, shape = layer.argmax_param, bottoms[0]
    if param.HasField("axis"):
        axis = canonical_axis(param.axis, shape)
        return [shape[:axis] + (int(param.top_k),) + shape[axis + 1 :]]
    ones = (1,) * (len(shape) - 3)
    return [(shape[0], 2 if param.out_max_val else 1, int(param.top_k), *ones)]


def _crop(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    axis = canonical_axis(layer.crop_param.axis, bottoms[0])
    return [bottoms[0][:axis] + bottoms[1][axis:]]


def _embed(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [bottoms[0] + (check_outputs(layer.embed_param.num_output),)]


def _batch_reindex(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [(bottoms[1][0],) + bottoms[0][1:]]


def _input(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    shapes = [shape_dims(s) for s in layer.input_param.shape]
    if len(shapes) == 1:
        shapes = shapes * len(layer.top)
    if not shapes:
        raise UnknownSizeError("does not say how large its tops are", "--input_shape C,H,W, or --top_shape TOP=N,...")
    if len(shapes) != len(layer.top):
        raise NetworkError(f"{len(layer.top)} tops, but {len(shapes)} shapes in input_param")
    for top, shape in zip(layer.top, shapes):
        # Caffe reshapes such a blob without an error, and aborts in the first layer that touches its memory.
        if 0 in shape:
            one = "1 for the number of images" if shape[0] == 0 else "its size"
            raise NetworkError(
                f"its top '{top}' is {'x'.join(map(str, shape))}, which holds no values; write {one} in input_param"
            )
    return shapes


def _dummy(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.dummy_data_param
    shapes = [shape_dims(s) for s in param.shape]
    if not shapes:
        shapes = [tuple(int(v) for v in d) for d in zip(param.num, param.channels, param.height, param.width)]
    return shapes * len(layer.top) if len(shapes) == 1 else shapes


def _tile(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    axis, shape = canonical_axis(layer.tile_param.axis, bottoms[0]), bottoms[0]
    return [shape[:axis] + (shape[axis] * int(layer.tile_param.tiles),) + shape[axis + 1 :]]


def _spp(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    n, channels, _, _ = need_image(bottoms[0])
    return [(n, channels * sum(4**i for i in range(min(16, int(layer.spp_param.pyramid_height)))))]


def _im2col(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    top = _convolution_nd(layer, bottoms)[0]
    axis = canonical_axis(layer.convolution_param.axis, bottoms[0])
    sizes = [int(k) for k in layer.convolution_param.kernel_size]
    kernel = math.prod(sizes if len(sizes) > 1 else sizes * (len(bottoms[0]) - axis - 1))
    return [(*top[:axis], bottoms[0][axis] * kernel, *top[axis + 1 :])]


def _recurrent(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    steps, number, outputs = bottoms[0][0], bottoms[0][1], int(layer.recurrent_param.num_output)
    exposed = (2 if layer.type == "LSTM" else 1) if layer.recurrent_param.expose_hidden else 0
    return [(steps, number, outputs), *[(1, number, outputs)] * exposed]


def _parameter(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [shape_dims(layer.parameter_param.shape)]


def _not_known(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    """Filter drops images by what another blob holds; a Python layer does what its module says."""
    return [UNKNOWN] * len(layer.top)


def _silence(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return []


_SAME = [
    "ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "AbsVal", "Power", "Exp", "Log", "BNLL", "Dropout", "LRN", "BatchNorm", "Scale",
    "Bias", "Softmax", "MVN", "Threshold", "Clip", "Swish",
]  # fmt: skip
_LOSSES = ["EuclideanLoss", "HingeLoss", "ContrastiveLoss", "MultinomialLogisticLoss", "SigmoidCrossEntropyLoss"]

SHAPE_RULES: dict[str, Rule] = {
    "Convolution": _convolution,
    "Deconvolution": _convolution,
    "Pooling": _pooling,
    "InnerProduct": _inner_product,
    "Eltwise": _eltwise,
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Reduction": _reduction,
    "ArgMax": _argmax,
    "Crop": _crop,
    "Embed": _embed,
    "BatchReindex": _batch_reindex,
    "Input": _input,
    "DummyData": _dummy,
    "Silence": _silence,
    "HDF5Output": _silence,
    "Tile": _tile,
    "SPP": _spp,
    "Im2col": _im2col,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "LSTMUnit": lambda layer, bottoms: [bottoms[0]] * len(layer.top),
    "Parameter": _parameter,
    "Filter": _not_known,
    "Python": _not_known,
    "SoftmaxWithLoss": _softmax_loss,
    "InfogainLoss": _softmax_loss,
    "Accuracy": _accuracy,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_LOSSES, _scalars),
}
