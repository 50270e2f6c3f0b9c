"""Layers that do in the TRAIN phase, which trains others, what they do in the TEST phase."""

from __future__ import annotations

from typing import Any


def passes(layer: Any) -> bool:
    """Whether a layer does nothing in the TEST phase, in place: it is left out. (Caffe's Power layer, which can do nothing too, gives its
    gradient as 1 where it works in place.)"""
    return layer.type == "Dropout" and list(layer.top) == list(layer.bottom)


def as_in_test(layer: Any) -> None:
    """Make a layer do in a solver's net, which is of the TRAIN phase, what it does in the TEST phase."""
    if layer.type == "Dropout":
        layer.type = "Power"
        layer.ClearField("dropout_param")
    elif layer.type == "BatchNorm":
        layer.batch_norm_param.use_global_stats = True
