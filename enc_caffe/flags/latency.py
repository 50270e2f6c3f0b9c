"""``enc-caffe latency``: how long every layer takes in a runtime, whole and in a sample of its forms."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_model, add_placement
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_runtime_python, add_schemes
from enc_caffe.form import PLACEMENTS
from enc_caffe.runtimes.known import RUNTIMES


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
    add_placement(p, PLACEMENTS[0])
    p.add_argument("--threads", type=int, default=1, help="threads of the runtime (default: 1)")
    p.add_argument("--batch", type=int, default=1, help="images of a pass (default: 1)")
    p.add_argument("--ranks", type=int, default=8, help="forms of each scheme that are timed (default: 8)")
    p.add_argument("--rounds", type=int, default=15, help="rounds, in each of which every form is timed; up to three times as many if times vary (default: 15)")  # fmt: skip
    p.add_argument("--again", action="store_true", help="measure again what the store already has")
    p.add_argument("--store", type=Path, metavar="FILE", help="SQLite file of results (default: in the user's cache)")
    p.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the networks that would be timed, and a script that times them elsewhere",
    )
    p.add_argument(
        "--import", dest="imported", type=Path, metavar="TIMES.csv", help="times that were measured elsewhere"
    )
    p.add_argument("--out", type=Path, metavar="LATENCY.json", help="the table (not needed with --export)")


def add_runtime(command: Any) -> None:
    """``--runtime`` and ``--runtime_python``."""
    command.add_argument("--runtime", default="caffe", metavar="NAME", help=f"{', '.join(RUNTIMES)} (default: caffe)")
    add_runtime_python(command)
