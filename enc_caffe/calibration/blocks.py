"""A compressed network fitted to what the original gives behind each of its runs of layers, for the inputs that really reach them.

The factors of single layers have closed forms, or nearly so; a run of layers with what is not linear between them has none. They are
fitted by gradient steps of Caffe's own solver (Adam) on the images, without labels: the squared errors of the blobs that leave them, that
of the last weighted by what changes of its channels cost (tr(G E E'), as in :mod:`enc_caffe.decomposition.outputs`). All runs are fitted together,
the original beside them (:mod:`enc_caffe.calibration.beside`). Where a step through the whole network is too large for that, or brings
nothing, they are one after the other: each from the blob that the compressed layers before it give. A part of the images is held out, and
the weights with the least error on it are kept, those of the start among them.

Source: block-wise reconstruction, Li et al., "BRECQ" (2021), section 3.2, there for quantisation.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterator, Mapping, Sequence

import numpy as np

from enc_caffe.calibration.fitting import fit
from enc_caffe.calibration.layerwise import CHUNKS, LIVE, Blobs, flattened, grouped, span
from enc_caffe.calibration.pairs import BATCH, HELD, BlocksTask, Run, pair_files, read_kept
from enc_caffe.calibration.runs import behind
from enc_caffe.calibration.segments import Segment
from enc_caffe.errors import UsageError
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.measuring.passes import Engine, batches, engine_of
from enc_caffe.measuring.scores import count
from enc_caffe.progress import Progress, silent
from enc_caffe.workers.executor import Executor, run_all

#: How often a run sees every image, and all of them together do.
EPOCHS, WHOLE_EPOCHS = 10, 20
#: Learning rates of all runs together, and rounds.
WHOLE_RATES, WHOLE_ROUNDS = (1e-3, 2.5e-4, 6e-5), 8
#: Multiply-adds of the original network that the steps of a fit may stand for (10 times over 1,000 images are 1.1e12 for ResNet-56, 3.4e12 for
#: SqueezeNet, 1.4e14 for VGG-16); where more images are fitted to; least steps, all parts together.
MACS, MORE_MACS, FEWEST_STEPS = 3.4e12, 1e13, 80
#: Bytes of blobs, and what changes of them cost, that a step through the whole network may take, and least images of it.
STEP, LEAST_BATCH = 2 * 2**30, 4
#: Steps of all runs together from which on a part of the images is enough for what a fit begins with: ResNet-56 by 1,000 images takes 1,093.
LONG = 900
#: Images that are needed at least (SqueezeNet gained nothing by 50, ResNet-56 a little by 300).
FEWEST = 100


def too_few(images: int) -> str:
    """For a person."""
    return f"{images} images are too few to fit blocks: at least {FEWEST} are needed"


def spans(images: int, values: int, block: int) -> tuple[tuple[int, int], ...]:
    """The images that are used, by chunk: as many of each as the room for ``values`` numbers of an image allows.

    Raises
    ------
    UsageError
        If there are fewer than :data:`FEWEST`.
    """
    if images < FEWEST:
        raise UsageError(
            f"--reconstruct blocks: {images} images; at least {FEWEST} are needed, a part of them to choose by"
        )
    used = max(FEWEST, LIVE // (4 * values))
    whole = [span(images, chunk, block) for chunk in range(CHUNKS)]
    if used >= images:
        return tuple(s for s in whole if s[1] > s[0])
    return tuple((first, first + -(-(stop - first) * used // images)) for first, stop in whole if stop > first)


def steps_of(images: int, macs: int, epochs: int, batch: int = BATCH, more: bool = False) -> int:
    """Steps of a run, all parts together, for so many images and a network of so many multiply-adds; ``more``: a fit to images beside those
    that choose."""
    passes = min(epochs * images * (HELD - 1) / HELD, (MORE_MACS if more else MACS) / max(1, macs))
    return max(FEWEST_STEPS, int(passes / batch))


def images_passed(images: int, macs: int, more: bool = False) -> int:
    """Images that pass forward and backward through the whole network in all steps; none where there are too few."""
    return BATCH * steps_of(images, macs, WHOLE_EPOCHS, more=more) if images >= FEWEST else 0


def is_long(images: int, macs: int) -> bool:
    """Whether a fit is long enough to make up for what it begins with."""
    return steps_of(images, macs, WHOLE_EPOCHS) >= LONG


def fits_together(segments: Sequence[Segment], step: int) -> bool:
    """Whether images enough fit into a step through the whole network, of so many bytes each."""
    return bool(segments) and STEP // max(1, step) >= LEAST_BATCH


def runs_of(
    segments: Sequence[Segment], images: int, macs: int, step: int, more: bool = False, targets: Sequence[str] = (),
    window: Sequence[int] = (), part: float = 1.0,
) -> tuple[Run, ...]:  # fmt: skip
    """How the runs are fitted: all together first, then, where that brought nothing, one after the other.

    Parameters
    ----------
    step : int
        Bytes that an image takes in a step through the whole network. Where too few fit, the first is left out.
    more : bool
        Whether these are images beside those that choose, which may be passed more often.
    targets : sequence of str
        Blobs that all runs together are held to the original's at; those behind each of them where none are named.
    window : sequence of int
        Rows and columns that a step of all together sees of each image, and ``part`` of the image's area.
    """
    runs = [Run(s, steps_of(images, macs, EPOCHS), onward=at > 0) for at, s in enumerate(segments)]
    if fits_together(segments, step):
        batch = min(BATCH, STEP // max(1, step))
        whole = Segment(segments[0].first, segments[-1].stop, segments[0].bottom, segments[-1].top)
        steps, tops = int(steps_of(images, macs, WHOLE_EPOCHS, batch, more) / part), tuple(s.top for s in segments)
        held = tuple(targets) or tops
        aside = tuple(blob for blob in held if blob not in tops)
        runs.insert(0, Run(whole, steps, batch, WHOLE_RATES, WHOLE_ROUNDS, False, held, aside, tuple(window)))
    return tuple(runs)


def advance(task: BlocksTask, at: int, kept: bool, chunk: int, blobs: Blobs) -> int:
    """Bring one chunk of images to run ``at``: what enters it, and what the original gives behind it (in a worker).

    Parameters
    ----------
    kept : bool
        Whether to go on from what was kept of the run before; else from the images.
    blobs : dict of layer to arrays
        Weights of the compressed network that were fitted.
    """
    if task.runs[at].targets:
        # The original runs beside: images are all that is needed.
        images = np.concatenate([data for data, _ in batches(task.compressed, *task.spans[chunk])])
        _write(pair_files(task, at, chunk)[0], images)
        return len(images)
    segment, engines = task.runs[at].segment, []
    with contextlib.ExitStack() as stack:
        engines = [stack.enter_context(engine_of(t)) for t in (task.compressed, task.original)]
        engines[0].put(blobs)
        ends = (segment.bottom, segment.top)
        found: list[list[np.ndarray]] = [[], []]
        for states in _states(task, at, kept, chunk, engines):
            for engine, (begin, state), blob, own in zip(engines, states, ends, found):
                for name, value in state.items():
                    engine.net.blobs[name].data[...] = value
                engine.part(begin, behind(engine, blob))
                own.append(np.array(engine.net.blobs[blob].data))
    for path, own in zip(pair_files(task, at, chunk), found):
        _write(path, np.concatenate(own))
    return len(found[0])


State = tuple[int, dict[str, np.ndarray]]


def _states(task: BlocksTask, at: int, kept: bool, chunk: int, engines: Sequence[Engine]) -> Iterator[list[State]]:
    """Where both networks begin, and with which blobs, a batch after the other."""
    start, stop = task.spans[chunk]
    if not kept:
        for data, _ in batches(task.compressed, start, stop):
            for engine in engines:
                engine.size(len(data))
            yield [(0, {engine.task.data: data}) for engine in engines]
        return
    before = task.runs[at - 1].segment
    arrays = [read_kept(path) for path in pair_files(task, at - 1, chunk)]
    begins = [behind(engine, blob) for engine, blob in zip(engines, (before.bottom, before.top))]
    for first in range(0, stop - start, task.compressed.batch):
        parts = [array[first : first + task.compressed.batch] for array in arrays]
        for engine, part in zip(engines, parts):
            engine.size(len(part))
        yield [(begin, {blob: part}) for begin, blob, part in zip(begins, (before.bottom, before.top), parts)]


def _write(path: Path, array: np.ndarray) -> None:
    """Write beside, then rename."""
    part = path.with_suffix(".part")
    with part.open("wb") as handle:
        np.save(handle, array)
    os.replace(part, path)


def held_apart(task: BlocksTask, blobs: Blobs) -> np.ndarray:
    """Divergence of the compressed network, shape (2, images): before its weights become these and after, on each image that is held
    out (in a worker).
    """
    places = [i for first, stop in task.spans for i in range(first, stop)]
    held = set(places[HELD - 1 :: HELD])
    found: list[list[float]] = [[], []]
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(engine_of(t)) for t in (task.compressed, task.original))
        # The worker's net has had other weights put in since.
        before = {name: [ours.model.array(b) for b in ours.model.layers[name].blobs] for name in blobs}
        for first, stop in task.spans:
            at = first
            for data, _ in batches(task.compressed, first, stop):
                chosen = data[[i for i in range(len(data)) if at + i in held]]
                at += len(data)
                if not len(chosen):
                    continue
                whole = theirs.run(chosen)
                for own, weights in zip(found, (before, blobs)):
                    ours.put(weights)
                    scores = ours.run(chosen)
                    own += [
                        count(a[None], b[None], None, task.original.softmax, units=task.original.units).divergence
                        for a, b in zip(scores, whole)
                    ]
    return np.array(found)


def nearer(apart: np.ndarray) -> bool:
    """Whether a fit is kept: what it gains on the images that are held out, shape (2, images), is not a loss by more than chance, which
    is two standard errors.

    They are few, a few of them have most of the divergence, and they had a part in the weights that the fit began with: fits of ResNet-56
    that lost 1.2 and 1.5 standard errors on 125 of them gained two points on 2,000 others.
    """
    gained = apart[0] - apart[1]
    return bool(gained.mean() > -2.0 * gained.std(ddof=1) / np.sqrt(len(gained)))


def fit_blocks(
    task: BlocksTask, executor: Executor, progress: Progress = silent,
    roots: Callable[[Sequence[str]], Mapping[str, np.ndarray]] = lambda blobs: {},
) -> tuple[Blobs, list[tuple[float, float]]]:  # fmt: skip
    """Weights of the compressed network; what was fitted is kept, so that a stopped fit resumes where it stopped. Progress counts
    steps. What comes behind all runs together is fitted only where these found nothing.

    Parameters
    ----------
    roots : callable of blobs to their roots
        Of those that the task has not: asked for each blob once, when a run that ends there is near.

    Returns
    -------
    blobs : dict of layer to arrays
        Layers whose weights changed.
    errors : list of (before, after)
        Of every run that was fitted, on the images that are held out, as parts of the power of the original's blob.
    """
    folder = Path(task.folder)
    begin, found, errors = _resumed(folder)
    kept, asked = False, set(task.roots)
    # Steps at learning rates that brought nothing: they were done, and count beside those that the runs have.
    lost = 0
    for at in range(begin, len(task.runs)):
        run = task.runs[at]
        if found and at and task.runs[at - 1].targets:
            break
        new = {own.segment.top for own in (task.runs[at : at + 1] if run.targets else task.runs[at:])} - asked
        if new:
            asked |= new
            task = replace(task, roots={**task.roots, **roots(sorted(new))})
        done = sum(run.steps for run in task.runs[:at])
        all_ = run.steps if run.targets else sum(run.steps for run in task.runs)
        progress(done + lost, all_ + lost)
        onward = kept and run.onward
        jobs = [(task, at, onward, chunk, found) for chunk in range(len(task.spans))]
        run_all(executor, advance, jobs, [1] * len(jobs))
        for chunk in range(len(task.spans)) if at else ():
            for path in pair_files(task, at - 1, chunk):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        own: Blobs = {}
        first = least = 0.0

        for rate in run.rates:
            taken = 0

            def show(rounds: int, run: Run = run, done: int = done + lost, all_: int = all_ + lost) -> None:
                nonlocal taken
                taken = run.steps * rounds // run.rounds
                progress(done + taken, all_)

            own, first, least = fit(task, at, rate, found, executor, show)
            if own or not first:
                break
            # The last one's steps count as the run's.
            lost += taken if rate != run.rates[-1] else 0
        found.update(own)
        errors.append((first, least))
        kept = True
        arrays = flattened(found)
        write_arrays(folder / "fitted.npz", {**arrays, "errors": np.array(errors, np.float64)})
        progress(done + lost + run.steps, all_ + lost)
    return found, errors


def _resumed(folder: Path) -> tuple[int, Blobs, list[tuple[float, float]]]:
    arrays = dict(read_arrays(folder / "fitted.npz") or {})
    errors = [(float(a), float(b)) for a, b in arrays.pop("errors", np.zeros((0, 2)))]
    return len(errors), grouped(arrays), errors
