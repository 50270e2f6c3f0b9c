"""``enc-caffe inspect``: the layers of a network, what they cost, and which can be decomposed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_model
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_schemes


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("inspect", help="layers, MACs, parameters, schemes and r_max")
    add_model(p, weights=False)
    p.add_argument("--weights", type=Path, help="caffemodel to hold against the prototxt")
    add_images(p, "LMDB that says how large images are")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    add_schemes(p)
    p.add_argument("--solver", type=Path, help="solver prototxt whose paths are shown as well")
    p.add_argument("--json", type=Path, metavar="OUT", help="write the rows as JSON as well")
