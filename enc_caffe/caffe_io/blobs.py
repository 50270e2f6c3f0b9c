"""Which parameter blobs stock Caffe gives a layer, and which layers of a caffemodel it would not take for them.

Caffe aborts on a caffemodel one of whose layers has another number of blobs than the net's layer of that name, or a blob of
another shape. Source: ``LayerSetUp`` of each layer in BVLC Caffe 99bd997, ``Net::CopyTrainedLayersFrom``.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel, StoredLayer, fits
from enc_caffe.caffe_io.describe import selected
from enc_caffe.errors import NetworkError
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, WEIGHTLESS, Shape, canonical_axis, count, spatial_pair

Shapes = list[Shape]
Needed = dict[str, Shapes]


def needed_blobs(net: Any, network: Network) -> Needed:
    """Shapes of the blobs of every layer of the TEST phase whose blobs are known; none for layers without weights.

    Parameters
    ----------
    net : NetParameter
    network : Network
        Its description.
    """
    found: Needed = {}
    for param in selected(net):
        shapes = layer_blobs(param, list(network[param.name].bottom_shapes))
        if shapes is not None:
            found[param.name] = shapes
    return found


def layer_blobs(param: Any, bottoms: list[Shape]) -> Optional[Shapes]:
    """Shapes of a layer's blobs in stock Caffe; None where the type or what it depends on is not known."""
    if param.type in WEIGHTLESS:
        return []
    rule = _RULES.get(param.type)
    if rule is None or UNKNOWN in bottoms:
        return None
    try:
        return rule(param, bottoms)
    except (NetworkError, IndexError):
        # Caffe has its own words for a layer that it cannot set up.
        return None


def misfits(model: CaffeModel, needed: Needed) -> dict[str, str]:
    """What stock Caffe would abort on, or fill anew, by layer: number and shapes of blobs."""
    found = {}
    for name, shapes in needed.items():
        stored = model.layers.get(name)
        if stored is None:
            if shapes:
                found[name] = "has no weights in the caffemodel"
        elif len(stored.blobs) != len(shapes):
            found[name] = f"has {len(stored.blobs)} blobs, stock Caffe needs {len(shapes)}"
        else:
            wrong = _wrong(stored, shapes)
            if wrong:
                found[name] = wrong
    return found


def _wrong(stored: StoredLayer, shapes: Shapes) -> str:
    for i, (blob, shape) in enumerate(zip(stored.blobs, shapes)):
        if not fits(blob, shape):
            return f"has a blob {i} of shape {blob.shape}, stock Caffe needs {shape}"
    return ""


def _convolution(param: Any, bottoms: list[Shape]) -> Shapes:
    p, bottom = param.convolution_param, bottoms[0]
    axis = canonical_axis(p.axis, bottom)
    spatial = len(bottom) - axis - 1
    if spatial == 2:
        kernel = spatial_pair(p, "kernel", 0)
    else:
        kernel = tuple(int(k) for k in p.kernel_size) * (1 if len(p.kernel_size) > 1 else spatial)  # type: ignore[assignment]
    outputs, inputs = int(p.num_output), bottom[axis]
    if param.type == "Deconvolution":
        weight: Shape = (inputs, outputs // max(1, p.group), *kernel)
    else:
        weight = (outputs, inputs // max(1, p.group), *kernel)
    return [weight, (outputs,)] if p.bias_term else [weight]


def _inner_product(param: Any, bottoms: list[Shape]) -> Shapes:
    p = param.inner_product_param
    inputs, outputs = count(bottoms[0][canonical_axis(p.axis, bottoms[0]) :]), int(p.num_output)
    weight = (inputs, outputs) if p.transpose else (outputs, inputs)
    return [weight, (outputs,)] if p.bias_term else [weight]


def _batch_norm(param: Any, bottoms: list[Shape]) -> Shapes:
    channels = 1 if len(bottoms[0]) == 1 else bottoms[0][1]
    return [(channels,), (channels,), (1,)]


def _axes(p: Any, bottom: Shape) -> Shape:
    first = canonical_axis(p.axis, bottom)
    return bottom[first:] if p.num_axes == -1 else bottom[first : first + p.num_axes]


def _scale(param: Any, bottoms: list[Shape]) -> Shapes:
    p = param.scale_param
    own = [_axes(p, bottoms[0])] if len(bottoms) == 1 else []
    bias = [own[0] if own else bottoms[1]] if p.bias_term else []
    return own + bias


def _bias(param: Any, bottoms: list[Shape]) -> Shapes:
    return [_axes(param.bias_param, bottoms[0])] if len(bottoms) == 1 else []


def _prelu(param: Any, bottoms: list[Shape]) -> Shapes:
    return [() if param.prelu_param.channel_shared else (bottoms[0][1],)]


def _embed(param: Any, bottoms: list[Shape]) -> Shapes:
    p = param.embed_param
    outputs = int(p.num_output)
    weight = (int(p.input_dim), outputs)
    return [weight, (outputs,)] if p.bias_term else [weight]


def _recurrent(param: Any, bottoms: list[Shape]) -> Shapes:
    outputs = int(param.recurrent_param.num_output)
    rows = 4 * outputs if param.type == "LSTM" else outputs
    states = (2 if param.type == "LSTM" else 1) if param.recurrent_param.expose_hidden else 0
    # Besides the steps and the marks of their beginnings: a static input, and first states where they are exposed.
    static = [(rows, count(bottoms[2][1:]))] if len(bottoms) > 2 + states else []
    first = [(rows, count(bottoms[0][2:])), (rows,), *static, (rows, outputs)]
    return first if param.type == "LSTM" else [*first, (outputs, outputs), (outputs,)]


def _parameter(param: Any, bottoms: list[Shape]) -> Shapes:
    return [tuple(int(d) for d in param.parameter_param.shape.dim)]


_RULES: dict[str, Callable[[Any, list[Shape]], Shapes]] = {
    "Convolution": _convolution,
    "Deconvolution": _convolution,
    "InnerProduct": _inner_product,
    "BatchNorm": _batch_norm,
    "Scale": _scale,
    "Bias": _bias,
    "PReLU": _prelu,
    "Embed": _embed,
    "LSTM": _recurrent,
    "RNN": _recurrent,
    "Parameter": _parameter,
}
