"""Accuracy of a network over an LMDB, equal to stock ``caffe test`` on the same images.

The network runs as its deploy form in a worker process; images pass through the TEST phase's transformation, and each
counts once, whatever the batch size. Counts are integers, split by chunks of images, so the result does not depend on
the number of workers.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import set_state
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.transform import Transform, blame, fed_images, remedy, transform_of
from enc_caffe.caffe_io.variants import Scores, check_one_input, deploy_net, find_scores, sized_network
from enc_caffe.errors import CaffeError, DatasetError, NetworkError, UsageError, WeightsError
from enc_caffe.network import Network
from enc_caffe.runtime.executor import CaffeExecutor, Executor, beat
from enc_caffe.runtime.limits import check_runs
from enc_caffe.shapes import DATA_TYPES, Shape, brings_data


@dataclass(frozen=True)
class Evaluation:
    """Counts over an LMDB."""

    images: int
    correct: dict[int, int]
    cross_entropy: float

    def accuracy(self, k: int = 1) -> float:
        """Top-k accuracy."""
        return self.correct[k] / self.images


@dataclass(frozen=True)
class _Task:
    prototxt: str
    weights: str
    lmdb: str
    transform: Transform
    data: str
    scores: str
    shape: tuple[int, ...]
    top_k: tuple[int, ...]
    batch: int
    gpu: Optional[int]


_NETS: dict[tuple[object, ...], object] = {}


def identity(path: str) -> tuple[str, int, int]:
    """Path, size and time of a file: what a worker keeps it by."""
    stat = os.stat(path)
    return path, stat.st_size, stat.st_mtime_ns


def count_chunk(task: _Task, start: int, stop: int) -> tuple[list[int], float]:
    """Correct images for each k, and summed cross-entropy, of the images at positions start to stop (in a worker)."""
    from enc_caffe.runtime.engine import load_net

    key = (task.prototxt, identity(task.weights), task.gpu)
    if key not in _NETS:
        _NETS.clear()
        _NETS[key] = load_net(task.prototxt, task.weights, task.gpu)
    net = _NETS[key]
    correct, entropy = [0] * len(task.top_k), 0.0
    images: list[np.ndarray] = []
    labels: list[int] = []

    def flush() -> None:
        nonlocal entropy
        data = np.stack(images)
        net.blobs[task.data].reshape(*data.shape)  # type: ignore[attr-defined]
        net.blobs[task.data].data[...] = data  # type: ignore[attr-defined]
        net.forward()  # type: ignore[attr-defined]
        beat()
        scores = np.array(net.blobs[task.scores].data, np.float64)  # type: ignore[attr-defined]
        scores = scores.reshape(len(images), -1)
        for i, count in enumerate(top_k_counts(scores, np.array(labels), task.top_k)):
            correct[i] += count
        entropy += cross_entropy(scores, np.array(labels))
        images.clear()
        labels.clear()

    for image in fed_images(Path(task.lmdb), task.transform, task.shape, start, stop):
        images.append(image.pixels)
        labels.append(image.label)
        if len(images) == task.batch:
            flush()
    if images:
        flush()
    return correct, entropy


def top_k_counts(scores: np.ndarray, labels: np.ndarray, top_k: tuple[int, ...]) -> list[int]:
    """Images (N, classes) whose label's score is beaten or equalled by fewer than k others, as Caffe's Accuracy counts."""
    own = scores[np.arange(len(labels)), labels]
    better = np.sum(scores >= own[:, None], axis=1) - 1
    # A NaN score is better than nothing, itself included, so better would be -1.
    return [int(np.sum((better < k) & (better >= 0))) for k in top_k]


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Summed cross-entropy of the softmax of scores (N, classes)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.sum(log_sum - shifted[np.arange(len(labels)), labels]))


@dataclass(frozen=True)
class Images:
    """Images that fit a network: how they get into it, how many there are, and whether they have labels."""

    network: Network
    scores: Scores
    transform: Transform
    data: str
    images: int
    labelled: bool
    classes_seen: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of what the network is fed."""
        return tuple(self.network.shape_of(self.data)[1:])


def look_at(
    net: Any, source: str, weights: Path, lmdb: Path, transform: Optional[Transform] = None, any_output: bool = False,
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Images:  # fmt: skip
    """Hold a network, its caffemodel and an LMDB against each other; ``any_output``: class scores are not needed.

    Raises
    ------
    WeightsError
        If the caffemodel does not fit the network.
    NetworkError
        If it has several inputs, or no class scores.
    DatasetError
        If the images do not fit the network, or a label is beyond its classes.
    """
    stored = CaffeModel(Path(weights))
    rule = transform if transform is not None else transform_of(net, source)
    images = ImageLmdb(Path(lmdb))
    first, labels, total = images.first_shape(rule.force_color), images.labels(), len(images)
    # LMDB opens a folder once in a process, and the network may name it too.
    images.close()
    network = sized_network(net, source, rule.sized(first), None, input_shapes)
    check_runs(network, source)
    check_one_input(net, network, source)
    scores = find_scores(network, any_output)
    if scores.classes < 1:
        raise NetworkError(
            f"{source}: how many classes '{scores.scores}' has is not known, because of layers before it"
        )
    data_blob, needed = _data_blob(network)
    try:
        stored.check(network)
    except WeightsError as exc:
        raise WeightsError(f"{exc}{blame(net, rule.sized(first), lmdb)}") from None
    got = rule(np.zeros(first, np.uint8)).shape
    if got != needed:
        raise DatasetError(
            f"{lmdb}: images become {got} (C, H, W), but the network's '{data_blob}' needs {needed}; {remedy(got, needed)}"
        )
    labelled = scores.softmax and bool(labels.max() >= 0) and not _labels_elsewhere(network, data_blob, scores.labels)
    if labelled and (labels.min() < 0 or labels.max() >= scores.classes):
        raise DatasetError(
            f"{lmdb}: labels go from {labels.min()} to {labels.max()}, but the network has {scores.classes} classes"
        )
    return Images(network, scores, rule, data_blob, total, labelled, len(np.unique(labels)))


def evaluate(
    model: Path,
    weights: Path,
    lmdb: Path,
    top_k: tuple[int, ...] = (1,),
    batch: int = 50,
    workers: int = 1,
    threads: int = 1,
    gpu: Optional[int] = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
    feed: Feed = AS_WRITTEN,
    executor: Optional[Executor] = None,
    python_layers: bool = False,
    level: Optional[int] = None,
    stages: Sequence[str] = (),
    input_shapes: Optional[Mapping[str, Shape]] = None,
    notice: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Top-k accuracy and cross-entropy of a network over all images of an LMDB.

    Parameters
    ----------
    model, weights, lmdb : Path
    top_k : tuple of int
    batch : int
        Images of one forward pass; the result does not depend on it.
    workers, threads : int
        Processes, and BLAS threads of each.
    gpu : int, optional
        Device; without it the CPU.
    progress : callable of images done and images in all
    feed : Feed
        What the user says of the images, instead of the data layer.
    python_layers : bool
        Whether the prototxt may have them (:func:`enc_caffe.caffe_io.prototxt.read_net`).
    level, stages : int and sequence of str, optional
        Which layers there are, as by ``caffe test -level -stage``.
    input_shapes : mapping of top to full shape, optional
        Of data layers whose tops no image size describes.
    notice : callable of a line that a person should read
        Gets what the network is fed.

    Raises
    ------
    DatasetError
        If the images do not fit the network, or a label is beyond its classes.
    CaffeError
        With Caffe's own last line where it stopped.
    """
    net = feed.written(set_state(read_net(Path(model), python_layers), level, stages))
    transform = feed.transform(net, str(model))
    images = look_at(net, str(model), weights, lmdb, transform, input_shapes=input_shapes)
    network, scores, rule, data_blob, total = (
        images.network,
        images.scores,
        images.transform,
        images.data,
        images.images,
    )
    if any(not 1 <= k <= scores.classes for k in top_k):
        raise UsageError(f"--top_k {','.join(map(str, top_k))}: the network has {scores.classes} classes")
    if not images.labelled:
        raise DatasetError(
            f"{lmdb}: its images have no labels for '{scores.labels or scores.scores}'; an accuracy needs them"
        )
    task = _Task(
        to_text(deploy_net(net, network, min(batch, total))),
        str(Path(weights).absolute()),
        str(Path(lmdb).absolute()),
        rule,
        data_blob,
        scores.scores,
        images.shape,
        top_k,
        batch,
        gpu,
    )
    # It runs a net as the engine does, which counts as this module does.
    from enc_caffe.runtime.feeding import fed_lines

    own = CaffeExecutor(workers, threads, advice="; start the command again") if executor is None else None
    executor = executor or own
    assert executor is not None
    try:
        for line in fed_lines(net, str(model), Path(weights), Path(lmdb), images, executor):
            notice(line)
        starts = range(0, total, batch * 2)
        futures = [executor.submit(count_chunk, task, s, min(s + batch * 2, total)) for s in starts]
        correct, entropy, done = [0] * len(top_k), 0.0, 0
        for start, future in zip(starts, futures):
            counts, chunk_entropy = executor.result(future)
            correct = [a + b for a, b in zip(correct, counts)]
            entropy += chunk_entropy
            done = min(start + batch * 2, total)
            progress(done, total)
    finally:
        if own:
            own.close()
    if not np.isfinite(entropy):
        raise CaffeError(
            f"{model}: the network's scores are not finite on the images of {lmdb}; do the images have the scale that it expects?"
        )
    return Evaluation(total, dict(zip(top_k, correct)), entropy / total)


def _labels_elsewhere(network: Network, data: str, labels: Optional[str]) -> bool:
    """Whether another layer than the images' own reads the labels: those of the LMDB are none then."""
    return any(labels in x.tops and data not in x.tops and x.type in DATA_TYPES for x in network.layers)


def _data_blob(network: Network) -> tuple[str, Shape]:
    for layer in network.layers:
        if brings_data(layer.type):
            return layer.tops[0], layer.top_shapes[0][1:]
    raise DatasetError(f"network '{network.name}' has no layer that reads images")
