"""The images that ``compress`` reports accuracies on, and these accuracies."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from enc_caffe.caffe_io.describe import set_state
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import DatasetError
from enc_caffe.measuring.evaluate import Evaluation, check_top_k, evaluate_net
from enc_caffe.measuring.images import Images, look_at
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.pipeline.source import Source
from enc_caffe.progress import Stages
from enc_caffe.workers.executor import Executor


def tested_images(loaded: LoadedNetwork, source: Source, test: Path, top_k: tuple[int, ...], asked: bool) -> Images:
    """The images that accuracies are of, held against the network before anything is measured; ``asked``: they were given for it.

    Raises
    ------
    UsageError
        If ``top_k`` asks for more classes than there are.
    DatasetError
        If they do not fit, or were given for it, and their labels are not of the network's classes.
    """
    # Of several outputs that are compared together, one may still be class scores.
    net = loaded.runnable.net if loaded.runnable.missing else loaded.net
    look = look_at(net, str(loaded.path), source.weights, test, loaded.transform, any_output=True)
    if look.beyond and asked:
        raise DatasetError(f"{test}: {look.beyond}; accuracies need labels of these")
    if look.labelled:
        check_top_k(top_k, look)
    return look


def unrated(look: Optional[Images]) -> str:
    """Why no accuracy can be had of images; empty where it can."""
    if look is None:
        return "no images were given"
    if look.labelled:
        return ""
    if not look.scores.softmax:
        return "the network has no class scores"
    return look.elsewhere or look.beyond or "no labels of the network's classes"


def same_images(first: Path, second: Path) -> bool:
    """Whether two names are of one LMDB."""
    return os.path.samefile(Path(first) / "data.mdb", Path(second) / "data.mdb")


def accuracies(
    loaded: LoadedNetwork, source: Source, work: Path, test: Path, top_k: tuple[int, ...],
    executor: Executor, store: Optional[ResultStore], progress: Stages, notice: Callable[[str], None],
) -> tuple[Evaluation, Evaluation]:  # fmt: skip
    """Accuracies of both networks on the test images, which have labels."""
    # The original is in memory; the compressed one is read as a user's tools will read it.
    emitted = work / "train_val.prototxt"
    written = source.feed.written(set_state(read_net(emitted, source.python_layers), source.level, source.stages))

    def accuracy(net: Any, prototxt: Path, caffemodel: Path, what: str, say: Callable[[str], None]) -> Evaluation:
        return evaluate_net(
            net, str(prototxt), caffemodel, test, executor, top_k, feed=source.feed, store=store,
            progress=partial(progress, what), notice=say,
        )  # fmt: skip

    before = accuracy(loaded.net, source.model, source.weights, "the original's accuracy", notice)
    after = accuracy(
        written, emitted, work / "compressed.caffemodel", "the compressed network's accuracy", lambda line: None
    )
    return before, after
