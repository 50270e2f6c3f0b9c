"""Networks whose prototxt says for how many images a pass is: as many others may be given, or it is said why not.

A Reshape that writes the number of images out (``dim: 1 dim: -1``) puts the values of all images of a larger pass into one row, and
no layer behind it may notice. Converters and people write it so for deployment, where a pass has one image.
"""

from __future__ import annotations

from typing import Any

from enc_caffe.caffe_io.describe import describe
from enc_caffe.errors import NetworkError
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, count


def per_image(net: Any, network: Network) -> Any:
    """A copy of a deploy NetParameter in which every Reshape keeps the first axis of its bottom as it is, where it did so anyway.

    Parameters
    ----------
    network : Network
        Its description, for as many images as the prototxt says.
    """
    out = type(net)()
    out.CopyFrom(net)
    for layer in out.layer:
        own = layer.reshape_param
        if layer.type != "Reshape" or own.axis != 0 or not own.shape.dim or own.shape.dim[0] < 1:
            continue
        bottom = network[layer.name].bottom_shapes[0]
        if bottom != UNKNOWN and bottom[:1] == (own.shape.dim[0],):
            own.shape.dim[0] = 0
            # The user's text has the number.
            layer.DiscardUnknownFields()
    return out


def most_images(deploy: Any, scores: str, source: str) -> int:
    """How many images a pass of a deploy NetParameter may have: 0 for any number, 1 where it would mix the values of several.

    Raises
    ------
    NetworkError
        If it is made for another number than 1, and for that alone, or takes several images together.
    """
    shape, images = describe(deploy, None, source).shape_of(scores), _images(deploy)
    values = 0 if shape == UNKNOWN else count(shape)
    why = _mixed(deploy, scores, source, values, images, images + 1)
    if not why:
        return 0
    if images == 1:
        return 1
    if not _mixed(deploy, scores, source, values, images, 2 * images):
        raise NetworkError(
            f"{source}: the network takes several of its {images} images together ({why}), and measurements are of single images; metrics "
            "without images, search and emit compress it"
        )
    raise NetworkError(
        f"{source}: the network is made for passes of {images} images and for no other number ({why}); write it for 1"
    )


def _mixed(deploy: Any, scores: str, source: str, values: int, images: int, other: int) -> str:
    """Why another number of images than the prototxt's makes not as many values of each; empty where it does."""
    net = type(deploy)()
    net.CopyFrom(deploy)
    for layer in net.layer:
        if layer.type == "Input" and layer.input_param.shape:
            for shape in layer.input_param.shape:
                if shape.dim:
                    shape.dim[0] = shape.dim[0] * other // images
            layer.DiscardUnknownFields()
    try:
        shape = describe(net, None, source).shape_of(scores)
    except NetworkError as exc:
        return str(exc)
    if shape == UNKNOWN or count(shape) * images == values * other:
        return ""
    return f"'{scores}' is {shape} for {'twice as many' if other == 2 * images else other}"


def _images(deploy: Any) -> int:
    """Images of a pass as the last of its inputs has them."""
    firsts = [int(x.dim[0]) for p in deploy.layer if p.type == "Input" for x in p.input_param.shape if x.dim]
    return firsts[-1] if firsts else 1
