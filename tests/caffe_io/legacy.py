"""Caffemodels as they were written in 2013 to 2015, by Caffe's own messages: V0, V1, and blobs of four dimensions."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np

from enc_caffe.caffe_io.proto import caffe_pb2

_V0_TYPES = {"Convolution": "conv", "InnerProduct": "innerproduct"}
FORMS = ("V0", "V1", "four dimensions")


def write_legacy(path: Path, form: str, layers: dict[str, tuple[str, Sequence[np.ndarray]]]) -> Path:
    """A caffemodel of layers (type, blobs) by name; every blob has num, channels, height and width, and no shape."""
    net = caffe_pb2().NetParameter(name="old")
    blob = "data"
    if form == "V0":
        net.input.append(blob)
        net.input_dim.extend([1, 3, 8, 8])
    for name, (kind, arrays) in layers.items():
        if form == "V0":
            layer = net.layers.add(bottom=[blob], top=[name]).layer
            layer.name, layer.type, blob = name, _V0_TYPES[kind], name
        elif form == "V1":
            layer = net.layers.add(name=name)
        else:
            layer = net.layer.add(name=name, type=kind)
        for array in arrays:
            num, channels, height, width = (1,) * (4 - array.ndim) + array.shape
            layer.blobs.add(num=num, channels=channels, height=height, width=width, data=array.reshape(-1).tolist())
    path.write_bytes(net.SerializeToString())
    return path
