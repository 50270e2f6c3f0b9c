"""Sizes along axes: windows of convolution and pooling, axes, limits of Caffe's blobs."""

from __future__ import annotations

import math
from typing import Any

from enc_caffe.errors import NetworkError

Shape = tuple[int, ...]
#: Shape of a blob that a layer of unknown type made, or one that reads such a blob.
UNKNOWN: Shape = (-1,)
#: Values that a blob may have at most (``Blob::Reshape`` of Caffe counts with int).
MAX_COUNT = 2**31 - 1
#: Axes that a blob may have at most (``kMaxBlobAxes`` of Caffe).
MAX_AXES = 32


def count(shape: Shape) -> int:
    """Number of elements of a blob; an empty shape is a scalar."""
    return math.prod(shape)


def shape_dims(shape: Any) -> Shape:
    """Tuple of a BlobShape message; how large its values are, the caller checks.

    Raises
    ------
    NetworkError
        For more axes than Caffe takes.
    """
    if len(shape.dim) > MAX_AXES:
        raise NetworkError(f"a shape has {len(shape.dim)} axes; Caffe takes at most {MAX_AXES}")
    return tuple(int(d) for d in shape.dim)


def check_outputs(number: int) -> int:
    """``num_output`` as it is; :class:`NetworkError` below 1."""
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

    Raises
    ------
    NetworkError
        For both forms at once, on which Caffe aborts, and for more than two values.
    """
    field = "kernel_size" if name == "kernel" else name
    known = param.DESCRIPTOR.fields_by_name
    if f"{name}_h" in known and (param.HasField(f"{name}_h") or param.HasField(f"{name}_w")):
        if param.HasField(field) if known[field].has_presence else getattr(param, field):
            raise NetworkError(f"has {field}, and {name}_h or {name}_w as well; Caffe takes one of them")
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


def need_image(shape: Shape) -> tuple[int, int, int, int]:
    """A shape of four axes (N, C, H, W); :class:`NetworkError` for another number of them."""
    if len(shape) != 4:
        raise NetworkError(f"the input has {len(shape)} axes {shape}; 4 are needed (N, C, H, W)")
    return shape  # type: ignore[return-value]


def canonical_axis(axis: int, shape: Shape) -> int:
    """Axis counted from the front; Caffe allows negative ones."""
    if not -len(shape) <= axis < max(1, len(shape)):
        raise NetworkError(f"axis {axis} is outside the {len(shape)} axes of {shape}")
    return axis + len(shape) if axis < 0 else axis
