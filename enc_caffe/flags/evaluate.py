"""``enc-caffe evaluate``: accuracy over an LMDB."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_input_shape, add_number_of_workers, add_python_layers, add_shapes, list_argument
from enc_caffe.flags.feed import add_feed
from enc_caffe.flags.images import add_images


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="top-k accuracy over an LMDB, equal to caffe test"
    )
    p.add_argument("--model", type=Path, required=True, help="prototxt of the network (train_val or deploy)")
    p.add_argument("--weights", type=Path, required=True, help="caffemodel")
    add_images(p, "labelled images", required=True)
    add_input_shape(p)
    p.add_argument("--top_k", type=list_argument, default=(1,), help="for example 1,5 (default: 1)")
    p.add_argument("--batch_size", type=int, default=50, help="images of one forward pass (default: 50)")
    add_number_of_workers(p)
    p.add_argument("--gpu", type=int, help="device (default: the CPU)")
    p.add_argument("--json", type=Path, metavar="OUT", help="write the counts as JSON as well")
    add_feed(p)
    add_shapes(p)
    add_python_layers(p)
