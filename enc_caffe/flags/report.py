"""``enc-caffe report``: folders of results as one HTML page, the same as Markdown, and figures for papers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("report", help="results as HTML, Markdown, and figures")
    p.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="what compress, finetune or an experiment wrote"
    )
    p.add_argument("--out", type=Path, metavar="DIR", help="folder to write (default, for one DIR: its report/)")
    p.add_argument("--force", action="store_true", help="replace an output that exists")
