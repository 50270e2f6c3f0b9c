"""Windows of large images: a fit of all layers together sees a part of each image at a time, and three times as many of them.

What layers compute at one place depends on what is near it alone, as long as all of them are local. So a part of an image says as much of its
places as the whole one, and neighbouring places say nearly the same: parts of more images, or more parts, teach more for the same
multiply-adds.
"""

from __future__ import annotations

from typing import Any, Iterable, Optional

from enc_caffe.caffe_io.as_test import passes
from enc_caffe.network import Layer, Network
from enc_caffe.shapes import Shape
from enc_caffe.shapes.sizes import spatial_pair

#: Part of an image's rows, and of its columns, that a window has, nearly: a third of its area.
PART = 0.577
#: Rows or columns that an image has at least, and positions that are left of a window where strides are through.
LEAST, POSITIONS = 128, 4
#: Layers whose outputs depend on what is near alone.
LOCAL = frozenset({
    "Input", "Convolution", "Pooling", "LRN", "BatchNorm", "Scale", "Bias", "Eltwise", "Concat", "Split", "Dropout", "Power", "ReLU", "PReLU",
    "ELU", "BNLL", "Sigmoid", "TanH", "AbsVal", "Exp", "Log", "Swish", "Clip",
})  # fmt: skip


def window_of(nets: Iterable[tuple[Any, Network]], shape: Shape, last: str) -> tuple[int, ...]:
    """Rows and columns of a window; none where images are small or a layer up to a blob is not local.

    A window has as many rows less than an image as the strides of a multiple of all layers take, so that every layer rounds as it does
    for whole images.

    Parameters
    ----------
    nets : iterable of (NetParameter, Network)
        In the TEST phase, and what describes it; all of them have the blob.
    shape : (C, H, W)
        Of an image.
    last : str
        The blob.
    """
    if len(shape) != 3 or min(shape[1:]) < LEAST:
        return ()
    strides = [_strides(net, network, last) for net, network in nets]
    found = []
    for side, own in zip(shape[1:], zip(*[s or (0, 0) for s in strides])):
        stride = max(own)
        if min(own) == 0 or any(stride % s for s in own):
            return ()
        size = side - stride * round((1.0 - PART) * side / stride)
        if not stride * POSITIONS <= size < side:
            return ()
        found.append(size)
    return tuple(found)


def _strides(net: Any, network: Network, last: str) -> Optional[tuple[int, int]]:
    """Product of the strides along rows and columns up to a blob; None where a layer is not local or joins blobs of different strides."""
    until = max(at for at, param in enumerate(net.layer) if last in param.top)
    known: dict[str, tuple[int, int]] = {}
    inputs = 0
    for param in net.layer[: until + 1]:
        if passes(param):
            continue
        if not _local(param, network[param.name]):
            return None
        before = {known[blob] for blob in param.bottom}
        inputs += len(param.top) if param.type == "Input" else 0
        if len(before) > 1 or inputs > 1:
            return None
        down, right = before.pop() if before else (1, 1)
        if param.type in ("Convolution", "Pooling"):
            own = param.convolution_param if param.type == "Convolution" else param.pooling_param
            rows, columns = spatial_pair(own, "stride", 1)
            down, right = down * rows, right * columns
        known.update(dict.fromkeys(param.top, (down, right)))
    return known[last]


def _local(param: Any, layer: Layer) -> bool:
    """Whether what a layer computes at a place depends on what is near. A kernel that covers more than half of its blob is global in all but
    name, and may be larger than what is left of a window."""
    if param.type not in LOCAL:
        return False
    if param.type in ("Scale", "Bias"):
        own = param.scale_param if param.type == "Scale" else param.bias_param
        return bool(own.axis == 1 and own.num_axes == 1)
    if param.type not in ("Convolution", "Pooling"):
        return True
    own = param.convolution_param if param.type == "Convolution" else param.pooling_param
    if param.type == "Pooling" and own.global_pooling:
        return False
    dilation = spatial_pair(own, "dilation", 1) if param.type == "Convolution" else (1, 1)
    extents = (d * (size - 1) + 1 for d, size in zip(dilation, spatial_pair(own, "kernel", 1)))
    shape = layer.bottom_shapes[0]
    return len(shape) == 4 and all(2 * extent <= side for extent, side in zip(extents, shape[2:]))
