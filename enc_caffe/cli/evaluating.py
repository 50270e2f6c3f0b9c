"""Plans of a search, evaluated on the images that its flags name."""

from __future__ import annotations

import argparse
import contextlib
from typing import Iterator

from enc_caffe import pipeline
from enc_caffe.cli.common import load_network, workers
from enc_caffe.cli.images import shown
from enc_caffe.cli.storing import open_store
from enc_caffe.errors import MetricsError
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.measurement import concerns, images_of
from enc_caffe.pipeline.planning import PlanAccuracy
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar


def accuracies(args: argparse.Namespace, table: MetricsTable, expected: int) -> Iterator[PlanAccuracy]:
    """What evaluates whole plans, as long as its workers and its store are open; ``expected`` plans, for the bar."""
    loaded = load_network(args, args.lmdb, True)
    _check_layers(args, loaded, table)
    with contextlib.ExitStack() as stack:
        store, executor = stack.enter_context(open_store(args)), stack.enter_context(workers(args).executor())
        bar = stack.enter_context(progress_bar("images", None))
        images = images_of(loaded, args.weights, args.lmdb, executor, store, int(args.memory * 2**30))
        for line in concerns(images, shown(args)):
            say(line)
        yield PlanEvaluator(
            images, args.stride_placement, args.accuracy,
            lambda plans, done, all_: bar(plans * all_ + done, max(expected, plans + 1) * all_),
        )  # fmt: skip


def _check_layers(args: argparse.Namespace, loaded: pipeline.LoadedNetwork, table: MetricsTable) -> None:
    known = {m.name for m in table.layers}
    loaded.check_measurable(known, str(args.metrics))
    for m in table.layers:
        if m.name not in loaded.network:
            raise MetricsError(
                f"{args.metrics}: layer '{m.name}' is not in {args.model}; the metrics are of another network"
            )
        layer = loaded.network[m.name]
        ours, theirs = ((x.in_channels, x.out_channels, tuple(x.kernel)) for x in (layer, m.layer))
        if ours != theirs:
            raise MetricsError(
                f"{args.metrics}: layer '{m.name}' has in, out channels and kernel {theirs}, but {args.model} has {ours}"
            )
    missing = [n for n in loaded.policy.schemes if n not in known and loaded.network[n].convolution is not None]
    if missing:
        say(f"{args.metrics}: no metrics of {', '.join(missing)}; they stay whole")
