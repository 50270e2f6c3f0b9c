"""``enc-caffe latency``: how long every layer takes in a runtime, whole and in a sample of its forms."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import Any

from enc_caffe.cli.common import add_model, load_network, open_store
from enc_caffe.cli.images import add_images, take_images
from enc_caffe.cli.searching import add_schemes
from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_parent, claimed
from enc_caffe.measuring.latency import measure_latency
from enc_caffe.metrics.latency import LatencyTable, write_latency
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.runtimes.known import RUNTIMES, runtime_for
from enc_caffe.runtimes.process import RuntimeProcess
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.tables import print_table


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "latency", help="time of every layer by form, measured in a runtime"
    )
    add_model(p, weights=False)
    add_images(p, "LMDB that says how large images are")
    p.add_argument("--fully_connected", action="store_true", help="time fully connected layers too")
    add_schemes(p)
    add_runtime(p)
    p.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: 1)")
    p.add_argument("--batch", type=int, default=1, help="images of a pass (default: 1)")
    p.add_argument("--ranks", type=int, default=8, help="forms of each scheme that are timed (default: 8)")
    p.add_argument("--rounds", type=int, default=15, help="turns of every form; up to three times as many where they differ (default: 15)")  # fmt: skip
    p.add_argument("--again", action="store_true", help="measure what is in the store too")
    p.add_argument("--store", type=Path, metavar="FILE", help="SQLite file of results (default: in the user's cache)")
    p.add_argument("--out", type=Path, required=True, metavar="LATENCY.json")
    p.set_defaults(run=run)


def add_runtime(command: Any) -> None:
    """``--runtime`` and ``--runtime_python``."""
    command.add_argument("--runtime", default="caffe", metavar="NAME", help=f"{', '.join(RUNTIMES)} (default: caffe)")
    add_runtime_python(command)


def add_runtime_python(command: Any) -> None:
    """``--runtime_python``."""
    command.add_argument(
        "--runtime_python", type=Path, metavar="PATH",
        help="the Python that has the runtime (default: this one, or what make deploy-test installed)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Time, write and print."""
    check_parent(args.out)
    for flag, value, least in (
        ("threads", args.threads, 1), ("batch", args.batch, 1), ("ranks", args.ranks, 2), ("rounds", args.rounds, 6),
    ):  # fmt: skip
        if value < least:
            raise UsageError(f"--{flag} {value}: {least} or more are needed")
    runtime = runtime_for(args.runtime)
    if runtime.one_image and args.batch > 1:
        raise UsageError(f"--batch {args.batch}: {runtime.name} takes one image at a time")
    take_images(args)
    with claimed(args.out):
        loaded = load_network(args, args.lmdb, args.fully_connected, args.schemes)
        table = _measured(args, loaded)
        write_latency(args.out, table)
    show(table)
    print(f"written to {args.out}")


def _measured(args: argparse.Namespace, loaded: LoadedNetwork) -> LatencyTable:
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(RuntimeProcess(runtime_for(args.runtime), args.threads, args.runtime_python))
        store, bar = stack.enter_context(open_store(args)), stack.enter_context(progress_bar("networks timed", None))
        table = measure_latency(
            loaded.net, loaded.network, loaded.policy.schemes, process, args.batch, args.ranks,
            store=None if args.again else store, rounds=args.rounds, progress=bar, notice=lines.append,
        )  # fmt: skip
    for line in lines:
        print(line, file=sys.stderr)
    return table


def show(table: LatencyTable) -> None:
    """Print the times of all layers."""
    rows = [
        [x.name, x.scheme, f"{x.whole / 1e6:.3f}", f"{x.nanoseconds[0] / 1e6:.3f}", str((x.forms or x.ranks)[0]),
         f"{x.nanoseconds[-1] / 1e6:.3f}", str((x.forms or x.ranks)[-1])]
        for x in table.layers
    ]  # fmt: skip
    about = table.about
    print_table(
        f"{table.network}: milliseconds of a forward pass in {about.get('runtime')} {about.get('version')}, {about.get('batch')} "
        f"image(s), {about.get('threads')} thread(s)",
        ["layer", "scheme", "whole", "chain", "at rank", "chain", "at rank"], rows, left=2,
    )  # fmt: skip
    if table.network_time is not None:
        layers = sum({x.name: x.whole for x in table.layers}.values())
        print(
            f"the network from end to end: {table.network_time / 1e6:.3f} ms, of which these layers {layers / table.network_time:.2f}"
        )
