"""Layers that go on in tests as in training, since they say ``phase: TRAIN`` themselves, as files that pycaffe wrote do.

Stock Caffe gives a layer the phase of its net only where the layer has none of its own (``Net::Init``).
"""

from __future__ import annotations

from typing import Any

from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import NetworkError


def by_batch(layer: Any) -> bool:
    """Whether a BatchNorm of the TEST phase normalises by the images of each pass, not by the statistics that it keeps."""
    if layer.type != "BatchNorm":
        return False
    own = layer.batch_norm_param
    return not own.use_global_stats if own.HasField("use_global_stats") else _trains(layer)


def at_random(layer: Any) -> bool:
    """Whether a Dropout of the TEST phase drops values at random."""
    return layer.type == "Dropout" and layer.dropout_param.dropout_ratio > 0 and _trains(layer)


def _trains(layer: Any) -> bool:
    return layer.HasField("phase") and layer.phase == caffe_pb2().TRAIN


def training_lines(net: Any) -> list[str]:
    """A line for the layers of the TEST phase that drop values at random, and one for those that normalise by the batch, because of their own
    ``phase: TRAIN``."""
    layers = [layer for layer in selected(net) if _trains(layer)]
    kinds = (
        (at_random, "drops values at random in every pass, so no two runs give the same result"),
        (by_batch, "normalises by the images of each pass, not by the mean and variance that it keeps"),
    )
    found = [([layer for layer in layers if holds(layer)], what) for holds, what in kinds]
    return [f"{_named(those)}: in tests too it {what}; {_REMEDY}" for those, what in found if those]


def check_repeatable(net: Any, source: str) -> None:
    """Raise NetworkError where two passes of the same images would differ."""
    random = [layer for layer in selected(net) if at_random(layer)]
    if random:
        raise NetworkError(
            f"{source}: {_named(random)}: it drops values at random in every pass, and measurements must repeat; {_REMEDY}"
        )


_REMEDY = "take the field 'phase' out of the layer, which then has the phase of its net"


def _named(layers: list[Any]) -> str:
    more = f" (and {len(layers) - 1} more)" if len(layers) > 1 else ""
    return f"layer '{layers[0].name}' ({layers[0].type}){more} has a phase: TRAIN of its own"
