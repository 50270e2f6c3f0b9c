"""``enc-caffe search``: ranks for a budget; from a metrics file alone, or with images to evaluate plans on."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any, Iterator

from enc_caffe import pipeline
from enc_caffe.cli.common import (
    add_placement,
    add_python_layers,
    add_shapes,
    add_workers,
    load_network,
    shape_argument,
    workers,
)
from enc_caffe.cli.feed import add_feed
from enc_caffe.cli.images import add_images, shown, take_images
from enc_caffe.cli.searching import add_format, add_search, search_options, times_of
from enc_caffe.cli.storing import open_store
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import check_parent, claimed
from enc_caffe.form import PLACEMENTS
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline import planning
from enc_caffe.pipeline.measurement import concerns, images_of
from enc_caffe.pipeline.planning import PlanAccuracy, SweepPoint
from enc_caffe.pipeline.timing import as_timed, check_placement, foreign, unlike
from enc_caffe.plan import write_plan
from enc_caffe.search.methods import most_evaluations
from enc_caffe.search.multiples import unmet_multiples
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.plans import show_found, show_plan, show_sweep
from enc_caffe.terminal.progress import progress_bar


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("search", help="ranks of all layers for a budget")
    p.add_argument("metrics", type=Path, metavar="METRICS.json")
    add_search(p, sweeps=True)
    images = p.add_argument_group("images to evaluate plans on (inf needs them)")
    images.add_argument("--model", type=Path, help="prototxt of the network")
    images.add_argument("--weights", type=Path, help="caffemodel")
    add_images(images, "a part of the training images")
    images.add_argument(
        "--input_shape", type=shape_argument, metavar="C,H,W", help="size of the images (default: the LMDB's)"
    )
    add_shapes(images)
    add_python_layers(images)
    images.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-K accuracy counts (default: 1)")
    add_placement(images, PLACEMENTS[0])
    add_feed(p)
    add_workers(p)
    add_format(p)
    p.add_argument("--out", type=Path, required=True, metavar="RANKS.json", help="the plan; of a sweep the table")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Search, print and write."""
    check_parent(args.out)
    take_images(args)
    with claimed(args.out):
        _search(args)


def _search(args: argparse.Namespace) -> None:
    options = search_options(args)
    if options.metric == "fisher+measured":
        raise UsageError(
            "--metric fisher+measured measures as it searches: enc-caffe compress does; here --metric fisher"
        )
    table = read_metrics(args.metrics)
    latency = times_of(args)
    for line in [*foreign(latency), *unlike(latency, table.network)] if latency is not None else ():
        say(line)
    if latency is not None:
        check_placement(latency, [layer for layer, _ in table.by_layer()], args.stride_placement)
        # Nothing is measured again here.
        latency = latency.cautious()
    for line in unmet_multiples(table, options):
        say(line)
    with_images = _images(args)
    expected = most_evaluations(options, len({m.name for m in table.layers}))
    for accuracy in _accuracy(args, table, expected) if with_images else iter((None,)):
        if args.target_flops and len(args.target_flops) > 1:
            with progress_bar("targets", len(args.target_flops)) as bar:
                points = planning.sweep(table, options, args.target_flops, accuracy, latency, bar)
            if accuracy:
                points = [_evaluated(p, accuracy) for p in points]
            write_json(args.out, planning.sweep_data(table, options, points))
            show_sweep(table, points)
        else:
            found = planning.search_plan(table, options, accuracy, latency)
            found = planning.evaluated(found, accuracy) if accuracy else found
            write_plan(args.out, as_timed(found.plan, latency), args.format)
            show_plan(table, found.plan)
            show_found(found)
    print(f"written to {args.out}")


def _images(args: argparse.Namespace) -> bool:
    given = [n for n in ("model", "weights", "lmdb") if getattr(args, n) is not None]
    if args.images is not None and "lmdb" not in given:
        given.append("lmdb")
    if given and len(given) < 3:
        missing = [f"--{n}" for n in ("model", "weights", "lmdb") if n not in given]
        raise UsageError(
            f"plans are evaluated with --model, --weights and --lmdb; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
    return bool(given)


def _accuracy(args: argparse.Namespace, table: MetricsTable, expected: int) -> Iterator[PlanAccuracy]:
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


def _evaluated(point: SweepPoint, accuracy: PlanAccuracy) -> SweepPoint:
    found = None if point.found is None else planning.evaluated(point.found, accuracy)
    return SweepPoint(point.target, found, point.error)
