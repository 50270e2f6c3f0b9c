"""Caffe's output-size arithmetic: one small formula per layer type, and the table from type to formula.

A formula takes the layer's parameter view and its bottom shapes, and returns its top shapes. Shapes are tuples in
Caffe's axis order (N, C, H, W). A type that is not in :data:`SHAPE_RULES` is reported by the caller, never guessed.
Source: BVLC Caffe 99bd997, ``src/caffe/layers/*.cpp`` (``Reshape`` of each layer).
"""

from __future__ import annotations

import math
from typing import Any, Callable

from enc_caffe.errors import NetworkError

Shape = tuple[int, ...]
#: Shape of a blob that a layer of unknown type made, or one that reads such a blob.
UNKNOWN: Shape = (-1,)
#: Values that a blob may have at most (``Blob::Reshape`` of Caffe counts with int).
MAX_COUNT = 2**31 - 1
#: Axes that a blob may have at most (``kMaxBlobAxes`` of Caffe).
MAX_AXES = 32
Rule = Callable[[Any, "list[Shape]"], "list[Shape]"]


def count(shape: Shape) -> int:
    """Number of elements of a blob; an empty shape is a scalar."""
    return math.prod(shape)


def _dims(shape: Any) -> Shape:
    """A BlobShape; of its values others than Caffe's limits are checked by the caller, but their product must be small."""
    if len(shape.dim) > MAX_AXES:
        raise NetworkError(f"a shape has {len(shape.dim)} axes; Caffe takes at most {MAX_AXES}")
    return tuple(int(d) for d in shape.dim)


def _outputs(number: int) -> int:
    if number < 1:
        raise NetworkError(f"num_output is {number}; 1 or more is needed")
    return int(number)


def spatial_pair(param: Any, name: str, default: int) -> tuple[int, int]:
    """Height and width of ``kernel``, ``stride`` or ``pad``: ``_h``/``_w`` fields, else the repeated or single field.

    Parameters
    ----------
    param : ConvolutionParameter or PoolingParameter message
    name : str
        ``kernel`` (field ``kernel_size``), ``stride``, ``pad`` or ``dilation``.
    default : int
        Value where the prototxt says nothing.
    """
    field = "kernel_size" if name == "kernel" else name
    known = param.DESCRIPTOR.fields_by_name
    if f"{name}_h" in known and (param.HasField(f"{name}_h") or param.HasField(f"{name}_w")):
        return int(getattr(param, f"{name}_h")), int(getattr(param, f"{name}_w"))
    if known[field].has_presence:
        value = int(getattr(param, field)) if param.HasField(field) else default
        return value, value
    values = [int(v) for v in getattr(param, field)]
    if not values:
        return default, default
    if len(values) == 1:
        return values[0], values[0]
    if len(values) == 2:
        return values[0], values[1]
    raise NetworkError(f"{field} has {len(values)} values; a 2-D layer takes one or two")


def conv_output(size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Output size of a convolution along one axis (rounded down)."""
    return (size + 2 * pad - (dilation * (kernel - 1) + 1)) // stride + 1


def pool_output(size: int, kernel: int, stride: int, pad: int, ceil: bool = True) -> int:
    """Output size of a pooling layer: rounded up, the last window clipped to start inside the padded input."""
    span = size + 2 * pad - kernel
    out = (math.ceil(span / stride) if ceil else span // stride) + 1
    if pad and (out - 1) * stride >= size + pad:
        out -= 1
    return out


def _need_image(shape: Shape) -> tuple[int, int, int, int]:
    if len(shape) != 4:
        raise NetworkError(f"the input has {len(shape)} axes {shape}; 4 are needed (N, C, H, W)")
    return shape  # type: ignore[return-value]


def _convolution_nd(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    """Convolution or deconvolution over any number of axes (``BaseConvolutionLayer::LayerSetUp``)."""
    param, tops = layer.convolution_param, []
    for bottom in bottoms:
        axis = canonical_axis(param.axis, bottom)
        sizes = bottom[axis + 1 :]
        fields = [("kernel_size", param.kernel_size, 0), ("stride", param.stride, 1), ("pad", param.pad, 0),
                  ("dilation", param.dilation, 1)]  # fmt: skip
        lists = []
        for name, values, default in fields:
            if len(values) > 1 and len(values) != len(sizes):
                raise NetworkError(f"{name} has {len(values)} values for {len(sizes)} spatial axes")
            lists.append([int(v) for v in values] * (1 if len(values) > 1 else len(sizes)) or [default] * len(sizes))
        if any(k < 1 or st < 1 or d < 1 for k, st, _, d in zip(*lists)):
            raise NetworkError(f"kernel {lists[0]}, stride {lists[1]} and dilation {lists[3]} must be at least 1")
        each = zip(sizes, *lists)
        if layer.type == "Deconvolution":
            out = [st * (s - 1) + d * (k - 1) + 1 - 2 * p for s, k, st, p, d in each]
        else:
            out = [conv_output(s, k, st, p, d) for s, k, st, p, d in each]
        if out and min(out) < 1:
            raise NetworkError(f"kernel {lists[0]} with pad {lists[2]} does not fit into {sizes}")
        tops.append((*bottom[:axis], _outputs(param.num_output), *out))
    return tops


def _plain(param: Any, bottoms: list[Shape]) -> bool:
    return param.axis == 1 and all(len(b) == 4 for b in bottoms)


def _convolution(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.convolution_param
    if not _plain(param, bottoms):
        return _convolution_nd(layer, bottoms)
    kernel, stride = spatial_pair(param, "kernel", 0), spatial_pair(param, "stride", 1)
    pad, dilation = spatial_pair(param, "pad", 0), spatial_pair(param, "dilation", 1)
    if min(kernel) < 1 or min(stride) < 1 or min(dilation) < 1:
        raise NetworkError(f"kernel {kernel}, stride {stride} and dilation {dilation} must be at least 1")
    tops = []
    for bottom in bottoms:
        n, channels, height, width = _need_image(bottom)
        group = max(1, param.group)
        if param.num_output < 1 or channels % group or param.num_output % group:
            raise NetworkError(
                f"{channels} input channels and num_output {param.num_output} must be multiples of group {group}"
            )
        out = [conv_output(s, k, st, p, d) for s, k, st, p, d in zip((height, width), kernel, stride, pad, dilation)]
        if min(out) < 1:
            raise NetworkError(f"kernel {kernel} with pad {pad} does not fit into {height} x {width}")
        tops.append((n, int(param.num_output), *out))
    return tops


def _deconvolution(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.convolution_param
    if not _plain(param, bottoms):
        return _convolution_nd(layer, bottoms)
    kernel, stride = spatial_pair(param, "kernel", 0), spatial_pair(param, "stride", 1)
    pad, dilation = spatial_pair(param, "pad", 0), spatial_pair(param, "dilation", 1)
    tops = []
    for bottom in bottoms:
        n, _, height, width = _need_image(bottom)
        out = [
            st * (s - 1) + d * (k - 1) + 1 - 2 * p
            for s, k, st, p, d in zip((height, width), kernel, stride, pad, dilation)
        ]
        tops.append((n, _outputs(param.num_output), *out))
    return tops


def _pooling(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.pooling_param
    n, channels, height, width = _need_image(bottoms[0])
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
    return [bottoms[0][:axis] + (_outputs(param.num_output),)]


def canonical_axis(axis: int, shape: Shape) -> int:
    """Axis counted from the front; Caffe allows negative ones."""
    if not -len(shape) <= axis < max(1, len(shape)):
        raise NetworkError(f"axis {axis} is outside the {len(shape)} axes of {shape}")
    return axis + len(shape) if axis < 0 else axis


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
    middle = [shape[first + i] if d == 0 else d for i, d in enumerate(_dims(param.shape))]
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
    return [bottoms[0] + (_outputs(layer.embed_param.num_output),)]


def _batch_reindex(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    return [(bottoms[1][0],) + bottoms[0][1:]]


def _input(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    shapes = [_dims(s) for s in layer.input_param.shape]
    if len(shapes) == 1:
        shapes = shapes * len(layer.top)
    if len(shapes) != len(layer.top):
        raise NetworkError(f"{len(layer.top)} tops, but {len(shapes)} shapes in input_param")
    return shapes


def _dummy(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    param = layer.dummy_data_param
    shapes = [_dims(s) for s in param.shape]
    if not shapes:
        shapes = [tuple(int(v) for v in d) for d in zip(param.num, param.channels, param.height, param.width)]
    return shapes * len(layer.top) if len(shapes) == 1 else shapes


def _tile(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    axis, shape = canonical_axis(layer.tile_param.axis, bottoms[0]), bottoms[0]
    return [shape[:axis] + (shape[axis] * int(layer.tile_param.tiles),) + shape[axis + 1 :]]


def _spp(layer: Any, bottoms: list[Shape]) -> list[Shape]:
    n, channels, _, _ = _need_image(bottoms[0])
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
    return [_dims(layer.parameter_param.shape)]


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
    "Deconvolution": _deconvolution,
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

#: Layers that bring images from outside; their shapes come from the LMDB, the command line, or ``input_param``.
DATA_TYPES: frozenset[str] = frozenset({"Data", "ImageData", "HDF5Data", "MemoryData", "WindowData", "AnnotatedData"})

#: Every type that BVLC Caffe has.
KNOWN_TYPES = frozenset(SHAPE_RULES) | DATA_TYPES - {"AnnotatedData"}

#: Those that never have weights, so that two of them may share a name.
WEIGHTLESS = KNOWN_TYPES - {
    "Convolution", "Deconvolution", "InnerProduct", "BatchNorm", "Scale", "Bias", "PReLU", "Embed", "LSTM", "RNN", "Parameter",
    "Python",
}  # fmt: skip


def brings_data(kind: str) -> bool:
    """Whether a layer of this type brings images in: an Input layer, or one that reads a data source."""
    return kind == "Input" or kind in DATA_TYPES
