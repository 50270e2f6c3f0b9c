"""Where a network's class scores and labels are, or the output that stands for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from enc_caffe.errors import NetworkError
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, Shape, brings_data, count

_SCORERS = ("SoftmaxWithLoss", "Accuracy", "Softmax")
#: Types that look at probabilities and make nothing of them that the network goes on with.
_LOOKING = frozenset({"ArgMax", "Accuracy", "Silence", "HDF5Output"})


@dataclass(frozen=True)
class Scores:
    """Where a network's class scores and labels are: blob names, and the number of classes.

    ``softmax`` is False for the output of a network that has no class scores. ``others`` are class scores that labels may as well be
    of, where nothing in the network reads labels.
    """

    scores: str
    labels: Optional[str]
    classes: int
    softmax: bool = True
    others: tuple[str, ...] = ()


def find_scores(network: Network, any_output: bool = False) -> Scores:
    """The class scores: what a SoftmaxWithLoss of the TEST phase reads, else an Accuracy, else a Softmax; the last of its type.

    With ``any_output`` a network that has none of them gives what its last loss reads first, else its last blob; and one whose
    scores are those of places in the image, not of the image, gives them as an output like any other.

    Raises
    ------
    NetworkError
        If the network has none of them, or scores of places.
    """
    found: Optional[Scores] = None
    shape: Shape = ()
    all_: list[Scores] = []
    read = {bottom for layer in network.layers if layer.type not in _LOOKING for bottom in layer.bottoms}
    for kind in _SCORERS:
        for layer in network.layers:
            # A Softmax whose top is read weighs something inside the network.
            if layer.type == kind and not (kind == "Softmax" and layer.tops[0] in read - {*layer.bottoms}):
                labels = layer.bottoms[1] if len(layer.bottoms) > 1 else None
                shape = layer.bottom_shapes[0]
                found = Scores(layer.bottoms[0], labels, shape[1] if len(shape) > 1 else 0)
                all_.append(found)
        if found is not None:
            break
    if found is None and any_output:
        return _output(network)
    if found is not None and not _of_images(network, shape):
        if any_output:
            return Scores(found.scores, None, values_of_image(network, shape), softmax=False)
        raise NetworkError(
            f"network '{network.name}' has class scores {_words(shape, found.scores)}; training and accuracies are made for one "
            "label of an image"
        )
    if found is None:
        raise NetworkError(f"network '{network.name}' has no {_without(network)}; its class scores cannot be found")
    others = [s.scores for s in all_ if s.labels is None and s.scores != found.scores]
    return replace(found, others=tuple(dict.fromkeys(others))) if found.labels is None else found


def _without(network: Network) -> str:
    """What gives class scores and is not there; or why a Softmax that is there does not."""
    inside = next((x for x in reversed(network.layers) if x.type == "Softmax"), None)
    if inside is None:
        return "SoftmaxWithLoss, Accuracy or Softmax layer"
    reader = next(x for x in network.layers if x.type not in _LOOKING and inside.tops[0] in x.bottoms)
    return (
        f"SoftmaxWithLoss or Accuracy layer, and no Softmax at its end: what layer '{inside.name}' (Softmax) makes goes on into layer "
        f"'{reader.name}' ({reader.type})"
    )


def _of_images(network: Network, shape: Shape) -> bool:
    """Whether class scores of a shape are one set (N, C, 1, ...) for each of the N images that a network takes at once."""
    images = [network.shape_of(top)[0] for top in network.inputs if len(network.shape_of(top)) == 4]
    return shape != UNKNOWN and len(shape) > 1 and count(shape[2:]) == 1 and (not images or shape[0] in images)


def values_of_image(network: Network, shape: Shape) -> int:
    """Values of an image in a blob of a shape, whose first axis may be another than that of the images, such as time."""
    images = next((network.shape_of(top)[0] for top in network.inputs if len(network.shape_of(top)) == 4), 0)
    if shape == UNKNOWN or images < 1 or count(shape) % images:
        return count(shape[1:])
    return count(shape) // images


def _words(shape: Shape, scores: str) -> str:
    if shape == UNKNOWN:
        return f"in '{scores}', whose shape is not known"
    where = (
        "one set for each place of an image"
        if count(shape[2:]) > 1
        else "and that many sets are not those of its images"
    )
    return f"of {shape} (N, C, ...) in '{scores}', {where}"


def _output(network: Network) -> Scores:
    loss = next((x for x in reversed(network.layers) if x.type.endswith("Loss")), None)
    if loss is not None:
        return Scores(loss.bottoms[0], None, values_of_image(network, loss.bottom_shapes[0]), softmax=False)
    for layer in reversed(network.layers):
        for top, shape in zip(layer.tops, layer.top_shapes):
            if top in network.outputs and not brings_data(layer.type):
                return Scores(top, None, values_of_image(network, shape), softmax=False)
    raise NetworkError(f"network '{network.name}' has no output that no layer reads")
