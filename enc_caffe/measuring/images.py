"""Images that fit a network: held against it and its caffemodel before anything runs."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping, Optional

import numpy as np

from enc_caffe.caffe_io.blobs import misfits, needed_blobs
from enc_caffe.caffe_io.caffemodel import opened
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.lacking import check_trained
from enc_caffe.caffe_io.perimage import most_images, per_image
from enc_caffe.caffe_io.scores import Scores, find_scores
from enc_caffe.caffe_io.sizing import sized_network
from enc_caffe.caffe_io.transform import Transform, blame, remedy, transform_of
from enc_caffe.caffe_io.variants import check_one_input, deploy_net
from enc_caffe.errors import BlobShapeError, DatasetError, NetworkError, WeightsError
from enc_caffe.installation import more_types
from enc_caffe.network import Network
from enc_caffe.shapes import DATA_TYPES, Shape, brings_data
from enc_caffe.workers.limits import check_runs

#: Layers whose tops hold the values of their bottom, all of them in their order.
_SAME_VALUES = ("Split", "Reshape", "Flatten")


@dataclass(frozen=True)
class Images:
    """Images that fit a network: how they get into it, how many there are, and whether they have labels.

    Attributes
    ----------
    beyond : str
        Why they count as without labels, though they have some: these are not of the network's classes.
    elsewhere : str
        Why they count so, where the network reads its labels elsewhere.
    ignored : str
        What a person should know of labels that the network's own accuracy leaves out.
    most : int
        Images of a pass at most, as the prototxt is written; 0 for any number.
    """

    network: Network
    scores: Scores
    transform: Transform
    data: str
    images: int
    labelled: bool
    classes_seen: int
    beyond: str = ""
    elsewhere: str = ""
    ignored: str = ""
    most: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the network is fed."""
        return tuple(self.network.shape_of(self.data)[1:])


def look_at(
    net: Any, source: str, weights: Path, lmdb: Path, transform: Optional[Transform] = None, any_output: bool = False,
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Images:  # fmt: skip
    """Hold a network, its caffemodel and an LMDB against each other; ``any_output``: neither class scores nor labels are needed.

    Raises
    ------
    WeightsError
        If the caffemodel does not fit the network, or lacks weights of it.
    NetworkError
        If it has several inputs, or no class scores, or is made for passes of one number of images that is not 1.
    DatasetError
        If the images do not fit the network, or a label is beyond its classes.
    """
    stored = opened(Path(weights))
    rule = transform if transform is not None else transform_of(net, source)
    images = ImageLmdb(Path(lmdb))
    first, labels, total = images.first_shape(rule.force_color), images.labels(), len(images)
    # LMDB opens a folder once in a process, and the network may name it too.
    images.close()
    network = sized_network(net, source, rule.sized(first), None, input_shapes)
    check_runs(network, source)
    check_one_input(net, network, source)
    scores = _scores(network, source, weights, any_output)
    if scores.classes < 1:
        raise NetworkError(
            f"{source}: how many classes '{scores.scores}' has is not known, because of layers before it"
        )
    data_blob, needed = _data_blob(network)
    try:
        stored.check(network)
    except BlobShapeError as exc:
        raise WeightsError(f"{exc}{blame(net, rule.sized(first), lmdb)}") from None
    check_trained(net, source, stored)
    if not more_types():
        # Stock Caffe would abort on these; a Caffe of the user's own may take them.
        for name, words in misfits(stored, needed_blobs(net, network)).items():
            if name in stored.layers:
                raise WeightsError(
                    f"{weights}: layer '{name}' {words}; --caffe_root DIR runs a Caffe that takes it, and metrics without images, search "
                    "and emit compress the network and carry this layer through"
                )
    got = rule(np.zeros(first, np.uint8)).shape
    if got != needed:
        raise DatasetError(
            f"{lmdb}: images become {got} (C, H, W), but the network's '{data_blob}' needs {needed}; {remedy(got, needed)}"
        )
    elsewhere = _labels_elsewhere(network, data_blob, scores.labels) if scores.softmax else ""
    labelled = scores.softmax and bool(labels.max() >= 0) and not elsewhere
    beyond = ""
    if labelled and (labels.min() < 0 or labels.max() >= scores.classes):
        beyond = f"labels go from {labels.min()} to {labels.max()}, but the network has {scores.classes} classes in '{scores.scores}'"
        if not any_output:
            raise DatasetError(f"{lmdb}: {beyond}")
        labelled = False
    ignored = _ignored(net, scores, labels) if labelled else ""
    most = most_images(per_image(deploy_net(net, network), network), scores.scores, source)
    return Images(
        network, scores, rule, data_blob, total, labelled, len(np.unique(labels)), beyond, elsewhere, ignored, most
    )


def _scores(network: Network, source: str, weights: Path, any_output: bool) -> Scores:
    try:
        return find_scores(network, any_output)
    except NetworkError as exc:
        losses = [x.name for x in network.layers if x.type.endswith("Loss")]
        # An Input layer would feed it zeros.
        tested = losses and any(x.type in DATA_TYPES for x in network.layers)
        command = shlex.join(["caffe", "test", "-model", source, "-weights", str(weights)])
        own = f"{command} says its loss '{losses[-1]}'; " if tested else ""
        raise NetworkError(
            str(exc), f"{own}metrics and compress compare a network with the original by its outputs, whatever they are"
        ) from None


def _ignored(net: Any, scores: Scores, labels: np.ndarray) -> str:
    """A line about images whose label an Accuracy of these scores leaves out."""
    for param in selected(net):
        own = param.accuracy_param
        if param.type == "Accuracy" and scores.scores in param.bottom and own.HasField("ignore_label"):
            number = int(np.sum(labels == own.ignore_label))
            if number:
                return (
                    f"layer '{param.name}' leaves out label {own.ignore_label} (ignore_label), which {number} of {len(labels)} images "
                    "have; they are counted here, so that stock caffe test says another accuracy"
                )
    return ""


def _labels_elsewhere(network: Network, data: str, labels: Optional[str]) -> str:
    """What says that the labels are others than the images' own: another layer reads them, or layers make them of what was read.

    A plate reader's characters are such: a Slice parts the rows of numbers that a second Data layer has, or an HDF5Data layer.
    """
    blob = labels
    while blob is not None:
        maker = next((x for x in reversed(network.layers) if blob in x.tops), None)
        if maker is None or brings_data(maker.type):
            own = maker is None or maker.type not in DATA_TYPES or data in maker.tops
            return (
                ""
                if own or maker is None
                else f"labels '{labels}' are read by layer '{maker.name}', not with the images"
            )
        if maker.type not in _SAME_VALUES or blob in maker.bottoms:
            return f"labels '{labels}' are made by layer '{maker.name}' ({maker.type}), not read with the images"
        blob = maker.bottoms[0]
    return ""


def _data_blob(network: Network) -> tuple[str, Shape]:
    for layer in network.layers:
        if brings_data(layer.type):
            return layer.tops[0], layer.top_shapes[0][1:]
    raise no_images(network)


def no_images(network: Network) -> DatasetError:
    """That nothing in a network can take images, what makes values in their place, and the remedy."""
    own = next(
        (f", and layer '{x.name}' ({x.type}) makes values of its own" for x in network.layers if not x.bottoms), ""
    )
    return DatasetError(
        f"network '{network.name}' has no layer that reads images{own}; give its deploy prototxt, or an Input layer in that place"
    )
