"""``enc-caffe emit``: the compressed network's files from a rank plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_emission, add_making, add_model, add_placement, add_workers
from enc_caffe.flags.distilling import add_distillation
from enc_caffe.flags.feed import add_feed
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_format


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("emit", help="prototxt, solver and caffemodel of a rank plan")
    add_model(p)
    p.add_argument("--ranks", type=Path, required=True, metavar="RANKS.json")
    p.add_argument("--train_lmdb", type=Path, help="source of the emitted TRAIN data layer")
    p.add_argument("--test_lmdb", type=Path, help="source of the emitted TEST data layer")
    add_images(p, "LMDB that says how large images are, and that --decomposition looks at")
    add_format(p)
    add_making(p)
    add_feed(p)
    add_workers(p)
    add_placement(p, None, "that of the times that chose the plan, else exact")
    add_emission(p)
    add_distillation(p)
