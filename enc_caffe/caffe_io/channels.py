"""What keeps the channels of a layer together, by its own parameters: :mod:`enc_caffe.coupling` knows only its type and shapes.

Source: the layers of BVLC Caffe 99bd997.
"""

from __future__ import annotations

from typing import Any, Callable, Sequence

from enc_caffe.shapes import KNOWN_TYPES, Shape, canonical_axis

#: Layers without parameters that read a blob in another phase without harm.
_HARMLESS = frozenset({"Dropout", "ReLU", "Silence", "Split"})


def fixed_channels(param: Any, bottoms: Sequence[Shape]) -> str:
    """Why no channel can be taken out of a layer's bottoms and tops; empty where its type decides.

    Parameters
    ----------
    param : LayerParameter
    bottoms : sequence of Shape
    """
    rule = _RULES.get(param.type)
    return rule(param, bottoms) if rule is not None and bottoms and len(bottoms[0]) > 1 else ""


def _axis(name: str) -> Callable[[Any, Sequence[Shape]], str]:
    def rule(param: Any, bottoms: Sequence[Shape]) -> str:
        axis = canonical_axis(getattr(param, name).axis, bottoms[0])
        return "" if axis == 1 else f"its axis is {axis}"

    return rule


def _per_channel(name: str) -> Callable[[Any, Sequence[Shape]], str]:
    def rule(param: Any, bottoms: Sequence[Shape]) -> str:
        p = getattr(param, name)
        axis = canonical_axis(p.axis, bottoms[0])
        if len(bottoms) > 1:
            # A factor of every image and channel, as of a squeeze-and-excitation block.
            fits = axis == 0 and bottoms[1][:2] == bottoms[0][:2] and not (name == "scale_param" and p.bias_term)
            return "" if fits else f"its second bottom is not one of every channel (axis {axis})"
        return "" if (axis, p.num_axes) == (1, 1) else f"its axis is {axis} and its num_axes {p.num_axes}"

    return rule


def _concat(param: Any, bottoms: Sequence[Shape]) -> str:
    p = param.concat_param
    axis = int(p.concat_dim) if p.HasField("concat_dim") else canonical_axis(p.axis, bottoms[0])
    return "" if axis == 1 else f"its axis is {axis}"


def _slice(param: Any, bottoms: Sequence[Shape]) -> str:
    p = param.slice_param
    axis = int(p.slice_dim) if p.HasField("slice_dim") else canonical_axis(p.axis, bottoms[0])
    return "" if axis == 1 else f"its axis is {axis}"


def _lrn(param: Any, bottoms: Sequence[Shape]) -> str:
    # 0 is ACROSS_CHANNELS.
    return "it normalises across channels" if param.lrn_param.norm_region == 0 else ""


def _mvn(param: Any, bottoms: Sequence[Shape]) -> str:
    return "it normalises across channels" if param.mvn_param.across_channels else ""


_RULES: dict[str, Callable[[Any, Sequence[Shape]], str]] = {
    "InnerProduct": _axis("inner_product_param"),
    "Scale": _per_channel("scale_param"),
    "Bias": _per_channel("bias_param"),
    "Concat": _concat,
    "Slice": _slice,
    "Flatten": _axis("flatten_param"),
    "LRN": _lrn,
    "MVN": _mvn,
}


def read_elsewhere(net: Any, params: Sequence[Any]) -> dict[str, str]:
    """Blobs that layers outside of these read, with weights or in a way that nobody knows: their name and type.

    Parameters
    ----------
    net : NetParameter
    params : sequence of LayerParameter
        The layers of the phase that is described.
    """
    own = {id(p) for p in params}
    known = {(p.name, p.type) for p in params}
    found: dict[str, str] = {}
    for layer in net.layer:
        if id(layer) in own or (layer.name, layer.type) in known:
            continue
        if layer.type in _HARMLESS or (
            layer.type in KNOWN_TYPES and (layer.type.endswith("Loss") or layer.type == "Accuracy")
        ):
            continue
        for bottom in layer.bottom:
            found.setdefault(bottom, f"layer '{layer.name}' ({layer.type}) of another phase reads it")
    return found
