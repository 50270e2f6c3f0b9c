"""Sizes of images that a prototxt alone does not say, as far as its caffemodel does.

Weights of the layers that read the images say how many channels these have, ``crop_size`` how high and wide they are. Where
that is missing too, a size that fits all weights stands in: enough for the geometry of layers, not for MACs or a deploy file.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.errors import NetworkError, UnknownSizeError, WeightsError
from enc_caffe.network import Network
from enc_caffe.shapes import Shape

#: Heights and widths that networks are made for.
_SIDES = (32, 28, 24, 40, 48, 56, 60, 64, 80, 96, 100, 112, 120, 128, 160, 192, 200, 224, 227, 231, 240, 256, 299, 300, 320, 321, 331,
          350, 384, 400, 416, 448, 473, 480, 500, 512, 513, 576, 600, 608, 640)  # fmt: skip


def sized_by_weights(
    net: Any, model: CaffeModel, described: Callable[[Shape], Network], error: UnknownSizeError
) -> tuple[Network, bool]:
    """A network described with a size of images that fits its weights, and whether that size is the true one.

    Parameters
    ----------
    described : callable of (C, H, W), giving the network's description
    error : UnknownSizeError
        Raised where no size fits.
    """
    for image, known in _candidates(net, model):
        try:
            network = described(image)
            model.check(network)
        except (NetworkError, WeightsError):
            continue
        return network, known
    raise error


def _candidates(net: Any, model: CaffeModel) -> Iterator[tuple[Shape, bool]]:
    layers = data_layers(net)
    channels = _channels(net, model, layers[0].top[0]) if layers and layers[0].top else None
    if channels is None:
        return
    crop = int(layers[0].transform_param.crop_size)
    for side in (crop,) if crop else _SIDES:
        yield (channels, side, side), bool(crop)


def _channels(net: Any, model: CaffeModel, blob: str) -> Optional[int]:
    """Channels of a blob, by the weights of a convolution that reads it."""
    for param in net.layer:
        stored = model.layers.get(param.name)
        if param.type == "Convolution" and blob in param.bottom and stored is not None and stored.blobs:
            shape = stored.blobs[0].shape
            return shape[1] * max(1, int(param.convolution_param.group)) if len(shape) == 4 else None
    return None
