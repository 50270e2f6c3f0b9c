"""What one run of layers is fitted by itself to: the blob that enters it and the one that the original gives behind it, both kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Mapping, Optional, Protocol, Sequence

import numpy as np

from enc_caffe.calibration.runs import TARGET, TURN, training_net, turned_power
from enc_caffe.calibration.segments import Segment
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import UNREADABLE
from enc_caffe.measuring.passes import NetTask

#: Images of a step.
BATCH = 16
#: One image of so many is held out.
HELD = 8
#: Rounds after which weights are averaged and looked at, and learning rates.
ROUNDS, RATES = 4, (1e-3, 2.5e-4)

#: A chunk of images, and which image of it.
Place = tuple[int, int]


@dataclass(frozen=True)
class Run:
    """A run of layers, and how it is fitted.

    Attributes
    ----------
    segment : Segment
    steps : int
        All parts together.
    batch : int
        Images of a step.
    rates : tuple of float
        Learning rates of Adam, one after the other as long as nothing is gained; each falls to 0 in a straight line.
    rounds : int
        After which weights are averaged and looked at.
    onward : bool
        Whether it begins where the run before it ends; else it begins with the images.
    targets : tuple of str
        Blobs that are held to the original's where that runs beside it at every step, the segment's top the last of them; else the top
        alone is, to what was kept.
    aside : tuple of str
        Targets that count less than others (:data:`enc_caffe.calibration.beside.ASIDE`).
    window : tuple of int
        Rows and columns of the part of an image that a step sees there; none: the whole image.
    """

    segment: Segment
    steps: int
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    rounds: int = ROUNDS
    onward: bool = False
    targets: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()
    window: tuple[int, ...] = ()


@dataclass(frozen=True)
class BlocksTask:
    """Both networks, not folded, and the original as it passes fastest, folded where that gives the same; the folder of what is kept between
    two runs, the images of every chunk as (first, stop), and by blob the root (C, C) of what changes of its channels cost, (C,) where they do each by itself.
    """

    compressed: NetTask
    original: NetTask
    beside: NetTask
    folder: str
    runs: tuple[Run, ...]
    spans: tuple[tuple[int, int], ...]
    roots: Mapping[str, np.ndarray] = field(default_factory=dict)


def pair_files(task: BlocksTask, at: int, chunk: int) -> tuple[Path, Path]:
    """Of a run and a chunk of images: what enters the run, and what the original gives behind it."""
    return Path(task.folder) / f"in-{at}-{chunk}.npy", Path(task.folder) / f"out-{at}-{chunk}.npy"


def read_kept(path: Path) -> np.ndarray:
    """A blob of :func:`pair_files`, mapped.

    Raises
    ------
    CaffeError
        If it is missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except UNREADABLE:
        raise CaffeError(f"{path}: kept blobs are missing or damaged; run the command again") from None


class Kept:
    """What is kept of a run, by place: those that are fitted to and those that are held out."""

    def __init__(self, task: BlocksTask, at: int, sides: int = 2) -> None:
        chunks = range(len(task.spans))
        self._arrays = [[read_kept(path) for path in pair_files(task, at, chunk)[:sides]] for chunk in chunks]
        places = [(chunk, i) for chunk, own in enumerate(self._arrays) for i in range(len(own[0]))]
        self.held: list[Place] = places[HELD - 1 :: HELD]
        self.fitted: list[Place] = [p for n, p in enumerate(places) if n % HELD != HELD - 1]

    def shape(self, side: int) -> tuple[int, ...]:
        """Of one image."""
        return tuple(self._arrays[0][side].shape[1:])

    def one(self, place: Place, side: int) -> np.ndarray:
        """Of one image."""
        return self._arrays[place[0]][side][place[1]]

    def stacked(self, which: Sequence[Place], side: int) -> np.ndarray:
        """Images as one blob."""
        return np.stack([self.one(place, side) for place in which])


class Source(Protocol):
    """What a part of a fit needs to know of a run."""

    kept: Kept

    def powers(self) -> tuple[float, ...]:
        """Power of every blob that is wanted, a held-out image, weighted as its loss is."""

    def net(self, images: int, powers: Sequence[float]) -> tuple[str, list[str]]:
        """Prototxt of the run with its loss for a batch, and the layers whose weights are fitted; none where one has no gradient."""

    def ready(self, net: Any) -> None:
        """Give a net of that text what is not the compressed network's."""

    def put(self, net: Any, which: Sequence[Place], rng: Optional[np.random.Generator] = None) -> None:
        """Give it images: as they are, or as chance has them."""


class Pairs:
    """A run by itself."""

    def __init__(self, task: BlocksTask, at: int) -> None:
        self._prototxt, self._segment = task.compressed.prototxt, task.runs[at].segment
        self._root = task.roots.get(self._segment.top)
        self.kept = Kept(task, at)

    def powers(self) -> tuple[float, ...]:
        """See :class:`Source`."""
        held = self.kept.held
        batches = (self.kept.stacked(held[i : i + BATCH], 1) for i in range(0, len(held), BATCH))
        return (sum(turned_power(self._root, batch) for batch in batches) / len(held),)

    def net(self, images: int, powers: Sequence[float]) -> tuple[str, list[str]]:
        """See :class:`Source`."""
        shapes = [(images, *self.kept.shape(side)) for side in (0, 1)]
        return training_net(self._prototxt, self._segment, shapes, powers[0], self._root)

    def ready(self, net: Any) -> None:
        """See :class:`Source`."""
        put_root(net, self._root)

    def put(self, net: Any, which: Sequence[Place], rng: Optional[np.random.Generator] = None) -> None:
        """See :class:`Source`; chance changes nothing, since the blobs are of the images as they are."""
        for name, side in ((self._segment.bottom, 0), (TARGET, 1)):
            put_blob(net, name, self.kept.stacked(which, side))


def put_blob(net: Any, name: str, values: np.ndarray) -> None:
    """Values of a blob, which takes their shape."""
    blob = net.blobs[name]
    if blob.data.shape != values.shape:
        blob.reshape(*values.shape)
    blob.data[...] = values


def put_root(net: Any, root: Optional[np.ndarray]) -> None:
    """What the channels of the last blob are turned by, where they are."""
    if root is not None:
        blob = net.params[TURN][0]
        blob.data[...] = root.reshape(blob.data.shape)
