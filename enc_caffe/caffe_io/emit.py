"""Emission: a network's NetParameter and caffemodel with the layers of a plan replaced by their pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence, Union

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel, Record, kept_record, layer_record, write_caffemodel
from enc_caffe.caffe_io.geometry import write_geometry
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.decomposition import Stage, scheme_for
from enc_caffe.errors import PlanError
from enc_caffe.network import Network
from enc_caffe.output import atomic_file
from enc_caffe.shapes import Shape

Progress = Callable[[str], None]
Blobs = Mapping[str, Sequence[np.ndarray]]
NONE: Blobs = {}
NO_SHAPES: Mapping[str, Sequence[Shape]] = {}


def replace_layers(
    net: Any, network: Network, ranks: Mapping[str, int], schemes: Mapping[str, str], placement: str = "exact"
) -> Any:
    """A copy of the NetParameter in which every layer of the plan is its pair; all else is kept, in order.

    Parameters
    ----------
    ranks, schemes : mapping of layer name to rank of one group, and to scheme name
    placement : {'exact', 'published'}

    Raises
    ------
    PlanError
        If the name of a new layer or blob is taken already.
    """
    taken = {layer.name for layer in net.layer} | {top for layer in net.layer for top in layer.top}
    out = caffe_pb2().NetParameter()
    out.CopyFrom(net)
    del out.layer[:]
    for param in net.layer:
        if param.name not in ranks:
            out.layer.add().CopyFrom(param)
            continue
        layer, scheme = network[param.name], scheme_for(schemes[param.name])
        for suffix in ("_v", "_h"):
            new = param.name + suffix
            if new in taken:
                raise PlanError(f"layer '{param.name}': the name '{new}' of its new layer is taken already")
        first, second = scheme.stages(layer, ranks[param.name], placement)
        blob = param.name + first.suffix
        head = _stage_param(out.layer.add(), param, first)
        head.top[:] = [blob]
        del head.param[1:]
        del head.loss_weight[:]
        tail = _stage_param(out.layer.add(), param, second)
        tail.bottom[:] = [blob]
        del tail.propagate_down[:]
    return out


def _stage_param(into: Any, original: Any, stage: Stage) -> Any:
    into.CopyFrom(original)
    # The original's text says what the pair is not.
    into.DiscardUnknownFields()
    into.name = original.name + stage.suffix
    del into.blobs[:]
    for spec in into.param:
        # A name that no other layer has would make the two halves share one weight.
        spec.ClearField("name")
    if stage.convolution is not None:
        write_geometry(into.convolution_param, stage.convolution)
    elif stage.inner_product is not None:
        param = into.inner_product_param
        param.num_output = stage.inner_product.num_output
        param.ClearField("transpose")
        if not stage.inner_product.bias:
            param.bias_term = False
            param.ClearField("bias_filler")
    return into


def compressed_records(
    model: CaffeModel,
    network: Network,
    ranks: Mapping[str, int],
    schemes: Mapping[str, str],
    progress: Progress,
    blobs: Blobs = NONE,
    needed: Mapping[str, Sequence[Shape]] = NO_SHAPES,
) -> Iterator[Union[bytes, Record]]:
    """LayerParameter records of the compressed network, one at a time; untouched layers byte for byte.

    ``needed`` are the shapes that Caffe gives a kept layer's blobs, where they are known.
    """
    for stored in model:
        if stored.name in ranks:
            layer = network[stored.name]
            first, second = layer.name + "_v", layer.name + "_h"
            arrays = model.weights(layer)
            if first not in blobs:
                factors = scheme_for(schemes[layer.name]).factorise(layer, arrays[0], ranks[layer.name])
                pair = [[factors.first], [factors.second, *arrays[1:]]]
            else:
                pair = [list(blobs[first]), list(blobs[second])]
            progress(layer.name)
            yield layer_record(first, layer.type, pair[0])
            yield layer_record(second, layer.type, pair[1])
        elif stored.name in blobs:
            yield kept_record(model, stored, network[stored.name].type, needed.get(stored.name), blobs[stored.name])
        else:
            kind = network[stored.name].type if stored.name in network else ""
            yield kept_record(model, stored, kind, needed.get(stored.name))


def write_compressed(
    path: Path,
    model: CaffeModel,
    network: Network,
    ranks: Mapping[str, int],
    schemes: Mapping[str, str],
    progress: Progress = lambda name: None,
    blobs: Blobs = NONE,
    needed: Mapping[str, Sequence[Shape]] = NO_SHAPES,
) -> None:
    """Write the compressed caffemodel, whole or not at all.

    Parameters
    ----------
    blobs : mapping of layer to arrays
        Weights by layer of the compressed network, where they are not what SVD of the original's or the original has.
    needed : mapping of layer to shapes
        What Caffe gives the blobs of layers that are kept (:func:`enc_caffe.caffe_io.blobs.needed_blobs`).
    """
    for name in ranks:
        if name not in model.layers:
            model.weights(network[name])  # raises, naming the layer
    with atomic_file(Path(path)) as handle:
        write_caffemodel(
            handle, network.name, compressed_records(model, network, ranks, schemes, progress, blobs, needed)
        )
