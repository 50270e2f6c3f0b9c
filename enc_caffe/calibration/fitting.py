"""Runs of layers fitted to what the original gives there: rounds of Caffe's own solver on parts of the images, and their mean.

The images that are fitted to are dealt out to :data:`PARTS`, whatever the number of workers. In every round each part goes on from
the same weights, by itself; the mean of what they come to is where the next round begins. So several cores fit one run, and
results do not depend on how many there are.

Source: Adam solvers on parts of the images whose weights are averaged now and then: Stich, "Local SGD converges fast and communicates
little" (2019), there for plain gradient steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import numpy as np

from enc_caffe.calibration.beside import Beside
from enc_caffe.calibration.layerwise import Blobs, flattened, grouped
from enc_caffe.calibration.pairs import HELD, BlocksTask, Pairs, Source
from enc_caffe.calibration.runs import LOSS
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.workers.executor import Executor, beat, run_all

#: Parts that the images are dealt out to.
PARTS = 2
#: A learning rate is left where the first round makes the error so many times as large (SqueezeNet's became five times as large at 2.5e-4).
WORSE = 1.25
#: Error of the last blob, as a part of its power, from which on a fit of all runs takes learning rates as they are. Nearer to the original
#: they fall as the distance does, its root, to a quarter at most: at an error of 0.02 ResNet-56 came as near at a quarter and at a half of the
#: rate that is better than the half at 0.15, and at all of it no nearer than it began.
FAR, SLOWEST = 0.075, 0.25


def source_of(task: BlocksTask, at: int) -> Source:
    """What a run is fitted to (in a worker)."""
    return (Beside if task.runs[at].targets else Pairs)(task, at)


def held_powers(task: BlocksTask, at: int) -> tuple[float, ...]:
    """Power of everything that is wanted of a run, a held-out image (in a worker)."""
    return source_of(task, at).powers()


@dataclass(frozen=True)
class Round:
    """A part's share of a round.

    Attributes
    ----------
    at : int
        The run.
    powers : tuple of float
        Of :func:`held_powers`.
    rate : float
        Adam's learning rate at the beginning of the round.
    steps, left : int
        Of this round, and until the rate is 0. No steps: only the error is wanted.
    number, part : int
    """

    at: int
    powers: tuple[float, ...]
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
    run, source = task.runs[own.at], source_of(task, own.at)
    held, fitted_on = (places[own.part :: PARTS] for places in (source.kept.held, source.kept.fitted))
    batch = min(run.batch, len(fitted_on))
    text, fitted = source.net(batch, own.powers)
    if not fitted:
        return {}, 0.0
    from enc_caffe.workers.pycaffe import adam_solver

    solver = adam_solver(text, task.compressed.weights, own.rate, max(1, own.left))
    net = solver.net
    for name in set(net.params) & set(blobs):
        for blob, array in zip(net.params[name], blobs[name]):
            blob.data[...] = np.reshape(array, blob.data.shape)
    source.ready(net)
    error = 0.0
    for first in range(0, len(held), batch):
        source.put(net, held[first : first + batch])
        net.forward()
        error += float(net.blobs[LOSS].data)
        beat()
    rng = np.random.default_rng([own.at, own.number, own.part])
    for _ in range(own.steps):
        source.put(net, [fitted_on[i] for i in np.sort(rng.choice(len(fitted_on), batch, replace=False))], rng)
        solver.step(1)
        beat()
    return {name: [np.array(b.data) for b in net.params[name]] for name in fitted}, error


def fit(
    task: BlocksTask, at: int, rate: float, blobs: Blobs, executor: Executor, progress: Callable[[int], None] = lambda rounds: None
) -> tuple[Blobs, float, float]:  # fmt: skip
    """Weights of a run with the least error on the images that are held out, none where the first are the best, and that error
    before and after, of the run's last blob, as a part of its power. None too where the first round makes it much worse. What rounds came to
    is kept, so that a fit that was stopped goes on with the next.

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
    first, least, powers = state or (0.0, 0.0, executor.result(executor.submit(held_powers, task, at)))

    def ran(rounds: list[Round]) -> tuple[list[tuple[Blobs, float]], float]:
        parts = run_all(executor, fit_part, [(task, own, {**blobs, **now}) for own in rounds], [1] * PARTS)
        return parts, sum(e for _, e in parts) / (images * max(powers[-1], 1e-30))

    if run.targets and not begin:
        first = ran([Round(at, powers, rate, 0, 1, 0, part) for part in range(PARTS)])[1]
    scale = float(np.clip(np.sqrt(first / FAR), SLOWEST, 1.0)) if run.targets else 1.0
    for number in range(begin, run.rounds + 1):
        if number < run.rounds:
            progress(number)
        left = steps * (run.rounds - number)
        rounds = [
            Round(at, powers, scale * rate * left / (steps * run.rounds), steps if left else 0, left, number, part)
            for part in range(PARTS)
        ]
        parts, error = ran(rounds)
        if not number:
            first = least = error
        elif error < least:
            least, best = error, now
        if not parts[0][0] or (number == 1 and error > WORSE * first):
            break
        now = {n: [np.mean([p[n][i] for p, _ in parts], axis=0) for i in range(len(a))] for n, a in parts[0][0].items()}
        if left:
            kept = {
                f"{name}|{key}": a for name, own in (("now", now), ("best", best)) for key, a in flattened(own).items()
            }
            write_arrays(path, {**kept, "state": np.array([number + 1, first, least, *powers], np.float64)})
    path.unlink(missing_ok=True)
    return best, first, least


def _resumed(path: Path) -> tuple[int, Optional[tuple[float, float, tuple[float, ...]]], Blobs, Blobs]:
    """The round that comes next; the first error, the least one and the powers; the weights, and those with the least error."""
    arrays = dict(read_arrays(path) or {})
    state = arrays.pop("state", None)
    if state is None:
        return 0, None, {}, {}
    now, best = (
        grouped({key.partition("|")[2]: a for key, a in arrays.items() if key.startswith(f"{name}|")})
        for name in ("now", "best")
    )
    number, first, least, *powers = (float(value) for value in state)
    return int(number), (first, least, tuple(powers)), now, best
