"""A compressed network fitted run by run: each gives what the original gives there, for the inputs that really reach it.

The factors of single layers have closed forms, or nearly so; a run of layers with what is not linear between them has none. It is
fitted by gradient steps of Caffe's own solver (Adam) on the images, without labels: the squared error of the blob that leaves it, from
the blob that the compressed layers before it give to the one that the original gives, weighted by what changes of its channels
cost (tr(G E E'), as in :mod:`enc_caffe.decomposition.outputs`). A part of the images is held out, and the weights with the
least error on it are kept, those of the start among them.

Source: block-wise reconstruction, Li et al., "BRECQ" (2021), section 3.2, there for quantisation.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np

from enc_caffe.calibration.fitting import BATCH, HELD, BlocksTask, Run, fit, pair_files, read_kept, varied
from enc_caffe.calibration.layerwise import CHUNKS, LIVE, Blobs, flattened, grouped, span
from enc_caffe.calibration.runs import behind
from enc_caffe.calibration.segments import Segment
from enc_caffe.errors import UsageError
from enc_caffe.files.arrays import read_arrays, write_arrays
from enc_caffe.measuring.passes import Engine, batches, engine_of
from enc_caffe.measuring.scores import count
from enc_caffe.progress import Progress, silent
from enc_caffe.workers.executor import Executor, run_all

#: How often a run sees every image, and the last one, which is all of them together; there an image in so many variants is fitted to.
EPOCHS, WHOLE_EPOCHS, WHOLE_VARIANTS = 10, 20, 4
#: Learning rates of the last run, which begins near its optimum, and its rounds.
WHOLE_RATES, WHOLE_ROUNDS = (5e-4, 1.25e-4), 8
#: Multiply-adds of the original network that the steps of all runs may stand for, and as many those of the last one (10 times over 1,000
#: images are 1.1e12 for ResNet-56, 3.4e12 for SqueezeNet, 1.4e14 for VGG-16); where more images are fitted to; least steps, all parts together.
MACS, MORE_MACS, FEWEST_STEPS = 3.4e12, 1e13, 80
#: Bytes of blobs, and what changes of them cost, that a step of the last run may take, and least images of it.
STEP, LEAST_BATCH = 2 * 2**30, 4
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


def images_passed(images: int, macs: int, together: bool = False) -> int:
    """Images that pass forward and backward through the whole network, all steps of all runs, or of the last one; none where there are too
    few."""
    if images < FEWEST:
        return 0
    last = steps_of(images, macs, WHOLE_EPOCHS, more=together)
    return BATCH * (last if together else steps_of(images, macs, EPOCHS) + last)


def runs_of(
    segments: Sequence[Segment], images: int, macs: int, step: int, more: bool = False
) -> tuple[Run, ...]:  # fmt: skip
    """How the runs are fitted, one after the other, and then all of them together.

    Parameters
    ----------
    step : int
        Bytes that an image takes in a step through the whole network. Where too few fit, the last run is left out.
    more : bool
        Whether these are images beside those that choose, which the last run may pass more of.
    """
    runs = [Run(s, steps_of(images, macs, EPOCHS), onward=at > 0) for at, s in enumerate(segments)]
    batch = min(BATCH, STEP // max(1, step))
    if len(segments) > 1 and batch >= LEAST_BATCH:
        whole = Segment(segments[0].first, segments[-1].stop, segments[0].bottom, segments[-1].top)
        runs.append(
            Run(
                whole,
                steps_of(images, macs, WHOLE_EPOCHS, batch, more),
                batch,
                WHOLE_RATES,
                WHOLE_ROUNDS,
                WHOLE_VARIANTS,
            )
        )
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
    start, stop, variant = task.chunks(at)[chunk]
    if not kept:
        for plain, _ in batches(task.compressed, start, stop):
            data = varied(plain, variant) if variant else plain
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
    task: BlocksTask, executor: Executor, progress: Progress = silent
) -> tuple[Blobs, list[tuple[float, float]]]:
    """Weights of the compressed network, run by run; what was fitted is kept, so that a stopped fit resumes where it stopped. Progress
    counts steps.

    Returns
    -------
    blobs : dict of layer to arrays
        Layers whose weights changed.
    errors : list of (before, after)
        Of every run, on the images that are held out, as parts of the power of the original's blob.
    """
    folder, all_ = Path(task.folder), sum(run.steps for run in task.runs)
    begin, found, errors = _resumed(folder)
    done = sum(run.steps for run in task.runs[:begin])
    progress(done, all_)
    kept = False
    for at in range(begin, len(task.runs)):
        run = task.runs[at]
        onward = kept and run.onward
        jobs = [(task, at, onward, chunk, found) for chunk in range(len(task.chunks(at)))]
        run_all(executor, advance, jobs, [1] * len(jobs))
        for chunk in range(len(task.chunks(at - 1))) if at else ():
            for path in pair_files(task, at - 1, chunk):
                with contextlib.suppress(OSError):
                    os.unlink(path)
        own: Blobs = {}
        first = least = 0.0

        def show(rounds: int, run: Run = run, done: int = done) -> None:
            progress(done + run.steps * rounds // run.rounds, all_)

        for rate in run.rates:
            own, first, least = fit(task, at, rate, found, executor, show)
            if own or not first:
                break
        found.update(own)
        errors.append((first, least))
        kept = True
        arrays = flattened(found)
        write_arrays(folder / "fitted.npz", {**arrays, "errors": np.array(errors, np.float64)})
        done += run.steps
        progress(done, all_)
    return found, errors


def _resumed(folder: Path) -> tuple[int, Blobs, list[tuple[float, float]]]:
    arrays = dict(read_arrays(folder / "fitted.npz") or {})
    errors = [(float(a), float(b)) for a, b in arrays.pop("errors", np.zeros((0, 2)))]
    return len(errors), grouped(arrays), errors
