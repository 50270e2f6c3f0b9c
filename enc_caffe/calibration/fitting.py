"""Runs of layers fitted to what the original gives there: rounds of Caffe's own solver on parts of the images, and their mean.

The images that are fitted to are dealt out to :data:`PARTS`, whatever the number of workers. In every round each part goes on from
the same weights, by itself; the mean of what they come to is where the next round begins. So several cores fit one run, and
results do not depend on how many there are.

Source: Adam solvers on parts of the images whose weights are averaged now and then: Stich, "Local SGD converges fast and communicates
little" (2019), there for plain gradient steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.calibration.layerwise import Blobs, flattened, grouped
from enc_caffe.calibration.runs import LOSS, TARGET, TURN, training_net, turned_power
from enc_caffe.calibration.segments import Segment
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import UNREADABLE, read_arrays, write_arrays
from enc_caffe.measuring.passes import NetTask
from enc_caffe.workers.executor import Executor, beat, run_all

#: Parts that the images are dealt out to, images of a part's step, and rounds after which weights are averaged and looked at.
PARTS, BATCH, ROUNDS = 2, 16, 4
#: One image of so many is held out.
HELD = 8
#: Learning rates.
RATES = (1e-3, 2.5e-4)


#: What an image may also be fitted as: mirrored or not, and shifted by so many rows and columns, the edge repeated.
VARIANTS = tuple((mirror, shift) for shift in ((0, 0), (2, 2), (-2, -1), (1, -2)) for mirror in (False, True))


def varied(images: np.ndarray, variant: int) -> np.ndarray:
    """Images (n, C, H, W) as one of :data:`VARIANTS`; the first is as they are."""
    mirror, shift = VARIANTS[variant]
    images = images[..., ::-1] if mirror else images
    for axis, by in zip((2, 3), shift):
        if by:
            size = images.shape[axis]
            images = images.take(np.clip(np.arange(size) + by, 0, size - 1), axis=axis)
    return np.ascontiguousarray(images)


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
    variants : int
        How many of :data:`VARIANTS` of every image it is fitted to.
    onward : bool
        Whether it begins where the run before it ends; else it begins with the images.
    """

    segment: Segment
    steps: int
    batch: int = BATCH
    rates: tuple[float, ...] = RATES
    rounds: int = ROUNDS
    variants: int = 1
    onward: bool = False


@dataclass(frozen=True)
class BlocksTask:
    """Both networks, not folded, the folder of what is kept between two runs, the images of every chunk as (first, stop), and by
    blob the root (C, C) of what changes of its channels cost.
    """

    compressed: NetTask
    original: NetTask
    folder: str
    runs: tuple[Run, ...]
    spans: tuple[tuple[int, int], ...]
    roots: Mapping[str, np.ndarray] = field(default_factory=dict)

    def chunks(self, at: int) -> tuple[tuple[int, int, int], ...]:
        """What enters a run: images (first, stop) as one of :data:`VARIANTS`, the first variant of all of them first."""
        return tuple((*own, variant) for variant in range(self.runs[at].variants) for own in self.spans)


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


class _Pairs:
    """Images of a run: what enters and what is wanted, by place. No variant of what is held out is fitted to."""

    def __init__(self, task: BlocksTask, at: int) -> None:
        self.pairs = [[read_kept(path) for path in pair_files(task, at, c)] for c in range(len(task.chunks(at)))]
        plain = len(task.spans)
        places = [(c, i) for c, (entering, _) in enumerate(self.pairs[:plain]) for i in range(len(entering))]
        self.held = places[HELD - 1 :: HELD]
        own = [p for n, p in enumerate(places) if n % HELD != HELD - 1]
        self.fitted = [(c + more, i) for more in range(0, len(self.pairs), plain) for c, i in own]

    def shapes(self, images: int) -> list[tuple[int, ...]]:
        """Of so many images, entering and wanted."""
        return [(images, *a.shape[1:]) for a in self.pairs[0]]

    def stacked(self, which: Sequence[tuple[int, int]], side: int) -> np.ndarray:
        """Images as one blob."""
        return np.stack([self.pairs[c][side][i] for c, i in which])


def held_power(task: BlocksTask, at: int) -> float:
    """Power of what is wanted of a run, a held-out image, weighted as its loss is (in a worker)."""
    pairs, root = _Pairs(task, at), task.roots.get(task.runs[at].segment.top)
    held = pairs.held
    total = sum(turned_power(root, pairs.stacked(held[i : i + BATCH], 1)) for i in range(0, len(held), BATCH))
    return total / len(held)


@dataclass(frozen=True)
class Round:
    """A part's share of a round.

    Attributes
    ----------
    at : int
        The run.
    power : float
        Of :func:`held_power`.
    rate : float
        Adam's learning rate at the beginning of the round.
    steps, left : int
        Of this round, and until the rate is 0. No steps: only the error is wanted.
    number, part : int
    """

    at: int
    power: float
    rate: float
    steps: int
    left: int
    number: int
    part: int


def fit_part(task: BlocksTask, own: Round, blobs: Blobs) -> tuple[Blobs, float]:
    """Weights of a run after one part's steps, and the sum of squares that the part's held-out images are off by before them (in a
    worker). No weights where a layer of the run has no gradient.

    Parameters
    ----------
    blobs : dict of layer to arrays
        Weights of layers of the compressed network that are not those of its caffemodel.
    """
    run, pairs = task.runs[own.at], _Pairs(task, own.at)
    segment = run.segment
    held, fitted_on = pairs.held[own.part :: PARTS], pairs.fitted[own.part :: PARTS]
    batch, root = min(run.batch, len(fitted_on)), task.roots.get(segment.top)
    text, fitted = training_net(task.compressed.prototxt, segment, pairs.shapes(batch), own.power, root is not None)
    if not fitted:
        return {}, 0.0
    from enc_caffe.workers.pycaffe import adam_solver

    solver = adam_solver(text, task.compressed.weights, own.rate, max(1, own.left))
    net = solver.net
    for name in set(net.params) & set(blobs):
        for blob, array in zip(net.params[name], blobs[name]):
            blob.data[...] = np.reshape(array, blob.data.shape)
    if root is not None:
        net.params[TURN][0].data[...] = root.reshape(net.params[TURN][0].data.shape)

    def put(which: Sequence[tuple[int, int]]) -> None:
        for name, side in ((segment.bottom, 0), (TARGET, 1)):
            images = pairs.stacked(which, side)
            if len(net.blobs[name].data) != len(images):
                net.blobs[name].reshape(*images.shape)
            net.blobs[name].data[...] = images

    error = 0.0
    for first in range(0, len(held), batch):
        put(held[first : first + batch])
        net.forward()
        error += float(net.blobs[LOSS].data)
        beat()
    rng = np.random.default_rng([own.at, own.number, own.part])
    for _ in range(own.steps):
        put([fitted_on[i] for i in np.sort(rng.choice(len(fitted_on), batch, replace=False))])
        solver.step(1)
        beat()
    return {name: [np.array(b.data) for b in net.params[name]] for name in fitted}, error


def fit(
    task: BlocksTask, at: int, rate: float, blobs: Blobs, executor: Executor, progress: Callable[[int], None] = lambda rounds: None
) -> tuple[Blobs, float, float]:  # fmt: skip
    """Weights of a run with the least error on the images that are held out, none where the first are the best, and that error
    before and after, as a part of the target's power. What rounds came to is kept, so that a fit that was stopped goes on with the next.

    Parameters
    ----------
    rate : float
        Learning rate in the beginning.
    blobs : dict of layer to arrays
        Weights of layers of the compressed network that are not those of its caffemodel.
    progress : callable of rounds that are done, of a run that is not
    """
    run, path = task.runs[at], Path(task.folder) / f"rounds-{at}-{rate:g}.npz"
    images = sum(stop - first for first, stop in task.spans) // HELD
    steps = -(-run.steps // (PARTS * run.rounds))
    begin, state, now, best = _resumed(path)
    power, first, least = state or (executor.result(executor.submit(held_power, task, at)), 0.0, 0.0)
    for number in range(begin, run.rounds + 1):
        if number < run.rounds:
            progress(number)
        left = steps * (run.rounds - number)
        rounds = [
            Round(at, power, rate * left / (steps * run.rounds), steps if left else 0, left, number, part)
            for part in range(PARTS)
        ]
        known = {**blobs, **now}
        parts = run_all(executor, fit_part, [(task, own, known) for own in rounds], [1] * PARTS)
        error = sum(e for _, e in parts) / (images * max(power, 1e-30))
        if not number:
            first = least = error
        elif error < least:
            least, best = error, now
        if not parts[0][0]:
            break
        now = {n: [np.mean([p[n][i] for p, _ in parts], axis=0) for i in range(len(a))] for n, a in parts[0][0].items()}
        if left:
            kept = {
                f"{name}|{key}": a for name, own in (("now", now), ("best", best)) for key, a in flattened(own).items()
            }
            write_arrays(path, {**kept, "state": np.array([number + 1, power, first, least], np.float64)})
    path.unlink(missing_ok=True)
    return best, first, least


def _resumed(path: Path) -> tuple[int, Optional[tuple[float, float, float]], Blobs, Blobs]:
    """The round that comes next, the target's power, the first error and the least one, the weights, and those with the least error."""
    arrays = dict(read_arrays(path) or {})
    state = arrays.pop("state", None)
    if state is None:
        return 0, None, {}, {}
    now, best = (
        grouped({key.partition("|")[2]: a for key, a in arrays.items() if key.startswith(f"{name}|")})
        for name in ("now", "best")
    )
    return int(state[0]), (float(state[1]), float(state[2]), float(state[3])), now, best
