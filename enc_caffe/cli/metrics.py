"""``enc-caffe metrics``: layer metrics of a network."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe import pipeline
from enc_caffe.cli.common import add_model, progress_bar
from enc_caffe.metrics.sampling import sampler_from
from enc_caffe.metrics.table import write_metrics
from enc_caffe.output import check_parent


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("metrics", help="singular values and sampled ranks of every layer")
    add_model(p)
    p.add_argument("--lmdb", type=Path, help="LMDB that says how large images are")
    p.add_argument("--samples", default="vbmf", help="vbmf (default), even:N, or fractions of r_max such as 0.1,0.5")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    p.add_argument("--out", type=Path, required=True, metavar="METRICS.json")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Compute and write the metrics."""
    check_parent(args.out)
    sampler = sampler_from(args.samples)
    loaded = pipeline.load(args.model, args.lmdb, args.input_shape, args.fully_connected)
    number, done = len(loaded.policy.schemes), 0
    with progress_bar("singular values", number) as bar:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar(done, number)

        table = pipeline.pca_metrics(loaded, args.weights, sampler, step)
    write_metrics(args.out, table)
    print(f"{args.out}: PCA energy of {len(table.layers)} layers of {table.network}")
