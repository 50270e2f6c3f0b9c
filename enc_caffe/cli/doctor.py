"""``enc-caffe doctor``: what is installed, how fast it is, and what to do where something is slow or missing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from enc_caffe.caffe_tools import doctor
from enc_caffe.terminal.tables import print_table


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("doctor", help="versions, Caffe, BLAS kernels and speed, GPUs")
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Print the findings."""
    findings = doctor.collect()
    if args.json:
        print(json.dumps([f.__dict__ for f in findings], indent=1))
        return
    print_table(
        "",
        ["", "what", "found", "advice"],
        [[f.status, f.what, f.found, f.advice] for f in findings],
        left=4,
        wrap=True,
    )
