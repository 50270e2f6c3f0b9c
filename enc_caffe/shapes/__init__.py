"""Caffe's output-size arithmetic, and which layer types there are."""

from __future__ import annotations

from enc_caffe.shapes.forks import FORK_RULES, FORK_WEIGHTED
from enc_caffe.shapes.rules import SHAPE_RULES
from enc_caffe.shapes.sizes import (
    MAX_COUNT,
    UNKNOWN,
    Shape,
    canonical_axis,
    conv_output,
    count,
    pool_output,
    spatial_pair,
)

__all__ = [
    "DATA_TYPES", "FORK_RULES", "FORK_WEIGHTED", "KNOWN_TYPES", "MAP_LABELS", "MAX_COUNT", "SHAPE_RULES", "UNKNOWN", "WEIGHTLESS", "Shape", "brings_data", "canonical_axis",
    "conv_output", "count", "pool_output", "spatial_pair",
]  # fmt: skip

#: Those of forks: SSD, DeepLab, SegNet, OpenPose, CRNN and others. A label of theirs may be a map, or a list of any length.
_FORK_DATA = frozenset(
    {"AnnotatedData", "ImageSegData", "WindowSegData", "DenseImageData", "CPMData", "VideoData", "ImageDataMultiLabel", "MultiImageData",
     "CustomData", "ReidData", "TripletData", "BoxData", "CPMBottomUpData"}
)  # fmt: skip

#: Those whose labels are maps of the images' places.
MAP_LABELS = frozenset({"ImageSegData", "WindowSegData", "DenseImageData"})

#: Layers that bring images from outside; their shapes come from the LMDB, the command line, or ``input_param``.
DATA_TYPES: frozenset[str] = frozenset({"Data", "ImageData", "HDF5Data", "MemoryData", "WindowData"}) | _FORK_DATA

#: Every type that BVLC Caffe has.
KNOWN_TYPES = frozenset(SHAPE_RULES) | DATA_TYPES - _FORK_DATA

#: Those that never have weights, so that two of them may share a name.
WEIGHTLESS = KNOWN_TYPES - {
    "Convolution", "Deconvolution", "InnerProduct", "BatchNorm", "Scale", "Bias", "PReLU", "Embed", "LSTM", "RNN", "Parameter",
    "Python",
}  # fmt: skip


def brings_data(kind: str) -> bool:
    """Whether a layer of this type brings images in: an Input layer, or one that reads a data source."""
    return kind == "Input" or kind in DATA_TYPES
