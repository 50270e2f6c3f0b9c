"""``enc-caffe metrics``: layer metrics of a network; with images, measured accuracy too."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer, Decomposition
from enc_caffe.calibration.forecast import Forecast
from enc_caffe.cli.common import add_dense, add_early, add_model, add_workers, load_network, workers
from enc_caffe.cli.feed import add_feed
from enc_caffe.cli.images import add_images, shown, take_images
from enc_caffe.cli.searching import add_format, add_schemes, schemes_of
from enc_caffe.cli.storing import open_store
from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_parent, claimed
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.sampling import sampler_from
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.forecasting import predicted_metrics
from enc_caffe.pipeline.measurement import (
    concerns,
    ended_early,
    falling_curves,
    images_of,
    measured_metrics,
    output_errors,
)
from enc_caffe.pipeline.tested import unrated
from enc_caffe.pipeline.wanted import can_be_wanted
from enc_caffe.progress import Stages
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar, stage_bars


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "metrics", help="singular values of every layer, and with --lmdb its measured accuracy by rank"
    )
    add_model(p)
    add_images(p, "a part of the training images to measure on (enc-caffe data partial)")
    p.add_argument("--samples", default="vbmf", help="vbmf (default), even:N, or fractions of r_max such as 0.1,0.5")
    p.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-1 (default) or top-5 is the metric")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    p.add_argument("--out", type=Path, required=True, metavar="METRICS.json")
    p.add_argument(
        "--decomposition", choices=("svd", "weighted", "fisher"), default="svd",
        help="factors that are measured: of plain SVD (default), or of least error of the layer's output",
    )  # fmt: skip
    p.add_argument(
        "--measure", choices=("all", "output", "fisher"), default="all",
        help="all (default): accuracy and divergence, a pass for every form; output: what part of its output's power each layer "
        "loses, from second moments alone (with --decomposition weighted); fisher: the divergence of each form by gradients, one "
        "backward pass for each direction of the scores, whatever the number of forms",
    )  # fmt: skip
    p.add_argument(
        "--multiple_of", type=int, default=1, metavar="N",
        help="look at multiples of N for forms of several ranks and for pruned widths (for search --multiple_of N)",
    )  # fmt: skip
    add_dense(p)
    add_early(p)
    add_schemes(p)
    add_format(p)
    add_feed(p)
    add_workers(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compute and write the metrics."""
    # Before anything is read, which may take minutes.
    if args.accuracy not in (1, 5):
        raise UsageError(f"--accuracy {args.accuracy}: 1 or 5 is needed")
    if args.early and (args.lmdb is None and args.images is None or args.measure != "all"):
        what = "without images" if args.measure == "all" else f"with --measure {args.measure}"
        raise UsageError(f"--early: shortens measurements, and {what} no form is measured; leave it out")
    check_parent(args.out)
    take_images(args)
    with claimed(args.out):
        _metrics(args)


def _metrics(args: argparse.Namespace) -> None:
    sampler = sampler_from(args.samples)
    loaded = load_network(args, args.lmdb, args.fully_connected, schemes_of(args), describe_only=args.lmdb is None)
    loaded = loaded.measurable() if args.lmdb is not None else loaded
    number, done = len(loaded.policy.schemes), 0
    with progress_bar("singular values", number) as bar:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar(done, number)

        table = pipeline.pca_metrics(loaded, args.weights, sampler, step, args.multiple_of)
    if args.lmdb is None:
        for line in loaded.untrained(args.weights):
            say(line)
        write_metrics(args.out, table, args.format)
        print(f"{args.out}: PCA energy of {number} layers of {table.network}")
        return
    write_metrics(args.out, _measured(args, loaded, table), args.format)


def _measured(args: argparse.Namespace, loaded: pipeline.LoadedNetwork, table: MetricsTable) -> MetricsTable:
    with open_store(args) as store, workers(args).executor() as executor:
        images = images_of(loaded, args.weights, args.lmdb, executor, store, int(args.memory * 2**30))
        look, start = images.look, time.perf_counter()
        if not look.labelled:
            say(f"{shown(args)}: {unrated(look)}; the divergence from the original is measured, no accuracy")
        elif look.classes_seen < look.scores.classes:
            say(
                f"{shown(args)}: {look.images} images of {look.classes_seen} classes, but the network has {look.scores.classes}; "
                "the measured accuracies say little of the others"
            )
        for line in concerns(images, shown(args)):
            say(line)
        with stage_bars() as stages:
            first: list[int] = []

            def step(done: int, all_: int) -> None:
                first[:] = first or [done]
                stages("images x (layer, form)", done, all_)

            how = Decomposition(args.decomposition)
            decomposer = None if how.plain and args.measure == "all" else Decomposer(images, how, progress=stages)
            if args.measure == "output":
                return _outputs(args, table, decomposer)
            if args.measure == "fisher":
                return _predictions(args, table, decomposer or Decomposer(images, how, progress=stages), stages)
            measured = measured_metrics(
                images, table, args.accuracy, args.samples == "vbmf", step, decomposer, args.dense,
                can_be_wanted(table) if args.early else None,
            )  # fmt: skip
    seconds = time.perf_counter() - start
    pairs = sum(d is not None for m in measured.layers for d in dict(m.extra)["sampled_divergence"])
    print(
        f"{args.out}: {pairs} forms of {len(loaded.policy.schemes)} layers of {table.network} on {look.images} images, {seconds:.0f} s"
    )
    for line in ended_early(measured):
        print(line)
    if first[0] > 0 and not args.early:
        print(f"{first[0] / (look.images * (pairs + 1)):.0%} of it was in {args.store or 'the store'} already")
    if measured.baseline_accuracy is not None:
        print(f"top-{args.accuracy} accuracy of the original: {measured.baseline_accuracy:.4f}")
    falling = falling_curves(measured)
    if falling:
        names = ", ".join(falling[:5]) + (f" and {len(falling) - 5} more" if len(falling) > 5 else "")
        print(
            f"accuracy falls somewhere as the rank rises in {len(falling)} layers ({names}): the samples are kept as they are; "
            "PCHIP goes through all of them, and ENC-Map's inverse leaves out those that fall"
        )
    return measured


def _outputs(args: argparse.Namespace, table: MetricsTable, decomposer: Optional[Decomposer]) -> MetricsTable:
    assert decomposer is not None
    found = output_errors(table, decomposer, args.samples == "vbmf")
    forms = sum(e is not None for m in found.layers for e in m.series("sampled_output_error"))
    print(f"{args.out}: output errors of {forms} forms of {table.network} on {decomposer.made.look.images} images")
    return found


def _predictions(args: argparse.Namespace, table: MetricsTable, decomposer: Decomposer, stages: Stages) -> MetricsTable:
    start, look = time.perf_counter(), decomposer.made.look
    forecast = Forecast(decomposer, [m.name for m in table.layers], stages)
    for line in forecast.remarks():
        say(line)
    found = predicted_metrics(table, forecast, args.samples == "vbmf")
    extra = {
        **dict(table.extra),
        "decomposition": args.decomposition,
        "images": look.images,
        "lmdb": decomposer.made.lmdb.name,
    }
    forms = sum(e is not None for m in found.layers for e in m.series("sampled_fisher"))
    print(
        f"{args.out}: predicted divergences of {forms} forms of {table.network} on {look.images} images, {time.perf_counter() - start:.0f} s"
    )
    return replace(
        found, source=f"gradients on {look.images} images of {decomposer.made.lmdb.name}", extra=tuple(extra.items())
    )
