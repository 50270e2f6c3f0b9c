"""``enc-caffe compress``: metrics, search, emission and evaluation in one go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe import pipeline
from enc_caffe.cli.common import (
    add_emission,
    add_model,
    add_search,
    add_workers,
    latency_curves,
    list_argument,
    open_store,
    print_table,
    progress_bar,
    search_options,
    workers,
)
from enc_caffe.compression import compress
from enc_caffe.output import check_new


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "compress", help="all of it: a smaller network at the MACs you ask for"
    )
    add_model(p)
    p.add_argument("--lmdb", type=Path, required=True, help="images to evaluate by (a part of the training set)")
    p.add_argument("--test_lmdb", type=Path, help="images to report accuracy on (default: those of --lmdb)")
    p.add_argument(
        "--train_lmdb", type=Path, help="source of the emitted TRAIN data layer (default: the prototxt's own)"
    )
    p.add_argument("--top_k", type=list_argument, default=(1,), help="accuracies to report (default: 1)")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    add_search(p, solver="--search_solver")
    add_workers(p)
    add_emission(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compress and print."""
    check_new(args.out, args.force)
    with open_store(args) as store, progress_bar("compress", None) as bar:
        result = compress(
            args.model, args.weights, args.lmdb, args.out, search_options(args), latency=latency_curves(args),
            placement=args.stride_placement, test_lmdb=args.test_lmdb, train_lmdb=args.train_lmdb, solver=args.solver,
            input_shape=args.input_shape, fully_connected=args.fully_connected, top_k=args.top_k, workers=workers(args), store=store,
            force=args.force, progress=bar,
        )  # fmt: skip
    rows = []
    for name, evaluation, costs in (
        ("original", result.before, result.emitted.before),
        ("compressed", result.after, result.emitted.after),
    ):
        cost = costs["exact", "all"]
        rows.append(
            [name, f"{cost.macs:,}", f"{cost.parameters:,}"]
            + [f"{evaluation.accuracy(k):.4f}" for k in args.top_k]
            + [f"{evaluation.cross_entropy:.4f}"]
        )
    print_table(
        f"accuracy on {result.before.images} images of {args.test_lmdb or args.lmdb}, without fine-tuning",
        ["network", "MACs", "weights", *[f"top-{k}" for k in args.top_k], "cross-entropy"],
        rows,
    )
    print(pipeline.cost_line(result.emitted))
    print(
        f"written to {args.out}; fine-tune: enc-caffe finetune --solver {args.out}/solver.prototxt "
        f"--weights {args.out}/compressed.caffemodel --out {args.out}-finetuned"
    )
