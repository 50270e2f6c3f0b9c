"""``enc-caffe search``: ranks for a budget; from a metrics file alone, or with images to evaluate plans on."""

from __future__ import annotations

import argparse
from typing import Iterator, Optional

from enc_caffe.cli.searching import search_options, times_of
from enc_caffe.errors import UsageError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import check_parent, claimed
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.latency import LatencyTable
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline import planning
from enc_caffe.pipeline.planning import PlanAccuracy, SweepPoint
from enc_caffe.plan import Plan, write_plan
from enc_caffe.search.methods import most_evaluations
from enc_caffe.search.multiples import unmet_multiples
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.plans import show_found, show_plan, show_sweep
from enc_caffe.terminal.progress import progress_bar


def run(args: argparse.Namespace) -> None:
    """Search, print and write."""
    check_parent(args.out)
    if args.images is not None:
        # What reads images, runs Caffe or compares times is imported where it is needed: ranks alone need none of it.
        from enc_caffe.cli.images import take_images

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
    latency = _times(args, table)
    for line in unmet_multiples(table, options):
        say(line)
    with_images = _images(args)
    expected = most_evaluations(options, len({m.name for m in table.layers}))
    for accuracy in _accuracies(args, table, expected) if with_images else iter((None,)):
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
            write_plan(args.out, _timed(found.plan, latency), args.format)
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


def _times(args: argparse.Namespace, table: MetricsTable) -> Optional[LatencyTable]:
    latency = times_of(args)
    if latency is None:
        return None
    from enc_caffe.pipeline.timing import check_placement, foreign, unlike

    for line in (*foreign(latency), *unlike(latency, table.network)):
        say(line)
    check_placement(latency, [layer for layer, _ in table.by_layer()], args.stride_placement)
    # Nothing is measured again here.
    return latency.cautious()


def _timed(plan: Plan, latency: Optional[LatencyTable]) -> Plan:
    if latency is None:
        return plan
    from enc_caffe.pipeline.timing import as_timed

    return as_timed(plan, latency)


def _accuracies(args: argparse.Namespace, table: MetricsTable, expected: int) -> Iterator[PlanAccuracy]:
    from enc_caffe.cli.evaluating import accuracies

    return accuracies(args, table, expected)


def _evaluated(point: SweepPoint, accuracy: PlanAccuracy) -> SweepPoint:
    found = None if point.found is None else planning.evaluated(point.found, accuracy)
    return SweepPoint(point.target, found, point.error)
