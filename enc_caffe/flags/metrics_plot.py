"""``enc-caffe metrics plot``: y_p and y_m of every layer over the rank, with the sampled points (Figure 2)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("metrics plot", help="curves of all layers' metrics (Figure 2)")
    p.add_argument("metrics", type=Path, metavar="METRICS.json")
    p.add_argument("--out", type=Path, required=True, metavar="FIGURE", help=".png, .svg or .pdf")
