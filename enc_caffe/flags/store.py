"""``enc-caffe store``: what results are kept, what they are of, and removing them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add the command and its actions."""
    p: argparse.ArgumentParser = commands.add_parser("store", help="list, explain and prune the results that are kept")
    actions = p.add_subparsers(dest="action", metavar="ACTION", required=True)
    every = [actions.add_parser("list", help="one line for every network, weights and images")]
    explain = actions.add_parser("explain", help="what is known of one of them")
    explain.add_argument("digest", help="the beginning of its digest")
    prune = actions.add_parser("prune", help="remove results")
    prune.add_argument("digest", nargs="*", help="the beginning of a digest")
    prune.add_argument("--older", type=float, metavar="DAYS", help="results begun more than this many days ago")
    prune.add_argument("--all", action="store_true", help="all results")
    prune.add_argument(
        "--images",
        action="store_true",
        help="the LMDBs in the cache that were made of --images, and copies of caffemodels",
    )
    for action in (*every, explain, prune):
        action.add_argument("--store", type=Path, metavar="FILE", help="SQLite file (default: in the user's cache)")
