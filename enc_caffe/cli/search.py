"""``enc-caffe search``: ranks for a budget; from a metrics file alone, or with images to evaluate plans on."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from pathlib import Path
from typing import Any, Iterator, Optional

from enc_caffe import pipeline, planning
from enc_caffe.cli.common import (
    add_python_layers,
    add_shapes,
    add_workers,
    load_network,
    open_store,
    print_table,
    progress_bar,
    shape_argument,
    workers,
)
from enc_caffe.cli.feed import add_feed
from enc_caffe.cli.images import add_images, shown, take_images
from enc_caffe.cli.searching import add_format, add_search, search_options, times_of
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.form import WHOLE
from enc_caffe.jsonfile import write_json
from enc_caffe.measurement import concerns, images_of
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.output import check_parent, claimed
from enc_caffe.plan import Plan, write_plan
from enc_caffe.planning import Found, PlanAccuracy, SweepPoint
from enc_caffe.runtime.measuring import PlanEvaluator


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
        "--input_shape", type=shape_argument, metavar="C,H,W", help="size of the images, else the LMDB's"
    )
    add_shapes(images)
    add_python_layers(images)
    images.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-K accuracy counts (default: 1)")
    images.add_argument("--stride_placement", choices=("exact", "published"), default="exact")
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
    table = read_metrics(args.metrics)
    latency = times_of(args)
    with_images = _images(args)
    for accuracy in _accuracy(args, table) if with_images else iter((None,)):
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
            write_plan(args.out, found.plan, args.format)
            show_plan(table, found.plan)
            show_found(found)
    print(f"written to {args.out}")


def _images(args: argparse.Namespace) -> bool:
    given = [n for n in ("model", "weights", "lmdb") if getattr(args, n) is not None]
    if args.images is not None and "lmdb" not in given:
        given.append("lmdb")
    if given and len(given) < 3:
        missing = " and ".join(f"--{n}" for n in ("model", "weights", "lmdb") if n not in given)
        raise UsageError(f"plans are evaluated with --model, --weights and --lmdb; {missing} is missing")
    return bool(given)


def _accuracy(args: argparse.Namespace, table: MetricsTable) -> Iterator[PlanAccuracy]:
    loaded = load_network(args, args.lmdb, True)
    _check_layers(args, loaded, table)
    with contextlib.ExitStack() as stack:
        store, executor = stack.enter_context(open_store(args)), stack.enter_context(workers(args).executor())
        bar = stack.enter_context(progress_bar("images", None))
        images = images_of(loaded, args.weights, args.lmdb, executor, store, int(args.memory * 2**30))
        for line in concerns(images, shown(args)):
            print(line, file=sys.stderr)
        yield PlanEvaluator(
            images, args.stride_placement, args.accuracy,
            lambda plans, done, all_: bar(plans * all_ + done, (plans + 1) * all_),
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
        print(f"{args.metrics}: no metrics of {', '.join(missing)}; they stay whole", file=sys.stderr)


def _evaluated(point: SweepPoint, accuracy: PlanAccuracy) -> SweepPoint:
    found = None if point.found is None else planning.evaluated(point.found, accuracy)
    return SweepPoint(point.target, found, point.error)


def show_plan(table: MetricsTable, plan: Plan) -> None:
    """Forms of all layers and the plan's costs in both conventions."""
    rows = []
    for layer, curves in table.by_layer():
        form = plan.forms.get(layer.name, WHOLE)
        own = next((m for m in curves if m.scheme == form.scheme), None)
        part = form_cost(layer, form)[0] / form_cost(layer, WHOLE)[0]
        energy = "" if own is None else f"{own.energy[own.forms.index(form) + 1]:.4f}"
        rows.append(
            [
                layer.name,
                str(form),
                str(own.max_rank) if own is not None and not own.ladder else "",
                f"{part:.3f}",
                energy,
            ]
        )
    about = plan.about
    print_table(
        f"{plan.network}: forms by {about.method} ({about.solver}), metric {about.metric}",
        ["layer", "form", "r_max", "MACs left", "PCA energy"],
        rows,
        left=2,
    )
    ratios = planning.plan_ratios(table, plan)
    latency = f", latency {about.latency_ratio:.4f}" if about.latency_ratio is not None else ""
    print(
        f"MACs {ratios['paper']:.4f} (paper convention), {ratios['exact']:.4f} (exact){latency} of the {len(rows)} layers that the "
        f"metrics list; MACs {about.flops_ratio:.4f} ({about.convention}) and parameters {about.params_ratio:.4f} of {about.counted}"
    )


def show_found(found: Found) -> None:
    """Objective, candidates, optimality and time."""
    about, result = found.plan.about, found.result
    if about.proven_optimal:
        proof = "proven optimal"
    elif about.gap is None:
        proof = "no bound on the optimum is known"
    else:
        proof = f"the optimum is at most {_factor(about.gap)} times as large"
    number = f"{result.candidates:,} candidate{'s' if result.candidates > 1 else ''}"
    if about.solver == "exact":
        every = sum(math.log10(len(x.choices)) for x in found.problem.layers)
        number = f"all 10^{every:.1f} configurations"
    print(f"objective {about.objective:.4g}, {proof}; {number}; {(about.search_seconds or 0.0) * 1000:.1f} ms")
    if result.accuracy is not None:
        print(f"accuracy {result.accuracy:.4f}")
    if result.evaluated:
        first = f", the first of them with {result.evaluated[0][1]:.4f}" if about.method == "inf" else ""
        print(f"{len(result.evaluated)} plans evaluated{first}")
    if result.note:
        print(result.note)


def _factor(gap: float) -> str:
    factor = math.exp(min(gap, 700.0))
    return f"{factor:.6g}" if factor < 1e6 else f"{factor:.1e}"


def show_sweep(table: MetricsTable, points: list[SweepPoint]) -> None:
    """One row a target."""
    rows = []
    for p in points:
        if p.found is None:
            rows.append([f"{p.target:.4g}", "cannot be reached", "", "", "", "", ""])
            continue
        ratios, about = planning.plan_ratios(table, p.found.plan), p.found.plan.about
        accuracy: Optional[float] = planning.predicted(p.found)
        gap = "proven" if about.proven_optimal else "" if about.gap is None else _factor(about.gap)
        rows.append([
            f"{p.target:.4g}", f"{ratios['paper']:.4f}", f"{ratios['exact']:.4f}", f"{about.params_ratio:.4f}",
            f"{about.objective:.4g}", gap, "" if accuracy is None else f"{accuracy:.4f}",
        ])  # fmt: skip
    print_table(
        f"{table.network}: {len(points)} targets",
        ["target", "MACs, paper", "MACs, exact", "parameters", "objective", "optimum/objective at most", "accuracy"],
        rows, left=0,
    )  # fmt: skip
