"""``enc-caffe latency``: how long every layer takes in Caffe, whole and at several ranks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.cli.common import add_model, load_network
from enc_caffe.cli.images import add_images, take_images
from enc_caffe.cli.searching import add_schemes, schemes_of
from enc_caffe.decomposition.policy import takes_channels_out
from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_parent, claimed
from enc_caffe.measuring.latency import measure_latency
from enc_caffe.metrics.latency import write_latency
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.tables import print_table


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("latency", help="time of every layer by rank, measured in Caffe")
    add_model(p, weights=False)
    add_images(p, "LMDB that says how large images are")
    p.add_argument("--fully_connected", action="store_true", help="time fully connected layers too")
    add_schemes(p)
    p.add_argument("--threads", type=int, default=1, help="BLAS threads (default: 1)")
    p.add_argument("--batch", type=int, default=1, help="images of a pass (default: 1)")
    p.add_argument("--ranks", type=int, default=8, help="ranks of a layer that are timed (default: 8)")
    p.add_argument("--out", type=Path, required=True, metavar="LATENCY.json")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Time, write and print."""
    check_parent(args.out)
    for flag, value, least in (("threads", args.threads, 1), ("batch", args.batch, 1), ("ranks", args.ranks, 2)):
        if value < least:
            raise UsageError(f"--{flag} {value}: {least} or more are needed")
    pruned = takes_channels_out(schemes_of(args))
    if pruned:
        raise UsageError(
            f"--schemes {','.join(pruned)}: layers before a pruned one change with it, and are not timed so; leave it out"
        )
    take_images(args)
    with claimed(args.out):
        _latency(args)


def _latency(args: argparse.Namespace) -> None:
    loaded = load_network(args, args.lmdb, args.fully_connected, schemes_of(args))
    with progress_bar("nets timed", None) as bar:
        table = measure_latency(
            loaded.net, loaded.network, loaded.policy.schemes, args.threads, args.batch, args.ranks, progress=bar,
        )  # fmt: skip
    write_latency(args.out, table)
    rows = [
        [x.name, x.scheme, f"{x.whole / 1e6:.3f}", f"{x.nanoseconds[0] / 1e6:.3f}", str((x.forms or x.ranks)[0]),
         f"{x.nanoseconds[-1] / 1e6:.3f}", str((x.forms or x.ranks)[-1])]
        for x in table.layers
    ]  # fmt: skip
    print_table(
        f"{table.network}: milliseconds of a forward pass, {args.batch} image(s), {args.threads} BLAS thread(s)",
        ["layer", "scheme", "whole", "chain", "at rank", "chain", "at rank"], rows, left=2,
    )  # fmt: skip
    print(f"written to {args.out}")
