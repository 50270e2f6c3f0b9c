"""A network of several outputs as one that has them all in one blob, since a measurement compares one blob with the original's.

A detector's boxes count like its scores then. How far each output varies by itself is what it is measured by
(:func:`enc_caffe.measuring.scores.units_of`), so that none rules by its scale.
"""

from __future__ import annotations

from typing import Any

from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.runnable import OUTPUT, Runnable, outputs_of, part_of
from enc_caffe.caffe_io.scores import values_of_image
from enc_caffe.caffe_io.variants import labels_of
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN


def several_outputs(net: Any, network: Network, source: str) -> Runnable:
    """The network with its outputs put together, where it has several; else as it is.

    Losses say which outputs count: those that are held to labels of their own, as a plate reader's characters are. Of several losses
    by one label the last counts, those before it are of auxiliary classifiers. The network is left as it is too where an output is not
    one of its images (its first axis is another).
    """
    layers = selected(net)
    kept, outputs = outputs_of(layers)
    if any(p.type.endswith("Loss") or p.type == "Accuracy" for p in layers):
        outputs = list(dict.fromkeys(p.bottom[0] for p in deciding_losses(layers)))
    batches = {network.shape_of(top)[:1] for top in network.inputs}
    shapes = [network.shape_of(blob) for blob in outputs]
    if len(outputs) < 2 or any(s == UNKNOWN or len(s) < 2 or s[:1] not in batches for s in shapes):
        return Runnable(net)
    out, named = part_of(net, kept, outputs, network)
    return Runnable(
        out,
        f"{source}: the network has {len(outputs)} outputs; {named} are compared, each by how much it varies itself",
    )


def deciding_losses(layers: list[Any]) -> list[Any]:
    """Losses that say which outputs count, in their order: of each label the last of those by it."""
    labels, found = labels_of(layers), dict[str, Any]()
    for param in layers:
        own = param.type.endswith("Loss") and len(param.bottom) > 1 and list(param.loss_weight) != [0]
        if own and param.bottom[1] in labels and param.bottom[0] not in labels:
            found[param.bottom[1]] = param
    return [p for p in layers if any(p is one for one in found.values())]


def output_sizes(network: Network) -> tuple[int, ...]:
    """Values of an image in each of the outputs that were put together, in their order; none where a network has one output."""
    if OUTPUT not in network:
        return ()
    return tuple(values_of_image(network, shape) for shape in network[OUTPUT].bottom_shapes)
