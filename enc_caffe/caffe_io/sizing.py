"""A network with its shapes, sizes of images taken from wherever they are known: the user, an LMDB, the network's own sources."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional

from enc_caffe.caffe_io.datasource import hdf5_tops, lmdb_of
from enc_caffe.caffe_io.describe import data_layers, data_tops, describe
from enc_caffe.caffe_io.transform import color_of, resize_of
from enc_caffe.network import Network
from enc_caffe.shapes import Shape


def sized_network(
    net: Any, source: str, lmdb_shape: Optional[Shape] = None, input_shape: Optional[Shape] = None,
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Network:  # fmt: skip
    """A network with its shapes (:func:`enc_caffe.caffe_io.describe.describe`), sizes of images taken from wherever they are known.

    Parameters
    ----------
    lmdb_shape, input_shape : (C, H, W), optional
        What a given LMDB holds, and what the user says, which comes first.
    input_shapes : mapping of top to full shape, optional
        What the user says of single tops.
    """
    image = image_shape(net, lmdb_shape, input_shape)
    others = _other_shapes(net, source, input_shapes or {}, image is not None)
    network = describe(net, image, source, {**others, **(input_shapes or {})})
    # Caffe gives a network without a name none; people know it by its file.
    return network if network.name else replace(network, name=Path(source).stem)


def image_shape(net: Any, lmdb_shape: Optional[Shape], input_shape: Optional[Shape]) -> Optional[Shape]:
    """(C, H, W) of the images: what the user says, else what the LMDB holds, else what the first source there is holds."""
    if input_shape is not None or lmdb_shape is not None:
        return input_shape or lmdb_shape
    return next((shape for shape in map(_source_shape, data_layers(net)) if shape is not None), None)


def _source_shape(layer: Any) -> Optional[Shape]:
    lmdb = lmdb_of(layer)
    if lmdb is None:
        return None
    try:
        size = resize_of(layer)
        shape = lmdb.first_shape(color_of(layer, f"layer '{layer.name}'"))
        return (shape[0], *size) if size else shape
    finally:
        lmdb.close()


def _other_shapes(net: Any, source: str, given: Mapping[str, Shape], sized: bool) -> dict[str, Shape]:
    """Full shapes of tops of data layers whose own sources can be read, but for those that are given, and for the images where they are
    ``sized``: the first top of the first layer."""
    found: dict[str, Shape] = {}
    for at, layer in enumerate(data_layers(net)):
        own = hdf5_tops(layer)
        found.update({top: shape for top, shape in own.items() if at or not sized or top != layer.top[0]})
        if own or not at:
            continue
        shape = None if all(top in given for top in layer.top) else _source_shape(layer)
        if shape is not None:
            found.update(zip(layer.top, data_tops(layer, shape, source)))
    return found
