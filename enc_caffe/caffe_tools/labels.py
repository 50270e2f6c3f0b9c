"""The images of a training, held against its network before it runs: stock Caffe writes beside its arrays where a label is no class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import data_layers, selected
from enc_caffe.errors import DatasetError, PlanError
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, canonical_axis

#: Labels that are looked at, spread over an LMDB.
LOOKS = 2000
#: Layers that take a label for an index of their first bottom, and the parameter that says of which axis.
_BY_LABEL = {"SoftmaxWithLoss": "softmax_param", "Accuracy": "accuracy_param"}


def check_images(net: Any, network: Network, source: str) -> None:
    """Open the LMDBs of both phases and look at their labels.

    Parameters
    ----------
    net : NetParameter
        What will be trained, with the sources that it will read.
    network : Network
        Description of its TEST phase.
    source : str
        File name for messages.

    Raises
    ------
    DatasetError
        If an LMDB cannot be read, or a label is none of the classes (and is not ignored).
    """
    for phase in ("TRAIN", "TEST"):
        for layer in data_layers(net, phase):
            if layer.type != "Data" or layer.data_param.backend != layer.data_param.LMDB:
                continue
            flag = f"--{phase.lower()}_lmdb"
            path = Path(layer.data_param.source)
            try:
                images = ImageLmdb(path)
            except DatasetError as exc:
                raise DatasetError(
                    f"{exc}; layer '{layer.name}' of {source} reads it in the {phase} phase: {flag} names another"
                ) from None
            try:
                labels = images.sampled_labels(LOOKS)
            finally:
                images.close()
            for user in selected(net, phase):
                classes, ignored = _classes(user, list(layer.top[1:2]), network)
                wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))] if classes else labels[:0]
                if len(wrong):
                    what = (
                        "its images have no labels"
                        if np.all(labels < 0)
                        else f"label {int(wrong[0])} is none of 0 to {classes - 1}"
                    )
                    raise DatasetError(
                        f"{path}: {what}, and layer '{user.name}' ({user.type}) of {source} takes one of {classes} classes by it in the "
                        f"{phase} phase; give {flag} with the labels that the network has"
                    )


def _classes(param: Any, labels: list[str], network: Network) -> tuple[int, int]:
    """How many classes a layer knows that is fed these labels, 0 where it is not or that is not known; and the label that it ignores."""
    if param.type not in _BY_LABEL or list(param.bottom[1:2]) != labels or not labels:
        return 0, -1
    holder = param.loss_param if param.type == "SoftmaxWithLoss" else param.accuracy_param
    ignored = int(holder.ignore_label) if holder.HasField("ignore_label") else -(2**31)
    try:
        shape = network.shape_of(param.bottom[0])
    except PlanError:
        return 0, ignored
    if shape == UNKNOWN:
        return 0, ignored
    return shape[canonical_axis(getattr(param, _BY_LABEL[param.type]).axis, shape)], ignored
