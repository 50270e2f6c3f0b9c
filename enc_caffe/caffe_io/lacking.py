"""Layers whose weights a caffemodel does not have: Caffe runs them with the values of their fillers, and says nothing.

A BatchNorm then divides by nothing, a PReLU has a quarter as its slope, and every number is of another network than the user's.
Where a network is run as it was trained that is an error; where it will be trained, or is only written, a line. Source:
``Net::CopyTrainedLayersFrom`` of BVLC Caffe 99bd997, which goes through the file's layers, not through the network's.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Mapping

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import selected
from enc_caffe.errors import WeightsError

#: Layers that a line lists at most.
LISTED = 4


def _states(param: Any) -> int:
    # An input that is the same at all times, behind the sequence and its marks, has a weight of its own; states that are shown follow.
    kept, states = (3, 2) if param.type == "LSTM" else (5, 1)
    shown = states if param.recurrent_param.expose_hidden else 0
    return kept + (len(param.bottom) > 2 + shown)


#: Number of blobs that stock Caffe gives a layer of a type.
_BLOBS: Mapping[str, Callable[[Any], int]] = {
    "Convolution": lambda p: 1 + p.convolution_param.bias_term,
    "Deconvolution": lambda p: 1 + p.convolution_param.bias_term,
    "InnerProduct": lambda p: 1 + p.inner_product_param.bias_term,
    "Embed": lambda p: 1 + p.embed_param.bias_term,
    "BatchNorm": lambda p: 3,
    "Scale": lambda p: (len(p.bottom) == 1) + p.scale_param.bias_term,
    "Bias": lambda p: int(len(p.bottom) == 1),
    "PReLU": lambda p: 1,
    "Parameter": lambda p: 1,
    "LSTM": _states,
    "RNN": _states,
}


def blob_count(param: Any) -> int:
    """Number of blobs that stock Caffe gives a layer; 0 for types without weights and those that it does not have.

    A Scale or Bias of two bottoms takes its factors from the second one.
    """
    return int(_BLOBS[param.type](param)) if param.type in _BLOBS else 0


def lacking(net: Any, model: CaffeModel, phases: Iterable[str] = ("TEST",)) -> dict[str, str]:
    """Types of the layers with weights that a caffemodel does not have, by name, in the network's order.

    A layer is not among them whose blobs are all another layer's (``param { name }``), if the caffemodel has that one, nor a Deconvolution
    that interpolates by its filler.

    Parameters
    ----------
    net : NetParameter
    model : CaffeModel
    phases : iterable of {'TRAIN', 'TEST'}
    """
    layers = {layer.name: layer for phase in phases for layer in selected(net, phase) if layer.type in _BLOBS}
    names = {spec.name for layer in layers.values() if layer.name in model.layers for spec in layer.param if spec.name}
    found = {}
    for name, layer in layers.items():
        number = blob_count(layer)
        own = number - sum(spec.name in names for spec in layer.param[:number])
        if name not in model.layers and own and not _meant(layer):
            found[name] = layer.type
    return found


def _meant(layer: Any) -> bool:
    """Whether a layer's fillers are what it computes: a fixed enlargement by interpolation, which nobody trains."""
    param = layer.convolution_param
    return (
        layer.type == "Deconvolution"
        and param.weight_filler.type == "bilinear"
        and param.bias_filler.type == "constant"
    )


def check_trained(net: Any, source: str, model: CaffeModel) -> None:
    """Raise WeightsError where a network would not run as it was trained, because the caffemodel lacks weights of it."""
    absent = lacking(net, model)
    if absent:
        raise WeightsError(
            f"{model.path}: {_who(absent, source)}, and Caffe would run the network with the values of their fillers",
            "give the caffemodel that was trained with this prototxt; if those values are meant, save them with the rest: "
            "pycaffe's caffe.Net(prototxt, caffemodel, caffe.TEST).save(file)",
        )


def untrained_notice(net: Any, source: str, model: CaffeModel, phases: Iterable[str] = ("TEST",)) -> list[str]:
    """One line of a network that will be trained, or is only read or written, where the caffemodel lacks weights of it."""
    absent = lacking(net, model, phases)
    if not absent:
        return []
    them = "it begins" if len(absent) == 1 else "they begin"
    return [
        f"{model.path}: {_who(absent, source)}: {them} with the values of {'its' if len(absent) == 1 else 'their'} fillers, so "
        "train the network before you use it, or give the caffemodel that was trained with this prototxt"
    ]


def _who(absent: Mapping[str, str], source: str) -> str:
    named = [f"'{name}' ({kind})" for name, kind in absent.items()]
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    one = len(named) == 1
    return f"the weights of {'layer' if one else 'layers'} {', '.join(named[:LISTED])}{more} of {source} are not in it"
