"""What several commands make of their flags, and say."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from enc_caffe import pipeline
from enc_caffe.caffe_io.feed import AS_WRITTEN
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.cli.feed import feed_of
from enc_caffe.errors import UsageError
from enc_caffe.form import PAPER, Schemes
from enc_caffe.pipeline.source import Source
from enc_caffe.terminal.naming import say
from enc_caffe.workers.choice import Workers


def load_network(
    args: argparse.Namespace,
    lmdb: Optional[Path],
    fully_connected: bool,
    schemes: Schemes = PAPER,
    describe_only: bool = False,
    weights: Optional[Path] = None,
) -> pipeline.LoadedNetwork:
    """The network that the arguments of :func:`add_model` name; what Caffe does not have of it is told on standard error.

    ``describe_only``: nothing of it will be run, so Python layers need no permission. ``weights``: a caffemodel that may say a
    size of images where nothing else does.
    """
    loaded = pipeline.load(
        args.model, lmdb, args.input_shape, fully_connected, args.allow_python_layers, dict(args.top_shape), args.level,
        args.stage, feed_of(args) if hasattr(args, "mean_value") else AS_WRITTEN, schemes, describe_only, weights,
    )  # fmt: skip
    for line in loaded.notices():
        say(line)
    return loaded


def source_of(args: argparse.Namespace) -> Source:
    """The files and flags of :func:`add_model`."""
    return Source(
        args.model, args.weights, args.input_shape, dict(args.top_shape), args.level, tuple(args.stage),
        args.allow_python_layers, feed_of(args),
    )  # fmt: skip


def workers(args: argparse.Namespace) -> Workers:
    """What the arguments of :func:`add_workers` ask for."""
    if not args.memory > 0:
        raise UsageError(f"--memory {args.memory}: gibibytes above 0 are needed")
    if not args.task_limit >= 0:
        raise UsageError(f"--task_limit {args.task_limit}: minutes of 0 or more are needed")
    return Workers(args.workers, args.gpu, args.scheduler, args.task_limit * 60)


def decomposition(args: argparse.Namespace) -> Decomposition:
    """What the arguments of :func:`add_making` ask for."""
    return Decomposition(
        getattr(args, "decomposition", "svd"),
        getattr(args, "recalibrate", frozenset()),
        getattr(args, "reconstruct", "none"),
    )


def print_untrained(emitted: pipeline.Emitted) -> None:
    """Why the emitted ``train_val.prototxt`` got no data and no loss, where it got none, and what stock Caffe could not load."""
    if emitted.lacking:
        say(emitted.lacking)
    if emitted.untrained:
        print(f"train_val.prototxt is the network unchanged, no data layer or loss was added: {emitted.untrained}")
    for line in emitted.unread:
        say(line)
    if emitted.trained_by:
        print(f"solver.prototxt: {emitted.trained_by}")
    if emitted.untaught:
        print(
            f"train_val.prototxt has a loss of the class scores alone: training by it changes what {', '.join(emitted.untaught)} "
            f"{'are' if len(emitted.untaught) > 1 else 'is'} made of, and teaches nothing there; add losses to it, or train by the original's "
            "outputs (--distill)"
        )
    if emitted.unchecked:
        print(f"not all of it is checked: {emitted.unchecked}")
