"""Accuracy, cross-entropy and divergence of a network with single layers truncated: one pass over the images for all.

For every batch the original runs once and its blobs stay. Then, from the last layer to the first, each form's truncated
weights are put in the layer's place and the net runs from that layer on: what lies before it is still the original's.
The result is a handful of numbers for each layer, form and chunk of images; chunks are fixed by the network alone, so
sums over them do not depend on how many workers there are.
"""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import read_arrays
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.passes import Engine, NetTask, batches, engine_of
from enc_caffe.measuring.scores import Counts, count
from enc_caffe.measuring.store import ResultStore
from enc_caffe.workers.executor import Executor, alive

#: What is evaluated: a layer in a form, or the original network (no layer).
Pair = tuple[str, Form]
ORIGINAL: Pair = ("", WHOLE)
#: Positions of images: the first one, and that behind the last.
Span = tuple[int, int]


def measure(
    task: NetTask,
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
    task : NetTask
    pairs : sequence of (layer, form)
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
    spans = spans_of(images, chunk)
    return added_up(task, measure_spans(task, pairs, spans, executor, store, context, name, progress), spans)


def spans_of(images: int, chunk: int) -> list[Span]:
    """Positions of the images of each task: the first one, and that behind the last."""
    return [(start, min(start + chunk, images)) for start in range(0, images, chunk)]


def added_up(task: NetTask, found: Mapping[Span, Mapping[Pair, Counts]], spans: Sequence[Span]) -> dict[Pair, Counts]:
    """Counts over these spans, in their order, so that sums of floating-point numbers are the same every time."""
    result: dict[Pair, Counts] = {}
    for span in spans:
        for pair, counts in found[span].items():
            result[pair] = result.get(pair, Counts.none(task.tops)) + counts
    return result


def measure_spans(
    task: NetTask,
    pairs: Sequence[Pair],
    spans: Sequence[Span],
    executor: Executor,
    store: Optional[ResultStore] = None,
    context: str = "",
    name: str = "original",
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> dict[Span, dict[Pair, Counts]]:
    """Counts of the original and of every pair over the images of each span apart, as :func:`measure` adds them up."""
    wanted = [ORIGINAL, *dict.fromkeys(pairs)]

    def what(pair: Pair) -> str:
        return named(pair) if pair != ORIGINAL else name

    known = store.known(context) if store else {}
    found: dict[Span, dict[Pair, Counts]] = {}
    todo = []
    for span in spans:
        rows = {pair: known.get((what(pair), *span)) for pair in wanted}
        found[span] = {pair: Counts.of_row(row) for pair, row in rows.items() if row is not None}
        missing = [pair for pair, row in rows.items() if row is None]
        if missing:
            todo.append((span, missing))
    total = sum(stop - start for start, stop in spans) * len(wanted)
    done = total - sum((stop - start) * len(missing) for (start, stop), missing in todo)
    progress(done, total)
    waiting: dict[Future[Any], tuple[Span, list[Pair]]] = {}
    todo.reverse()
    try:
        while todo or waiting:
            # A few more than there are workers, so that none is idle, and little is lost when the command stops.
            while todo and len(waiting) < 2 * executor.workers:
                span, missing = todo.pop()
                waiting[executor.submit(measure_chunk, task, missing, *span)] = (span, missing)
            for future in wait(waiting, timeout=5, return_when=FIRST_COMPLETED).done or alive(executor):
                span, missing = waiting.pop(future)
                counts: list[Counts] = executor.result(future)
                _check_finite(missing, counts)
                if store:
                    store.put(context, *span, {what(p): c.row() for p, c in zip(missing, counts)})
                found[span].update(zip(missing, counts))
                done += (span[1] - span[0]) * len(missing)
                progress(done, total)
    finally:
        for future in waiting:
            future.cancel()
    return {span: {pair: found[span][pair] for pair in wanted} for span in spans}


def named(pair: Pair) -> str:
    """How the store calls a layer at a rank."""
    return f"{pair[0]} {pair[1]}"


def stored(store: ResultStore, context: str, name: str, images: int, chunk: int) -> Optional[Counts]:
    """Counts of a network over all images where the store has every chunk of them, else None."""
    known, total = store.known(context), Counts.none()
    for span in spans_of(images, chunk):
        row = known.get((name, *span))
        if row is None:
            return None
        total = total + Counts.of_row(row)
    return total


def _check_finite(pairs: Sequence[Pair], counts: Sequence[Counts]) -> None:
    for (name, form), c in zip(pairs, counts):
        if not np.isfinite([c.cross_entropy, c.divergence]).all():
            where = f"with layer '{name}' as {form}" if name else "without any truncation"
            raise CaffeError(
                f"the network's scores are not finite {where}; do the images have the scale that it expects?"
            )


def chunk_size(macs: int, images: int) -> int:
    """Images of one task: seconds to a few minutes of work by the network's MACs, and at least 20 tasks of 5 in all.

    It knows nothing of the machine or its workers, so that sums over chunks are the same everywhere.
    """
    most = next((n for n in (100, 50, 20) if n * macs <= 2e10), 10)
    return min(most, max(5, -(-images // 20)))


def measure_chunk(task: NetTask, pairs: Sequence[Pair], start: int, stop: int) -> list[Counts]:
    """Counts of the pairs over the images at positions start to stop (in a worker)."""
    wanted = reference_of(task.reference) if task.reference else None
    with engine_of(task) as engine:
        total, at = [Counts.none(task.tops)] * len(pairs), start
        for data, labels in batches(task, start, stop):
            whole = None if wanted is None else np.array(wanted[at : at + len(data)], np.float64)
            total = [a + b for a, b in zip(total, measure_batch(engine, data, labels, pairs, whole))]
            at += len(data)
        return total


def reference_of(path: str) -> np.ndarray:
    """Scores of the original, one row for each image.

    Raises
    ------
    CaffeError
        If the file is missing or damaged.
    """
    arrays = read_arrays(Path(path))
    if arrays is None:
        raise CaffeError(f"{path}: scores of the original are missing or damaged; run the command again")
    return arrays["scores"]


def measure_batch(
    engine: Engine, data: np.ndarray, labels: Optional[np.ndarray], pairs: Sequence[Pair], whole: Optional[np.ndarray]
) -> list[Counts]:
    """Counts of the pairs over a few images, held against ``whole``, or against this net's own scores without it."""
    own, task = engine.run(data), engine.task
    whole = own if whole is None else whole
    counts = {ORIGINAL: count(own, whole, labels, task.softmax, task.tops, task.units)}
    for name in reversed(engine.order):
        forms = [f for n, f in pairs if n == name]
        if not forms:
            continue
        blob = engine.net.params[name][0]
        kept = blob.data.copy()
        try:
            for form in forms:
                # Taking ``data`` anew is what tells Caffe that a GPU's copy is out of date.
                blob.data[...] = engine.truncated(name, form).reshape(kept.shape)
                scores = engine.run(data, name)
                counts[name, form] = count(scores, whole, labels, task.softmax, task.tops, task.units)
        finally:
            # The engine outlives an error, and must not go on with truncated weights.
            blob.data[...] = kept
    return [counts[p] for p in pairs]


def scores_of(task: NetTask, start: int, stop: int, agreement: bool) -> tuple[np.ndarray, bool]:
    """Scores of some images, and whether passes of one of them from each layer on agree with whole ones (in a worker)."""
    with engine_of(task) as engine:
        parts = [data for data, _ in batches(task, start, stop)]
        scores = np.concatenate([engine.run(data) for data in parts])
        return scores, not agreement or engine.agrees(parts[0][:1])


def check_folding(plain: NetTask, simple: NetTask, executor: Executor, images: int) -> bool:
    """Whether the folded net gives the scores of the plain one on the first images, up to single precision.

    Raises
    ------
    CaffeError
        If a pass of the plain net from some layer on differs from a whole pass, or a score is not finite.
    """
    first, _ = executor.result(executor.submit(scores_of, plain, 0, images, False))
    if not np.isfinite(first).all():
        raise CaffeError(
            f"the network's scores are not finite on the first {images} images; do the images have the scale that it expects?"
        )
    second, agrees = executor.result(executor.submit(scores_of, simple, 0, images, True))
    scale = float(np.abs(first).max()) or 1.0
    if agrees and bool(np.abs(first - second).max() <= 1e-3 * scale):
        return True
    if not executor.result(executor.submit(scores_of, plain, 0, images, True))[1]:
        recurrent = any(f'type: "{kind}"' in plain.prototxt for kind in ("LSTM", "RNN"))
        raise CaffeError(
            "a pass from a layer on differs from a whole pass: some layer changes a blob in place that another one still "
            "needs; give the in-place layer a top of its own"
            + (
                " (or an LSTM or RNN goes on from the images before: its second bottom is 0 where a sequence begins)"
                if recurrent
                else ""
            )
        )
    return False
