"""``enc-caffe metrics``: layer metrics of a network; with images, measured accuracy too."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Optional

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.forecast import Forecast
from enc_caffe.cli.common import load_network, workers
from enc_caffe.cli.images import shown, take_images
from enc_caffe.cli.searching import schemes_of
from enc_caffe.cli.storing import open_store
from enc_caffe.decomposition.policy import unruled
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
from enc_caffe.progress import Stages, by_name
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar, stage_bars


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
    number = len(loaded.policy.schemes)
    with progress_bar("singular values", number) as bar:
        table = pipeline.pca_metrics(loaded, args.weights, sampler, by_name(bar, number), args.multiple_of)
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
        for line in [*concerns(images, shown(args)), *unruled(schemes_of(args), args.decomposition)]:
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
