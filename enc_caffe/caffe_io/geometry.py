"""A convolution's geometry written as a person writes it: one value where height and width agree.

It is not for beauty alone: converters of Caffe files (ncnn, MNN, OpenVINO) read one ``dilation`` and take the second of two for
nothing, or for both axes.
"""

from __future__ import annotations

from typing import Any

from enc_caffe.network import Convolution

_FIELDS = (
    "kernel_size", "kernel_h", "kernel_w", "pad", "pad_h", "pad_w", "stride", "stride_h", "stride_w", "dilation", "group", "bias_term",
)  # fmt: skip


def write_geometry(param: Any, conv: Convolution) -> None:
    """Let a ConvolutionParameter say what a convolution is; what it does not say (fillers, engine) stays.

    Parameters
    ----------
    param : ConvolutionParameter
    conv : Convolution
    """
    for field in _FIELDS:
        param.ClearField(field)
    param.num_output = conv.num_output
    _write(param, "kernel_size", "kernel", conv.kernel)
    # Converters round up where a layer with a stride says no pad, as for a pooling.
    if conv.pad != (0, 0) or conv.stride != (1, 1):
        _write(param, "pad", "pad", conv.pad)
    if conv.stride != (1, 1):
        _write(param, "stride", "stride", conv.stride)
    dilation = one_dilation(conv)
    if dilation != (1, 1):
        param.dilation[:] = dilation[:1] if dilation[0] == dilation[1] else dilation
    if conv.groups != 1:
        param.group = conv.groups
    if not conv.bias:
        param.bias_term = False
        param.ClearField("bias_filler")


def one_dilation(conv: Convolution) -> tuple[int, int]:
    """Dilation of a convolution, the same in both axes where it can be: along an axis of kernel 1 it does nothing."""
    height, width = conv.dilation
    if conv.kernel == (1, 1):
        return 1, 1
    if conv.kernel[0] == 1:
        return width, width
    return (height, height) if conv.kernel[1] == 1 else (height, width)


def _write(param: Any, short: str, axes: str, pair: tuple[int, int]) -> None:
    if pair[0] == pair[1]:
        getattr(param, short)[:] = pair[:1]
        return
    setattr(param, f"{axes}_h", pair[0])
    setattr(param, f"{axes}_w", pair[1])
