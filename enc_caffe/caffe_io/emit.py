"""Emission: a network's NetParameter and caffemodel with the layers of a plan replaced by their chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel, Record, kept_record, layer_record, write_caffemodel
from enc_caffe.caffe_io.geometry import write_geometry
from enc_caffe.caffe_io.narrow import Narrow
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.decomposition import chain_of
from enc_caffe.decomposition.prune import kept_channels
from enc_caffe.decomposition.widths import pruned_group, takes_channels
from enc_caffe.errors import PlanError
from enc_caffe.files.output import atomic_file
from enc_caffe.form import Form, Stage
from enc_caffe.network import Layer, Network
from enc_caffe.progress import Names, unnamed
from enc_caffe.shapes import Shape

Blobs = Mapping[str, Sequence[np.ndarray]]
NONE: Blobs = {}
NO_SHAPES: Mapping[str, Sequence[Shape]] = {}


def replace_layers(net: Any, network: Network, forms: Mapping[str, Form], placement: str = "exact") -> Any:
    """A copy of the NetParameter in which every layer of the plan is its chain; all else is kept, in order.

    Parameters
    ----------
    forms : mapping of layer name to form
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
        if param.name not in forms:
            out.layer.add().CopyFrom(param)
            continue
        stages = chain_of(network[param.name], forms[param.name], placement).stages
        if not stages[0].suffix:
            # It stays as it is but for the channels that it reads, which its prototxt does not say.
            out.layer.add().CopyFrom(param)
            continue
        for stage in stages:
            if param.name + stage.suffix in taken:
                raise PlanError(
                    f"layer '{param.name}': the name '{param.name + stage.suffix}' of its new layer is taken already; "
                    "give it another scheme, or leave it whole (--whole)"
                )
        for at, stage in enumerate(stages):
            new = _stage_param(out.layer.add(), param, stage)
            if at < len(stages) - 1:
                new.top[:] = [new.name]
                del new.param[1:]
                del new.loss_weight[:]
            if at > 0:
                new.bottom[:] = [param.name + stages[at - 1].suffix]
                del new.propagate_down[:]
    return out


def _stage_param(into: Any, original: Any, stage: Stage) -> Any:
    into.CopyFrom(original)
    # The original's text says what the pair is not.
    into.DiscardUnknownFields()
    into.name = original.name + stage.suffix
    del into.blobs[:]
    for spec in into.param:
        # A name that no other layer has would make the stages share one weight.
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


def chain_blobs(
    layer: Layer, form: Form, arrays: Sequence[np.ndarray], factors: Sequence[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """Blobs of a chain's layers by name: the factors, and the bias with the last.

    Parameters
    ----------
    arrays : sequence of ndarray
        Weight and, where there is one, bias of the original layer.
    """
    names = [layer.name + stage.suffix for stage in chain_of(layer, form).stages]
    blobs = {name: [factor] for name, factor in zip(names, factors)}
    blobs[names[-1]] += arrays[1:]
    return blobs


def plain_blobs(model: CaffeModel, layer: Layer, form: Form) -> dict[str, list[np.ndarray]]:
    """Blobs of a chain by plain SVD of the caffemodel's."""
    return chain_blobs(layer, form, model.weights(layer), model.plain(layer, form))


def narrow_of(
    model: CaffeModel, network: Network, compressed: Network, forms: Mapping[str, Form], blobs: Blobs
) -> tuple[Optional[Narrow], dict[str, Sequence[np.ndarray]]]:  # fmt: skip
    """Which channels a plan takes out of its network, and ``blobs`` with those of all layers that read fewer.

    Parameters
    ----------
    compressed : Network
        What :func:`replace_layers` made, described.

    Raises
    ------
    PlanError
        If channels cannot be taken out, and why.
    """
    known, gone = dict(blobs), set()
    for name, form in forms.items():
        if not takes_channels(form):
            continue
        layer = network[name]
        pruned_group(network, name)
        first = name + chain_of(layer, form).stages[0].suffix
        if first not in known:
            known.update(plain_blobs(model, layer, form))
        units = compressed.coupled.bottoms[first][0]
        pruned_group(compressed, first)
        assert units is not None
        gone |= set(units.tolist()) - set(units[kept_channels(layer, known[first][0], form.ranks[0])].tolist())
    return (Narrow(compressed, frozenset(gone)) if gone else None), known


def compressed_records(
    model: CaffeModel,
    network: Network,
    forms: Mapping[str, Form],
    progress: Names,
    blobs: Blobs = NONE,
    needed: Mapping[str, Sequence[Shape]] = NO_SHAPES,
    narrow: Optional[Narrow] = None,
) -> Iterator[Union[bytes, Record]]:
    """LayerParameter records of the compressed network, one at a time; untouched layers byte for byte.

    ``needed`` are the shapes that Caffe gives a kept layer's blobs, where they are known.
    """

    def lost(name: str) -> bool:
        return narrow is not None and narrow.touches(name)

    def left(name: str, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return arrays if narrow is None or not lost(name) else narrow.blobs(name, arrays)

    for stored in model:
        if stored.name in forms:
            layer, form = network[stored.name], forms[stored.name]
            names = [layer.name + stage.suffix for stage in chain_of(layer, form).stages]
            own = blobs if names[0] in blobs else plain_blobs(model, layer, form)
            progress(layer.name)
            for name in names:
                yield layer_record(name, layer.type, left(name, own[name]))
        elif lost(stored.name):
            known = blobs.get(stored.name) or [model.array(b) for b in stored.blobs]
            yield layer_record(stored.name, network[stored.name].type, left(stored.name, known))
        elif stored.name in blobs:
            yield kept_record(model, stored, network[stored.name].type, needed.get(stored.name), blobs[stored.name])
        else:
            kind = network[stored.name].type if stored.name in network else ""
            yield kept_record(model, stored, kind, needed.get(stored.name))


def write_compressed(
    path: Path,
    model: CaffeModel,
    network: Network,
    forms: Mapping[str, Form],
    progress: Names = unnamed,
    blobs: Blobs = NONE,
    needed: Mapping[str, Sequence[Shape]] = NO_SHAPES,
    narrow: Optional[Narrow] = None,
) -> None:
    """Write the compressed caffemodel, whole or not at all.

    Parameters
    ----------
    blobs : mapping of layer to arrays
        Weights by layer of the compressed network, where they are not what SVD of the original's or the original has.
    needed : mapping of layer to shapes
        What Caffe gives the blobs of layers that are kept (:func:`enc_caffe.caffe_io.blobs.needed_blobs`).
    narrow : Narrow, optional
        Channels that are taken out of what all of this gives.
    """
    for name in forms:
        if name not in model.layers:
            model.weights(network[name])  # raises, naming the layer
    with atomic_file(Path(path)) as handle:
        write_caffemodel(
            handle, network.name, compressed_records(model, network, forms, progress, blobs, needed, narrow)
        )
