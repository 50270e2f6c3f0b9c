"""Emission: a network's NetParameter and caffemodel with the layers of a plan replaced by their chains."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Optional, Sequence, Union

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.decomposition import chain_of, scheme_for
from enc_caffe.errors import PlanError
from enc_caffe.form import Form, Stage
from enc_caffe.network import Layer, Network
from enc_caffe.output import atomic_file

Progress = Callable[[str], None]
Blobs = Mapping[str, Sequence[np.ndarray]]
NONE: Blobs = {}


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
        for stage in stages:
            if param.name + stage.suffix in taken:
                raise PlanError(
                    f"layer '{param.name}': the name '{param.name + stage.suffix}' of its new layer is taken already"
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
    into.name = original.name + stage.suffix
    del into.blobs[:]
    for spec in into.param:
        # A name that no other layer has would make the stages share one weight.
        spec.ClearField("name")
    if stage.convolution is not None:
        conv, param = stage.convolution, into.convolution_param
        for field in (
            "kernel_size", "kernel_h", "kernel_w", "pad", "pad_h", "pad_w", "stride", "stride_h", "stride_w", "dilation",
            "group", "bias_term",
        ):  # fmt: skip
            param.ClearField(field)
        param.num_output = conv.num_output
        _set_pair(param, "kernel", conv.kernel, None)
        _set_pair(param, "pad", conv.pad, 0)
        _set_pair(param, "stride", conv.stride, 1)
        if conv.dilation != (1, 1):
            param.dilation[:] = conv.dilation[:1] if conv.dilation[0] == conv.dilation[1] else conv.dilation
        if conv.groups != 1:
            param.group = conv.groups
        if not conv.bias:
            param.bias_term = False
            param.ClearField("bias_filler")
    elif stage.inner_product is not None:
        param = into.inner_product_param
        param.num_output = stage.inner_product.num_output
        param.ClearField("transpose")
        if not stage.inner_product.bias:
            param.bias_term = False
            param.ClearField("bias_filler")
    return into


def _set_pair(param: Any, name: str, pair: tuple[int, int], default: Optional[int]) -> None:
    if pair == (default, default):
        return
    setattr(param, f"{name}_h", pair[0])
    setattr(param, f"{name}_w", pair[1])


def chain_blobs(
    layer: Layer, form: Form, arrays: Sequence[np.ndarray], factors: Optional[Sequence[np.ndarray]] = None
) -> dict[str, list[np.ndarray]]:
    """Blobs of a chain's layers by name: the factors (of plain SVD without any given), and the bias with the last.

    Parameters
    ----------
    arrays : sequence of ndarray
        Weight and, where there is one, bias of the original layer.
    """
    if factors is None:
        factors = scheme_for(form.scheme).factorise(layer, arrays[0], form)
    names = [layer.name + stage.suffix for stage in chain_of(layer, form).stages]
    blobs = {name: [factor] for name, factor in zip(names, factors)}
    blobs[names[-1]] += arrays[1:]
    return blobs


def compressed_records(
    model: CaffeModel,
    network: Network,
    forms: Mapping[str, Form],
    progress: Progress,
    blobs: Blobs = NONE,
) -> Iterator[Union[bytes, memoryview]]:
    """LayerParameter records of the compressed network, one at a time; untouched layers byte for byte."""
    for stored in model:
        if stored.name in forms:
            layer, form = network[stored.name], forms[stored.name]
            names = [layer.name + stage.suffix for stage in chain_of(layer, form).stages]
            arrays = model.weights(layer)
            own = blobs if names[0] in blobs else chain_blobs(layer, form, arrays)
            progress(layer.name)
            for name in names:
                yield layer_record(name, layer.type, own[name])
        elif stored.name in blobs:
            shaped = [np.reshape(b, s.shape) for b, s in zip(blobs[stored.name], stored.blobs)]
            yield layer_record(stored.name, network[stored.name].type, shaped)
        else:
            yield model.record(stored)


def write_compressed(
    path: Path,
    model: CaffeModel,
    network: Network,
    forms: Mapping[str, Form],
    progress: Progress = lambda name: None,
    blobs: Blobs = NONE,
) -> None:
    """Write the compressed caffemodel, whole or not at all.

    Parameters
    ----------
    blobs : mapping of layer to arrays
        Weights by layer of the compressed network, where they are not what SVD of the original's or the original has.
    """
    for name in forms:
        if name not in model.layers:
            model.weights(network[name])  # raises, naming the layer
    with atomic_file(Path(path)) as handle:
        write_caffemodel(handle, network.name, compressed_records(model, network, forms, progress, blobs))
