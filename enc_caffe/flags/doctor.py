"""``enc-caffe doctor``: what is installed, how fast it is, and what to do where something is slow or missing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.common import add_input_shape, add_python_layers, add_shapes


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "doctor", help="versions, Caffe, its kernels and their speed, GPUs"
    )
    p.add_argument("--json", action="store_true", help="print JSON instead of a table")
    p.add_argument("--model", type=Path, help="also show what computes each layer of this prototxt that has weights")
    add_input_shape(p, "size of the model's images, if it gives none")
    add_shapes(p)
    add_python_layers(p)
