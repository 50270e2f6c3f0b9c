"""What always travels together: the files of a network and what the user says of them; where Caffe runs and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Mapping, Optional

from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.form import PAPER, Schemes
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.loading import LoadedNetwork, load
from enc_caffe.shapes import Shape
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.defaults import MEMORY


@dataclass(frozen=True)
class Source:
    """A network as its files and the user give it.

    Attributes
    ----------
    model, weights : Path
        Prototxt and caffemodel.
    input_shape : (C, H, W), optional
        Size of the images, where no LMDB says it.
    input_shapes : mapping of top to full shape
        Of data layers whose tops no image size describes.
    level, stages : int and tuple of str, optional
        Which layers there are, as by ``caffe -level -stage``.
    python_layers : bool
        Whether Caffe may import the modules of Python layers.
    feed : Feed
        What becomes of an image before the network sees it, where the prototxt does not say it.
    """

    model: Path
    weights: Path
    input_shape: Optional[Shape] = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    level: Optional[int] = None
    stages: tuple[str, ...] = ()
    python_layers: bool = False
    feed: Feed = AS_WRITTEN

    def load(
        self, lmdb: Optional[Path] = None, schemes: Schemes = PAPER, fully_connected: bool = False
    ) -> LoadedNetwork:
        """Read the prototxt (:func:`enc_caffe.pipeline.load`)."""
        return load(
            self.model, lmdb, self.input_shape, fully_connected, self.python_layers, self.input_shapes, self.level,
            self.stages, self.feed, schemes,
        )  # fmt: skip


@dataclass(frozen=True)
class Resources:
    """Where Caffe runs, what is kept of its results, and how much memory its workers may take.

    Attributes
    ----------
    workers : Workers
    store : ResultStore, optional
    memory : int
        Bytes beyond the weights.
    runtime_python : Path, optional
        The Python of the runtime that a latency table is of.
    """

    workers: Workers = Workers()
    store: Optional[ResultStore] = None
    memory: int = MEMORY
    runtime_python: Optional[Path] = None
