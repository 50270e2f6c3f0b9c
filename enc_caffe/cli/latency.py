"""``enc-caffe latency``: how long every layer takes in a runtime, whole and in a sample of its forms."""

from __future__ import annotations

import argparse
import contextlib
import shlex
from typing import Any, Sequence

from enc_caffe.cli.common import load_network
from enc_caffe.cli.images import take_images
from enc_caffe.cli.searching import schemes_of
from enc_caffe.cli.storing import open_store
from enc_caffe.decomposition.policy import takes_channels_out
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.files.output import atomic_folder, check_new, check_parent, claimed
from enc_caffe.measuring.clock import Timer
from enc_caffe.measuring.elsewhere import SCRIPT, TIMES, Exporter, Imported
from enc_caffe.measuring.latency import Times, measure_latency
from enc_caffe.metrics.latency import LatencyTable, write_latency
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.runtimes.known import runtime_for
from enc_caffe.runtimes.process import RuntimeProcess
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.tables import print_table


def run(args: argparse.Namespace) -> None:
    """Time, write and print."""
    if args.export is not None and args.imported is not None:
        raise UsageError("--export and --import: one of them")
    if args.export is None and args.out is None:
        raise UsageError("--out LATENCY.json is needed")
    if args.export is None:
        check_parent(args.out)
    else:
        if args.export.exists():
            raise UsageError(f"--export {args.export}: exists already; name a folder that does not")
        check_new(args.export, False)
    for flag, value, least in (
        ("threads", args.threads, 1), ("batch", args.batch, 1), ("ranks", args.ranks, 2), ("rounds", args.rounds, 6),
    ):  # fmt: skip
        if value < least:
            raise UsageError(f"--{flag} {value}: {least} or more are needed")
    pruned = takes_channels_out(schemes_of(args))
    if pruned:
        raise UsageError(
            f"--schemes {','.join(pruned)}: layers before a pruned one change with it, and are not timed so; leave it out"
        )
    runtime = runtime_for(args.runtime)
    if runtime.one_image and args.batch > 1:
        raise UsageError(f"--batch {args.batch}: {runtime.name} takes one image at a time")
    take_images(args)
    with claimed(args.export or args.out):
        loaded = load_network(args, args.lmdb, args.fully_connected, schemes_of(args))
        loaded.check_decomposable()
        if args.export is not None:
            _export(args, loaded)
            return
        table = _imported(args, loaded) if args.imported is not None else _measured(args, loaded)
        if all(x.whole <= 1 for x in table.layers):
            raise MetricsError(
                f"{args.imported or args.runtime}: no layer takes longer than the network without it; are these the times of these networks?"
            )
        write_latency(args.out, table)
    show(table)
    print(f"written to {args.out}")


def _table(args: argparse.Namespace, loaded: LoadedNetwork, timer: Times, progress: Any, notice: Any) -> LatencyTable:
    return measure_latency(
        loaded.net,
        loaded.network,
        loaded.policy.schemes,
        timer,
        args.batch,
        args.ranks,
        args.stride_placement,
        progress=progress,
        notice=notice,
    )


def _export(args: argparse.Namespace, loaded: LoadedNetwork) -> None:
    runtime = runtime_for(args.runtime)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(atomic_folder(args.export))
        bar = stack.enter_context(progress_bar("networks written", None, waits=True))
        process = None
        try:
            process = stack.enter_context(
                RuntimeProcess(runtime, args.threads, args.runtime_python, say, lambda words: bar(None, None, words))
            )
        except UsageError as exc:
            say(f"the networks are not converted: {exc}")
        exporter = Exporter(folder, runtime, process)
        _table(args, loaded, exporter, bar, lambda line: None)
        number = exporter.finish()
    script = shlex.quote(str(args.export / SCRIPT))
    print(
        f"{number} networks written to {args.export}; where {runtime.name} is: python {script} THREADS, then here the same "
        f"command with --import {TIMES} --out LATENCY.json in place of --export"
    )


def _imported(args: argparse.Namespace, loaded: LoadedNetwork) -> LatencyTable:
    return _table(args, loaded, Imported(args.imported, runtime_for(args.runtime)), lambda done, all_: None, say)


def _measured(args: argparse.Namespace, loaded: LoadedNetwork) -> LatencyTable:
    lines: list[str] = []
    with contextlib.ExitStack() as stack:
        # Behind the bar, and also where no layer is left, since they say why.
        stack.callback(_say_all, lines)
        bar = stack.enter_context(progress_bar("networks timed", None, waits=True))
        process = stack.enter_context(
            RuntimeProcess(
                runtime_for(args.runtime), args.threads, args.runtime_python, say, lambda words: bar(None, None, words)
            )
        )
        store = stack.enter_context(open_store(args))
        timer = Timer(process, args.batch, store, args.rounds, lines.append, args.again)
        return _table(args, loaded, timer, bar, lines.append)


def _say_all(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


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
