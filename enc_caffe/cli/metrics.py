"""``enc-caffe metrics``: layer metrics of a network; with images, measured accuracy too."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Optional

from enc_caffe import pipeline
from enc_caffe.cli.common import (
    add_dense,
    add_model,
    add_workers,
    load_network,
    open_store,
    progress_bar,
    stage_bars,
    workers,
)
from enc_caffe.measurement import concerns, falling_curves, images_of, measured_metrics
from enc_caffe.metrics.sampling import sampler_from
from enc_caffe.metrics.table import MetricsTable, write_metrics
from enc_caffe.output import check_parent, claimed
from enc_caffe.runtime.decomposer import Decomposer, Decomposition


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "metrics", help="singular values of every layer, and with --lmdb its measured accuracy by rank"
    )
    add_model(p)
    p.add_argument("--lmdb", type=Path, help="a part of the training images to measure on (enc-caffe data partial)")
    p.add_argument("--samples", default="vbmf", help="vbmf (default), even:N, or fractions of r_max such as 0.1,0.5")
    p.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-1 (default) or top-5 is the metric")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    p.add_argument("--out", type=Path, required=True, metavar="METRICS.json")
    p.add_argument(
        "--decomposition", choices=("svd", "weighted"), default="svd",
        help="factors that are measured: of plain SVD (default), or of least error of the layer's output",
    )  # fmt: skip
    add_dense(p)
    add_workers(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compute and write the metrics."""
    check_parent(args.out)
    with claimed(args.out):
        _metrics(args)


def _metrics(args: argparse.Namespace) -> None:
    sampler = sampler_from(args.samples)
    loaded = load_network(args, args.lmdb, args.fully_connected, describe_only=args.lmdb is None)
    number, done = len(loaded.policy.schemes), 0
    with progress_bar("singular values", number) as bar:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar(done, number)

        table = pipeline.pca_metrics(loaded, args.weights, sampler, step)
    if args.lmdb is None:
        write_metrics(args.out, table)
        print(f"{args.out}: PCA energy of {len(table.layers)} layers of {table.network}")
        return
    ranks = pipeline.measured_ranks(loaded, table, args.weights) if args.samples == "vbmf" else None
    measured = _measured(args, loaded, table, ranks)
    write_metrics(args.out, measured)


def _measured(
    args: argparse.Namespace, loaded: pipeline.LoadedNetwork, table: MetricsTable, ranks: Optional[dict[str, list[int]]]
) -> MetricsTable:
    with open_store(args) as store, workers(args).executor() as executor:
        images = images_of(loaded, args.weights, args.lmdb, executor, store, int(args.memory * 2**30))
        look, start = images.look, time.perf_counter()
        if not look.labelled:
            print(f"{args.lmdb}: no labels; the divergence from the original is measured, no accuracy", file=sys.stderr)
        elif look.classes_seen < look.scores.classes:
            print(
                f"{args.lmdb}: {look.images} images of {look.classes_seen} classes, but the network has {look.scores.classes}; "
                "the measured accuracies say little of the others",
                file=sys.stderr,
            )
        for line in concerns(images, args.lmdb):
            print(line, file=sys.stderr)
        with stage_bars() as stages:
            first: list[int] = []

            def step(done: int, all_: int) -> None:
                first[:] = first or [done]
                stages("images x (layer, rank)", done, all_)

            how, schemes = Decomposition(args.decomposition), {m.name: m.scheme for m in table.layers}
            decomposer = None if how.plain else Decomposer(images, schemes, how, progress=stages)
            measured = measured_metrics(images, table, args.accuracy, ranks, step, decomposer, args.dense)
    seconds = time.perf_counter() - start
    pairs = sum(d is not None for m in measured.layers for d in dict(m.extra)["sampled_divergence"])
    print(
        f"{args.out}: {pairs} ranks of {len(table.layers)} layers of {table.network} on {look.images} images, {seconds:.0f} s"
    )
    if first[0] > 0:
        print(f"{first[0] / (look.images * (pairs + 1)):.0%} of it was in {args.store or 'the store'} already")
    if measured.baseline_accuracy is not None:
        print(f"top-{args.accuracy} accuracy of the original: {measured.baseline_accuracy:.4f}")
    falling = falling_curves(measured)
    if falling:
        shown = ", ".join(falling[:5]) + (f" and {len(falling) - 5} more" if len(falling) > 5 else "")
        print(
            f"accuracy falls somewhere as the rank rises in {len(falling)} layers ({shown}): the samples are kept as they are; "
            "PCHIP goes through all of them, and ENC-Map's inverse leaves out those that fall"
        )
    return measured
