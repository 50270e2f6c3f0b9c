"""``enc-caffe search plot``: R_min, R_max and R_o of every layer, or the Pareto curves of sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.searching import add_search


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "search plot", help="ranks and their bounds by layer (Figure 3), or Pareto curves of sweeps (Figure 6)"
    )
    p.add_argument("files", type=Path, nargs="+", metavar="FILE", help="METRICS.json, or tables of sweeps")
    p.add_argument("--ranks", type=Path, metavar="RANKS.json", help="plan to draw (default: search one)")
    add_search(p)
    p.add_argument("--out", type=Path, required=True, metavar="FIGURE", help=".png, .svg or .pdf")
