"""Sizes of images that a user gives, in networks whose Input layers say others or none."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from enc_caffe.caffe_io.describe import data_layers, selected
from enc_caffe.caffe_io.variants import reaches_weights
from enc_caffe.errors import UsageError
from enc_caffe.shapes import Shape


def size_images(
    net: Any, source: str, said: Optional[Shape], found: Optional[Shape], given: Mapping[str, Shape]
) -> None:
    """Give the Input layer of a network's images the size (C, H, W) that the user says; where it has none, that of the images found."""
    if said is not None:
        set_input_shape(net, said, source, given)
    elif found is not None and lacks_size(net):
        set_input_shape(net, found, source, given, "images of")


def set_input_shape(
    net: Any, image: Shape, source: str, given: Mapping[str, Shape], origin: str = "--input_shape"
) -> None:
    """Give the Input layer of a network's images a size (C, H, W); its batch stays, and is 1 where there was none.

    Tops in ``given`` have shapes of their own. ``origin``: what says the size, for messages. A network whose images come from a data layer is left as it is.

    Raises
    ------
    UsageError
        Where there is not one top that it can be meant for.
    """
    layers = [layer for layer in selected(net) if layer.type == "Input"]
    if data_layers(net):
        return
    if not layers:
        # Whoever describes the network says what is missing.
        return
    tops = [(layer, i) for layer in layers for i, top in enumerate(layer.top) if top not in given and _takes(layer, i)]
    if tops and all(_size(layer, i) == image for layer, i in tops):
        return
    if len(tops) != 1:
        names = ", ".join(layer.top[i] for layer, i in tops)
        what = f"several inputs of images ({names})" if tops else "no input of images"
        raise UsageError(
            f"{source}: {origin} {','.join(map(str, image))}: the network has {what}; give --top_shape TOP=N,C,H,W for each that is meant"
        )
    layer, i = tops[0]
    shapes = layer.input_param.shape
    if len(shapes) == 1 < len(layer.top):
        # One shape was for all of them.
        shapes.extend([shapes[0]] * (len(layer.top) - 1))
    while len(shapes) <= i:
        shapes.add()
    batch = shapes[i].dim[0] if shapes[i].dim else 1
    shapes[i].dim[:] = [batch, *image]


def image_input(net: Any) -> Shape:
    """Shape (N, C, H, W) of the Input top that brings a network's images; empty where none does, several may, or it says no size.

    Tops that no layer with weights sees, such as the labels of a loss, bring no images where another one does.
    """
    layers = selected(net)
    tops = [(layer, i) for layer in layers if layer.type == "Input" for i in range(len(layer.top))]
    seen = tops if len(tops) == 1 else [(layer, i) for layer, i in tops if reaches_weights(layers, layer.top[i])]
    shapes = [shape for layer, i in seen for shape in [_shape(layer, i)] if len(shape) == 4 and min(shape[1:]) > 0]
    return shapes[0] if len(shapes) == 1 else ()


def lacks_size(net: Any) -> bool:
    """Whether an Input layer does not say how large what it brings is."""
    return any(layer.type == "Input" and not layer.input_param.shape for layer in selected(net))


def _takes(layer: Any, i: int) -> bool:
    """Whether a top of an Input layer can be images: it has four axes, or no shape yet."""
    return len(_shape(layer, i)) in (0, 4)


def _size(layer: Any, i: int) -> Shape:
    return _shape(layer, i)[1:]


def _shape(layer: Any, i: int) -> Shape:
    shapes = layer.input_param.shape
    at = 0 if len(shapes) == 1 else i
    return tuple(shapes[at].dim) if at < len(shapes) else ()
