"""Small networks that a layer is timed in: after a convolution that makes its input, and before poolings that read its output.

So the layer reads and writes blobs in the layout that the runtime has inside of a network, and what follows it in place (BatchNorm,
Scale, ReLU) is folded or fused as there. The same network without the layer is timed beside it, and subtracted.

A small layer stands there several times, each with its own weights, after the layer whole, which both networks have. In a network
another layer of its kind has just run: the code and the memory of blobs are next to the processor, and its weights are not. Alone, a
layer of 35 us in ncnn took 60 to 100 for the blobs alone. And the rest of a context is the larger part of it: of 230 us in ncnn, give or
take 20 from round to round, and 7% from one load of the network to the next. So many of a layer share in that.
"""

from __future__ import annotations

import functools
from fractions import Fraction
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from enc_caffe.caffe_io.blobs import needed_blobs
from enc_caffe.caffe_io.caffemodel import layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe, selected
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.inference import for_inference, without_phases
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import NetworkError
from enc_caffe.files.output import atomic_file
from enc_caffe.form import WHOLE, Form
from enc_caffe.network import Layer, Network
from enc_caffe.runtimes.process import Model
from enc_caffe.shapes import UNKNOWN

#: Types that runtimes fold into the layer before them, or fuse with it.
FOLLOWERS = ("BatchNorm", "Scale", "Bias", "ReLU", "PReLU")
#: Channels of a context's input: few, so that making the layer's input costs little.
CHANNELS = 4
#: How often a layer of fewer MACs stands in its context; from the last on once.
COPIES = ((1 << 22, 6), (1 << 25, 3))
_OWN = ("context_in", "context_out", "context_whole")


def followers(net: Any, layer: Layer) -> list[Any]:
    """LayerParameters that follow a layer in place, before anything else reads its output."""
    found, behind = [], False
    for param in selected(net):
        if param.name == layer.name:
            behind = True
        elif behind and layer.tops[0] in param.bottom:
            if list(param.bottom) != list(param.top) or param.type not in FOLLOWERS:
                break
            found.append(param)
    return found


def copies_of(layer: Layer, items: int) -> int:
    """How often a layer stands in its context: once where it takes so long that what is around it counts little."""
    macs = form_cost(layer, WHOLE)[0] / layer.repeats * items
    return next((copies for limit, copies in COPIES if macs < limit), 1)


def context(net: Any, layer: Layer, form: Form, items: int, placement: str = "exact") -> Any:
    """A deploy NetParameter of a layer in a form, between its neighbours, :func:`copies_of` times.

    Parameters
    ----------
    items : int
        Images of a pass, or regions or steps where the layer runs on these.
    """
    copies = copies_of(layer, items)
    out = _before(layer.bottom_shapes[0], items)
    names = [layer.name if copies == 1 else f"{layer.name}_{at}" for at in range(copies)]
    if copies > 1:
        _append(out, net, layer, _OWN[2])
        _after(out, _OWN[2], layer.top_shapes[0])
    for name in names:
        _append(out, net, layer, name)
        _after(out, name, layer.top_shapes[0])
    if form != WHOLE:
        described = describe(out, None, f"layer '{layer.name}'")
        out = replace_layers(out, described, dict.fromkeys(names, form), placement)
    return for_inference(out)


def without(net: Any, layer: Layer, items: int) -> list[Any]:
    """The contexts without the layer: where it stands there once, one of its input's shape and one of its output's, if they differ."""
    copies = copies_of(layer, items)
    if copies == 1:
        ends = [layer.bottom_shapes[0]]
        if len(layer.top_shapes[0]) == len(ends[0]) and layer.top_shapes[0] != ends[0]:
            ends.append(layer.top_shapes[0])
        return [empty(shape, items) for shape in ends]
    out = _before(layer.bottom_shapes[0], items)
    _append(out, net, layer, _OWN[2])
    for _ in range(copies + 1):
        _after(out, _OWN[2], layer.top_shapes[0])
    return [for_inference(out)]


def empty(shape: Sequence[int], items: int) -> Any:
    """The context of a blob without a layer."""
    out = _before(shape, items)
    _after(out, _OWN[0], shape)
    return out


def _before(shape: Sequence[int], items: int) -> Any:
    out = caffe_pb2().NetParameter(name="context")
    spatial = list(shape[2:])
    source = out.layer.add(name="data", type="Input", top=["data"])
    source.input_param.shape.add(dim=[items, CHANNELS, *spatial])
    maker = out.layer.add(name=_OWN[0], bottom=["data"], top=[_OWN[0]])
    if spatial:
        maker.type = "Convolution"
        maker.convolution_param.num_output = shape[1]
        maker.convolution_param.kernel_size.append(1)
    else:
        maker.type = "InnerProduct"
        maker.inner_product_param.num_output = shape[1]
    return out


def _append(out: Any, net: Any, layer: Layer, name: str) -> None:
    """A layer with what follows it, under a name."""
    first = next(p for p in net.layer if p.name == layer.name)
    for at, param in enumerate([first, *followers(net, layer)]):
        copy = out.layer.add()
        copy.CopyFrom(param)
        # The user's text has other bottoms.
        copy.DiscardUnknownFields()
        without_phases(copy)
        copy.name = name if at == 0 else f"{name}_{param.name}" if name != layer.name else param.name
        copy.bottom[:], copy.top[:] = [_OWN[0] if at == 0 else name], [name]


def _after(out: Any, bottom: str, shape: Sequence[int]) -> None:
    if len(shape) == 4:
        number = sum(x.type == "Pooling" and x.name.startswith(_OWN[1]) for x in out.layer)
        name = f"{_OWN[1]}_{number}" if number else _OWN[1]
        reader = out.layer.add(name=name, type="Pooling", bottom=[bottom], top=[name])
        reader.pooling_param.pool = reader.pooling_param.AVE
        reader.pooling_param.global_pooling = True


def whole_network(net: Any, network: Network, forms: Mapping[str, Form], batch: int, placement: str = "exact") -> Any:
    """The deploy NetParameter of a network with the layers of a plan replaced."""
    out = replace_layers(net, network, forms, placement)
    described = describe(out, None, f"network '{network.name}'", network.data_shapes)
    return with_batch(for_inference(deploy_net(out, described, batch)), batch, network)


def with_batch(net: Any, batch: int, network: Network) -> Any:
    """The same deploy NetParameter, its inputs of so many images: of an input of regions, as many as these have in the network.

    Raises
    ------
    NetworkError
        If the first axis of its inputs may be time, and it is written for another number of images.
    """
    if any(layer.type in ("LSTM", "RNN") for layer in net.layer):
        if network.images not in (0, batch):
            raise NetworkError(
                f"network '{network.name}' has recurrent layers, whose inputs have time first, and is written for passes of {network.images} "
                f"images: it is timed as it is written, by --batch {network.images}"
            )
        return net
    for layer in net.layer:
        if layer.type == "Input":
            for top, shape in zip(layer.top, layer.input_param.shape):
                written = network.data_shapes.get(top, UNKNOWN)
                each = Fraction(written[0], network.images) if written and network.images else 1
                shape.dim[0] = max(1, round(batch * each))
                # The text of the prototxt says another batch.
                layer.DiscardUnknownFields()
    return net


def random_model(net: Any, folder: Path, name: str) -> Model:
    """Write a deploy network with random weights; what passes through keeps its scale.

    Raises
    ------
    NetworkError
        If it has a layer whose weights' shapes are not known, such as a fork's.
    """
    network = describe(net, None, f"network '{net.name}'")
    needed = needed_blobs(net, network)
    prototxt, caffemodel = folder / f"{name}.prototxt", folder / f"{name}.caffemodel"
    for layer in network.layers:
        if layer.name not in needed:
            fork = "" if layer.type in caffe_types() else " (stock Caffe has no such type)"
            raise NetworkError(
                f"layer '{layer.name}' ({layer.type}): the shapes of its weights are not known{fork}, so no network with random "
                "weights can be made to time it in"
            )
    prototxt.write_text(to_text(net), encoding="utf-8")
    rng = np.random.default_rng(0)
    with atomic_file(caffemodel) as handle:
        write_caffemodel(
            handle, network.name,
            (layer_record(x.name, x.type, _weights(rng, x.type, needed[x.name])) for x in network.layers if needed[x.name]),
        )  # fmt: skip
    shapes = {n: s for n, s in network.data_shapes.items() if n in network.inputs}
    return Model(prototxt, caffemodel, shapes or network.data_shapes)


def _weights(rng: np.random.Generator, kind: str, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
    if kind == "BatchNorm":
        return [np.zeros(shapes[0], np.float32), np.ones(shapes[1], np.float32), np.ones(1, np.float32)]
    if kind in ("Scale", "PReLU"):
        return [np.full(s, v, np.float32) for s, v in zip(shapes, (1.0 if kind == "Scale" else 0.25, 0.0))]
    return [_drawn(rng, tuple(s)) for s in shapes]


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    if len(shape) < 2:
        return np.zeros(shape, np.float32)
    # Time does not depend on the values: of many a part is drawn, and repeated.
    size, block = int(np.prod(shape)), _block(int(rng.integers(1 << 30)))
    return np.resize(block[: min(size, len(block))], shape) * np.float32(np.sqrt(2 / np.prod(shape[1:])))


@functools.lru_cache(maxsize=1)
def _numbers() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 20, np.float32)


def _block(shift: int) -> np.ndarray:
    return np.roll(_numbers(), shift)
