"""A net in a worker that is run in parts: from a layer on, up to a layer, with weights put in and blobs taken out."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.fold import Follower, folded, gain_and_shift
from enc_caffe.caffe_io.transform import Transform, fed_images
from enc_caffe.decomposition import scheme_for
from enc_caffe.form import Form
from enc_caffe.measuring.factors import read_factors
from enc_caffe.measuring.scores import TOPS, Units
from enc_caffe.network import Layer
from enc_caffe.workers.executor import beat


@dataclass(frozen=True)
class NetTask:
    """What a worker needs to know: the net, its weights and images, and the layers that are truncated.

    Attributes
    ----------
    softmax : bool
        Whether the scores are class scores; else outputs of any kind.
    factors : str
        Folder with factors by layer and form; where it is empty they come from plain SVD.
    reference : str
        ``.npy`` file of the scores, one row for each image, that a pass of the untruncated net is held against; where it
        is empty, its own.
    shape : (C, H, W)
        Of what the net is fed.
    units : tuple of (int, float)
        Of several outputs that stand in ``scores`` one after the other: how many values each has, and what its squared error
        is a part of.
    """

    prototxt: str
    weights: str
    lmdb: str
    transform: Transform
    data: str
    scores: str
    batch: int
    labels: bool
    layers: tuple[Layer, ...]
    followers: Mapping[str, Follower] = field(default_factory=dict)
    softmax: bool = True
    factors: str = ""
    reference: str = ""
    tops: int = TOPS
    shape: tuple[int, ...] = ()
    units: Units = ()


class Engine:
    """A net of this worker with the truncated weights of its layers."""

    def __init__(self, task: NetTask) -> None:
        from enc_caffe.workers.pycaffe import load_net

        self.task = task
        self.model = CaffeModel(Path(task.weights))
        # Folded convolutions have a bias that the caffemodel lacks, so that Caffe cannot load it by itself.
        self.net = load_net(task.prototxt, None if task.followers else task.weights)
        self.parts = {name: gain_and_shift(self.model, f) for name, f in task.followers.items()}
        if task.followers:
            self._load()
        self.layers = {layer.name: layer for layer in task.layers}
        self.names: list[str] = list(self.net._layer_names)
        self.place = {name: i for i, name in enumerate(self.names)}
        self.order = sorted(self.layers, key=lambda name: self.place[name])
        self.plain = self.model.plain
        self._live: dict[int, list[str]] = {}

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

    def truncated(self, name: str, form: Form) -> np.ndarray:
        """Weights of a layer that compute what its chain in a form does, as the net has them; what plain factors of all forms of a
        scheme share is kept.
        """
        layer, scheme = self.layers[name], scheme_for(form.scheme)
        factors = self.plain(layer, form) if not self.task.factors else read_factors(self.task.factors, name, form)
        beat()
        flat = scheme.effective(layer, form, factors).reshape(-1)
        if name in self.parts:
            gain = self.parts[name][0]
            flat = (flat.reshape(len(gain), -1) * gain[:, None]).reshape(-1)
        return flat.astype(np.float32)

    def put(self, blobs: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Weights of some layers."""
        for name, arrays in blobs.items():
            for blob, array in zip(self.net.params[name], arrays):
                blob.data[...] = array.reshape(blob.data.shape)

    def size(self, images: int) -> None:
        """Make room for this number of images."""
        blob = self.net.blobs[self.task.data]
        if len(blob.data) != images:
            blob.reshape(images, *blob.data.shape[1:])
            self.net.reshape()

    def run(self, data: np.ndarray, start: Optional[str] = None) -> np.ndarray:
        """Scores (n, classes) of a whole pass, or of one from a layer on over the blobs as they are."""
        if start is None:
            self.size(len(data))
            self.net.blobs[self.task.data].data[...] = data
            self.net.forward()
        else:
            self.net.forward(start=start)
        beat()
        return np.array(self.net.blobs[self.task.scores].data, np.float64).reshape(len(data), -1)

    def part(self, first: int, stop: int) -> None:
        """Run the layers at places first to stop - 1."""
        if stop > first:
            self.net.forward(start=self.names[first], end=self.names[stop - 1])
        beat()

    def bottom(self, name: str) -> np.ndarray:
        """A copy of a layer's first bottom, as it is now."""
        return np.array(self.net.blobs[self.net.bottom_names[name][0]].data)

    def top(self, name: str) -> np.ndarray:
        """A copy of a layer's first top, as it is now."""
        return np.array(self.net.blobs[self.net.top_names[name][0]].data)

    def inputs_of(self, data: np.ndarray, names: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
        """The bottoms of some layers, each when the pass reaches it: later ones may be computed in its place."""
        self.size(len(data))
        self.net.blobs[self.task.data].data[...] = data
        at = 0
        for name in sorted(names, key=self.place.__getitem__):
            self.part(at, self.place[name])
            at = self.place[name]
            yield name, self.bottom(name)

    def live(self, place: int) -> list[str]:
        """Blobs that layers from ``place`` on read and earlier ones made."""
        if place not in self._live:
            made = {t for n in self.names[:place] for t in self.net.top_names[n]}
            read = {b for n in self.names[place:] for b in self.net.bottom_names[n]}
            self._live[place] = sorted(made & read)
        return self._live[place]

    def agrees(self, data: np.ndarray) -> bool:
        """Whether running from any layer on gives what a whole pass gives: nothing changes a blob behind its back."""
        whole = self.run(data)
        return all(np.array_equal(self.run(data, name), whole) for name in reversed(self.order))


def identity(path: str) -> tuple[str, int, int]:
    """Path, size and time of a file: what a worker keeps it by."""
    stat = os.stat(path)
    return path, stat.st_size, stat.st_mtime_ns


_ENGINES: OrderedDict[str, Engine] = OrderedDict()
#: A compressed network is calibrated beside its original.
_KEPT = 2
#: A worker may have several threads (Dask's do); a net has one set of blobs.
_LOCK = threading.RLock()


@contextlib.contextmanager
def engine_of(task: NetTask) -> Iterator[Engine]:
    """The worker's engine for a task, for one thread at a time; the last two are kept."""
    # Workers of a cluster outlive a command: another caffemodel under the same path is another network.
    key = repr((
        task.prototxt, identity(task.weights), task.followers, [x.name for x in task.layers], task.data, task.scores, task.factors, task.units,
    ))  # fmt: skip
    with _LOCK:
        if key not in _ENGINES:
            while len(_ENGINES) >= _KEPT:
                _ENGINES.popitem(last=False)
            _ENGINES[key] = Engine(task)
        _ENGINES.move_to_end(key)
        yield _ENGINES[key]


def batches(task: NetTask, start: int, stop: int) -> Iterator[tuple[np.ndarray, Optional[np.ndarray]]]:
    """Transformed images (n, C, H, W) and their labels, at most ``task.batch`` at a time."""
    images: list[np.ndarray] = []
    labels: list[int] = []
    # Closed before the next reader opens the LMDB, which a process may do once at a time.
    with contextlib.closing(fed_images(Path(task.lmdb), task.transform, task.shape, start, stop)) as source:
        for at, image in enumerate(source, start + 1):
            images.append(image.pixels)
            labels.append(image.label)
            if len(images) == task.batch or at == stop:
                yield np.stack(images), np.array(labels) if task.labels else None
                images, labels = [], []
