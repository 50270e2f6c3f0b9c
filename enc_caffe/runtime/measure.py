"""Accuracy, cross-entropy and divergence of a network with single layers truncated: one pass over the images for all.

For every batch the original runs once and its blobs stay. Then, from the last layer to the first, each rank's truncated
weights are put in the layer's place and the net runs from that layer on: what lies before it is still the original's.
The result is a handful of numbers for each layer, rank and chunk of images; chunks are fixed by the network alone, so
sums over them do not depend on how many workers there are.
"""

from __future__ import annotations

import threading
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.fold import Follower, folded, gain_and_shift
from enc_caffe.caffe_io.transform import Transform
from enc_caffe.decomposition import scheme_for
from enc_caffe.errors import CaffeError
from enc_caffe.network import Layer
from enc_caffe.runtime.evaluate import cross_entropy, identity, top_k_counts
from enc_caffe.runtime.executor import Executor
from enc_caffe.runtime.store import ResultStore

#: What is evaluated: a layer and rank, or the original network (no layer, rank 0).
Pair = tuple[str, int]
ORIGINAL: Pair = ("", 0)


@dataclass(frozen=True)
class Counts:
    """Sums over images: how many, correct by top-1 and top-5, cross-entropy, divergence from the original in nats."""

    images: int
    correct: int
    correct_5: int
    cross_entropy: float
    divergence: float

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(self.row(), other.row())))

    def row(self) -> list[Any]:
        """As a list, the order of the fields."""
        return [self.images, self.correct, self.correct_5, self.cross_entropy, self.divergence]


@dataclass(frozen=True)
class MeasureTask:
    """What a worker needs to know: the net, its weights and images, and the layers that are truncated."""

    prototxt: str
    weights: str
    lmdb: str
    transform: Transform
    data: str
    scores: str
    batch: int
    labels: bool
    layers: tuple[Layer, ...]
    schemes: Mapping[str, str]
    followers: Mapping[str, Follower] = field(default_factory=dict)


def measure(
    task: MeasureTask,
    pairs: Sequence[Pair],
    images: int,
    chunk: int,
    executor: Executor,
    store: Optional[ResultStore] = None,
    context: str = "",
    name: str = "original",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> dict[Pair, Counts]:
    """Counts of the original and of every pair over all images; what the store knows is not measured again.

    Parameters
    ----------
    task : MeasureTask
    pairs : sequence of (layer, rank)
    images, chunk : int
        Images in all, and of one task.
    executor : Executor
    store : ResultStore, optional
    context : str
        Digest that the results belong to.
    name : str
        How the store calls the network itself: the original, or a plan.
    progress : callable of images times pairs, done and in all
    """
    wanted = [ORIGINAL, *dict.fromkeys(pairs)]

    def what(pair: Pair) -> str:
        return f"{pair[0]} {pair[1]}" if pair != ORIGINAL else name

    known = store.known(context) if store else {}
    found: dict[tuple[int, Pair], Counts] = {}
    todo = []
    for start in range(0, images, chunk):
        stop = min(start + chunk, images)
        missing = []
        for pair in wanted:
            row = known.get((what(pair), start, stop))
            if row is None:
                missing.append(pair)
            else:
                found[start, pair] = Counts(*row)
        if missing:
            todo.append((start, stop, missing))
    total = images * len(wanted)
    done = total - sum((stop - start) * len(missing) for start, stop, missing in todo)
    progress(done, total)
    waiting: dict[Future[Any], tuple[int, int, list[Pair]]] = {}
    todo.reverse()
    try:
        while todo or waiting:
            # A few more than there are workers, so that none is idle, and little is lost when the command stops.
            while todo and len(waiting) < 2 * executor.workers:
                start, stop, missing = todo.pop()
                waiting[executor.submit(measure_chunk, task, missing, start, stop)] = (start, stop, missing)
            for future in wait(waiting, timeout=5, return_when=FIRST_COMPLETED).done or _alive(executor):
                start, stop, missing = waiting.pop(future)
                counts: list[Counts] = executor.result(future)
                _check_finite(missing, counts)
                if store:
                    store.put(context, start, stop, {what(p): c.row() for p, c in zip(missing, counts)})
                found.update({(start, p): c for p, c in zip(missing, counts)})
                done += (stop - start) * len(missing)
                progress(done, total)
    finally:
        for future in waiting:
            future.cancel()
    # In the order of the images, so that sums of floating-point numbers are the same every time.
    result = dict.fromkeys(wanted, Counts(0, 0, 0, 0.0, 0.0))
    for start in range(0, images, chunk):
        for pair in wanted:
            result[pair] = result[pair] + found[start, pair]
    return result


def stored(store: ResultStore, context: str, name: str, images: int, chunk: int) -> Optional[Counts]:
    """Counts of a network over all images where the store has every chunk of them, else None."""
    known, total = store.known(context), Counts(0, 0, 0, 0.0, 0.0)
    for start in range(0, images, chunk):
        row = known.get((name, start, min(start + chunk, images)))
        if row is None:
            return None
        total = total + Counts(*row)
    return total


def _check_finite(pairs: Sequence[Pair], counts: Sequence[Counts]) -> None:
    for (name, rank), c in zip(pairs, counts):
        if not np.isfinite([c.cross_entropy, c.divergence]).all():
            where = f"with layer '{name}' at rank {rank}" if name else "without any truncation"
            raise CaffeError(
                f"the network's scores are not finite {where}; do the images have the scale that it expects?"
            )


def _alive(executor: Executor) -> list[Future[Any]]:
    check = getattr(executor, "check", None)
    if check is not None:
        check()
    return []


def chunk_size(macs: int, images: int) -> int:
    """Images of one task: seconds to a few minutes of work by the network's MACs, and at least 20 tasks of 5 in all.

    It knows nothing of the machine or its workers, so that sums over chunks are the same everywhere.
    """
    most = next((n for n in (100, 50, 20) if n * macs <= 2e10), 10)
    return min(most, max(5, -(-images // 20)))


class _Engine:
    """A net of this worker with the truncated weights of its layers; one at a time is kept."""

    def __init__(self, task: MeasureTask) -> None:
        from enc_caffe.runtime.engine import load_net

        self.task = task
        self.model = CaffeModel(Path(task.weights))
        # Folded convolutions have a bias that the caffemodel lacks, so that Caffe cannot load it by itself.
        self.net = load_net(task.prototxt, None if task.followers else task.weights)
        self.parts = {name: gain_and_shift(self.model, f) for name, f in task.followers.items()}
        if task.followers:
            self._load()
        self.layers = {layer.name: layer for layer in task.layers}
        order = {name: i for i, name in enumerate(self.net._layer_names)}
        self.order = sorted(self.layers, key=lambda name: order[name])
        self._factors: dict[str, Any] = {}

    def _load(self) -> None:
        for name, blobs in self.net.params.items():
            stored = self.model.layers.get(name)
            if stored is None:
                continue
            arrays = [self.model.array(b) for b in stored.blobs]
            if name in self.parts:
                weight = arrays[0].reshape(blobs[0].data.shape)
                arrays = list(folded(weight, arrays[1].reshape(-1) if len(arrays) > 1 else None, self.parts[name]))
            for blob, array in zip(blobs, arrays):
                blob.data[...] = array.reshape(blob.data.shape)

    def truncated(self, name: str, rank: int, highest: int) -> np.ndarray:
        """Weights of a layer at a rank, as the net has them; factors are kept up to ``highest``."""
        layer, scheme = self.layers[name], scheme_for(self.task.schemes[name])
        kept = self._factors.get(name)
        if kept is None or kept[0] < highest:
            weight = self.model.weights(layer)[0]
            kept = self._factors[name] = (highest, scheme.pairs(layer, weight, highest))
        flat = scheme.product(layer, kept[1], rank)
        if name in self.parts:
            gain = self.parts[name][0]
            flat = (flat.reshape(len(gain), -1) * gain[:, None]).reshape(-1)
        return flat.astype(np.float32)

    def run(self, data: np.ndarray, start: Optional[str] = None) -> np.ndarray:
        if start is None:
            blob = self.net.blobs[self.task.data]
            if blob.data.shape != data.shape:
                blob.reshape(*data.shape)
                self.net.reshape()
            blob.data[...] = data
            self.net.forward()
        else:
            self.net.forward(start=start)
        return np.array(self.net.blobs[self.task.scores].data, np.float64).reshape(len(data), -1)

    def measure(self, data: np.ndarray, labels: Optional[np.ndarray], pairs: Sequence[Pair]) -> list[Counts]:
        whole = self.run(data)
        counts = {ORIGINAL: count(whole, whole, labels)}
        for name in reversed(self.order):
            ranks = [r for n, r in pairs if n == name]
            if not ranks:
                continue
            blob = self.net.params[name][0]
            kept = blob.data.copy()
            for rank in ranks:
                # Taking ``data`` anew is what tells Caffe that a GPU's copy is out of date.
                blob.data[...] = self.truncated(name, rank, max(ranks)).reshape(kept.shape)
                counts[name, rank] = count(self.run(data, name), whole, labels)
            blob.data[...] = kept
        return [counts[p] for p in pairs]

    def agrees(self, data: np.ndarray) -> bool:
        """Whether running from any layer on gives what a whole pass gives: nothing changes a blob behind its back."""
        whole = self.run(data)
        return all(np.array_equal(self.run(data, name), whole) for name in reversed(self.order))


_ENGINE: dict[str, _Engine] = {}
#: A worker may have several threads (Dask's do); a net has one set of blobs.
_LOCK = threading.Lock()


def _engine(task: MeasureTask) -> _Engine:
    # Workers of a cluster outlive a command: another caffemodel under the same path is another network.
    key = repr((
        task.prototxt, identity(task.weights), task.followers, [x.name for x in task.layers], sorted(task.schemes.items()),
        task.data, task.scores,
    ))  # fmt: skip
    if key not in _ENGINE:
        _ENGINE.clear()
        _ENGINE[key] = _Engine(task)
    return _ENGINE[key]


def measure_chunk(task: MeasureTask, pairs: Sequence[Pair], start: int, stop: int) -> list[Counts]:
    """Counts of the pairs over the images at positions start to stop (in a worker)."""
    with _LOCK:
        engine = _engine(task)
        total = [Counts(0, 0, 0, 0.0, 0.0)] * len(pairs)
        for data, labels in batches(task, start, stop):
            total = [a + b for a, b in zip(total, engine.measure(data, labels, pairs))]
        return total


def scores_of(task: MeasureTask, images: int, agreement: bool) -> tuple[np.ndarray, bool]:
    """Scores of the first images, and whether passes of one image from each layer on agree with whole ones (in a worker)."""
    with _LOCK:
        engine = _engine(task)
        data = next(batches(task, 0, images))[0]
        return engine.run(data), not agreement or engine.agrees(data[:1])


def batches(task: MeasureTask, start: int, stop: int) -> Any:
    """Transformed images (n, C, H, W) and their labels, at most ``task.batch`` at a time."""
    lmdb = ImageLmdb(Path(task.lmdb))
    images: list[np.ndarray] = []
    labels: list[int] = []
    try:
        for at, image in enumerate(lmdb.images(start, stop, task.transform.force_color), start + 1):
            images.append(task.transform(image.pixels))
            labels.append(image.label)
            if len(images) == task.batch or at == stop:
                yield np.stack(images), np.array(labels) if task.labels else None
                images, labels = [], []
    finally:
        lmdb.close()


def count(scores: np.ndarray, whole: np.ndarray, labels: Optional[np.ndarray]) -> Counts:
    """Counts from class scores (n, classes) and those of the original network."""
    correct, correct_5, entropy = 0, 0, 0.0
    if labels is not None:
        correct, correct_5 = top_k_counts(scores, labels, (1, 5))
        entropy = cross_entropy(scores, labels)
    return Counts(len(scores), correct, correct_5, entropy, divergence(whole, scores))


def divergence(whole: np.ndarray, scores: np.ndarray) -> float:
    """Summed Kullback-Leibler divergence of softmax(scores) from softmax(whole), in nats."""
    first, second = _log_softmax(whole), _log_softmax(scores)
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.exp(first) * (first - second)))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def check_folding(plain: MeasureTask, simple: MeasureTask, executor: Executor, images: int) -> bool:
    """Whether the folded net gives the scores of the plain one on the first images, up to single precision.

    Raises
    ------
    CaffeError
        If a pass of the plain net from some layer on differs from a whole pass.
    """
    first, _ = executor.result(executor.submit(scores_of, plain, images, False))
    second, agrees = executor.result(executor.submit(scores_of, simple, images, True))
    scale = float(np.abs(first).max()) or 1.0
    if agrees and bool(np.abs(first - second).max() <= 1e-3 * scale):
        return True
    if not executor.result(executor.submit(scores_of, plain, images, True))[1]:
        raise CaffeError(
            "a pass from a layer on differs from a whole pass: some layer changes a blob in place that another one still "
            "needs; give the in-place layer a top of its own"
        )
    return False
