"""Accuracy of a network over an LMDB, equal to stock ``caffe test`` on the same images.

The network runs as its deploy form in worker processes, its layers as they are (nothing folded); images pass through the TEST
phase's transformation, and each counts once, whatever the batch size. What the store has is not run again.
"""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import numpy as np

from enc_caffe.caffe_io.describe import set_state
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.inputs import size_images
from enc_caffe.caffe_io.notices import batch_statistics
from enc_caffe.caffe_io.own_phase import training_lines
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.transform import first_size
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import CaffeError, DatasetError, UsageError
from enc_caffe.form import WHOLE
from enc_caffe.measuring.feeding import fed_lines
from enc_caffe.measuring.images import Images, look_at
from enc_caffe.measuring.layers import ORIGINAL, measure
from enc_caffe.measuring.scores import TOPS
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import Subject, net_task
from enc_caffe.shapes import Shape
from enc_caffe.workers.executor import CaffeExecutor, Executor
from enc_caffe.workers.limits import check_device


@dataclass(frozen=True)
class Evaluation:
    """Counts over an LMDB."""

    images: int
    correct: dict[int, int]
    cross_entropy: float

    def accuracy(self, k: int = 1) -> float:
        """Top-k accuracy."""
        return self.correct[k] / self.images


def evaluate(
    model: Path,
    weights: Path,
    lmdb: Path,
    top_k: Union[int, tuple[int, ...]] = (1,),
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
    store: Optional[ResultStore] = None,
    input_shape: Optional[Shape] = None,
) -> Evaluation:
    """Top-k accuracy and cross-entropy of a network over all images of an LMDB.

    Parameters
    ----------
    model, weights, lmdb : Path
    top_k : int or tuple of int
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
    store : ResultStore, optional
        Keeps the counts of every chunk of images.
    input_shape : (C, H, W), optional
        Of an Input layer that is written for another size, or for none.

    Raises
    ------
    UsageError
        For numbers that make no sense.
    DatasetError
        If the images do not fit the network, or a label is beyond its classes.
    CaffeError
        With Caffe's own last line where it stopped.
    """
    for flag, value, least in (("workers", workers, 1), ("batch_size", batch, 1), ("gpu", gpu, 0)):
        if value is not None and value < least:
            raise UsageError(f"--{flag} {value}: {least} or more is needed")
    net = feed.written(set_state(read_net(Path(model), python_layers), level, stages))
    size_images(
        net, str(model), input_shape, first_size(Path(lmdb), feed.transform(net, str(model), pixels=False)), input_shapes or {}
    )  # fmt: skip
    for line in [*training_lines(net), *batch_statistics(net)]:
        notice(line)
    with contextlib.ExitStack() as stack:
        if executor is None:
            gpus = () if gpu is None else (gpu,)
            executor = stack.enter_context(CaffeExecutor(workers, threads, gpus, advice="; start the command again"))
        tops = (top_k,) if isinstance(top_k, int) else top_k
        return evaluate_net(
            net, str(model), weights, lmdb, executor, tops, batch, feed, input_shapes, store, progress, notice
        )


def check_top_k(top_k: Sequence[int], look: Images) -> None:
    """Raise UsageError for a k that is no number of the network's classes."""
    if any(not 1 <= k <= look.scores.classes for k in top_k):
        raise UsageError(
            f"--top_k {','.join(map(str, top_k))}: the network has {look.scores.classes} classes, so numbers from 1 to {look.scores.classes} are needed"
        )


def scores_lines(look: Images) -> list[str]:
    """Lines that say which of several class scores labels are held against, and which images stock Caffe would not count."""
    scores, lines = look.scores, [look.ignored] if look.ignored else []
    if look.labelled and scores.others:
        lines.append(
            f"the network has several class scores ({', '.join([*scores.others, scores.scores])}); accuracies are those of "
            f"'{scores.scores}', the last one"
        )
    return lines


def evaluate_net(
    net: Any,
    model: str,
    weights: Path,
    lmdb: Path,
    executor: Executor,
    top_k: tuple[int, ...] = (1,),
    batch: int = 50,
    feed: Feed = AS_WRITTEN,
    input_shapes: Optional[Mapping[str, Shape]] = None,
    store: Optional[ResultStore] = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
    notice: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """:func:`evaluate` of a network that has been read: a NetParameter, and the path that messages name."""
    weights, lmdb = Path(weights).absolute(), Path(lmdb).absolute()
    look = look_at(net, model, weights, lmdb, feed.transform(net, model), input_shapes=input_shapes)
    check_top_k(top_k, look)
    check_device(net, model, executor.arithmetic.device)
    if not look.labelled:
        what = (
            f"{look.elsewhere}, which {shlex.join(['caffe', 'test', '-model', model, '-weights', str(weights)])} does"
            if look.elsewhere
            else "give an LMDB that has some, or with --images a folder with a sub-folder for each class"
        )
        raise DatasetError(
            f"{lmdb}: its images have no labels for '{look.scores.labels or look.scores.scores}'; an accuracy needs them: {what}"
        )
    macs = sum(form_cost(x, WHOLE)[0] for x in look.network.weighted)
    made = Subject(net, model, weights, lmdb, look, macs, executor, store, fold=False)
    for line in [*fed_lines(net, model, weights, lmdb, look, executor), *scores_lines(look)]:
        notice(line)
    tops = max(TOPS, *top_k)
    task = replace(net_task(made, (), min(batch, made.chunk)), tops=tops)
    context = made.context({**made.key(), "evaluated": tops}) if store is not None else ""
    counts = measure(task, (), look.images, made.chunk, executor, store, context, "network", progress)[ORIGINAL]
    if not np.isfinite(counts.cross_entropy):
        raise CaffeError(
            f"{model}: the network's scores are not finite on the images of {lmdb}; do the images have the scale that it expects?"
        )
    return Evaluation(look.images, {k: counts.right[k - 1] for k in top_k}, counts.cross_entropy / look.images)
