"""``enc-caffe search``: ranks for a budget; from a metrics file alone, or with images to evaluate plans on."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_input_shape, add_placement, add_python_layers, add_shapes, add_workers
from enc_caffe.flags.feed import add_feed
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_format, add_search
from enc_caffe.form import PLACEMENTS


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("search", help="ranks of all layers for a budget")
    p.add_argument("metrics", type=Path, metavar="METRICS.json")
    add_search(p, sweeps=True)
    images = p.add_argument_group("images to evaluate plans on (inf needs them)")
    images.add_argument("--model", type=Path, help="prototxt of the network")
    images.add_argument("--weights", type=Path, help="caffemodel")
    add_images(images, "a part of the training images")
    add_input_shape(images, "size of the images (default: the LMDB's)")
    add_shapes(images)
    add_python_layers(images)
    images.add_argument("--accuracy", type=int, default=1, metavar="K", help="top-K accuracy counts (default: 1)")
    add_placement(images, PLACEMENTS[0])
    add_feed(p)
    add_workers(p)
    add_format(p)
    p.add_argument("--out", type=Path, required=True, metavar="RANKS.json", help="the plan; of a sweep the table")
