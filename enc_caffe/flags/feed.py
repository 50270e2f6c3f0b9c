"""Flags that say what the network is fed; every command that looks at images has them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_feed(command: Any) -> None:
    """``--mean_value``, ``--mean_file``, ``--scale``, ``--crop_size``, ``--channel_order``, ``--resize``, colour and gray."""
    group = command.add_argument_group(
        "what the network is fed: (value - mean) * scale; flags take precedence over the prototxt's TEST data layer"
    )
    group.add_argument(
        "--mean_value", type=numbers_argument, default=(), metavar="M|B,G,R",
        help="mean to subtract: one number, or one for each channel in the order that the network is fed",
    )  # fmt: skip
    group.add_argument("--mean_file", type=Path, metavar="FILE", help="mean image, as compute_image_mean writes it")
    group.add_argument(
        "--scale", type=float, metavar="S", help="factor after the mean was subtracted, such as 0.0078125"
    )
    group.add_argument("--crop_size", type=int, metavar="N", help="side of the centre crop (0: none)")
    group.add_argument(
        "--channel_order", default="", metavar="bgr|rgb",
        help="order of the channels that the network is fed; images are stored as bgr, as Caffe's tools do",
    )  # fmt: skip
    group.add_argument("--resize", type=size_argument, metavar="H,W", help="size that images are brought to first")
    group.add_argument("--force_color", action="store_true", help="decode encoded images in colour")
    group.add_argument("--force_gray", action="store_true", help="decode encoded images in gray")


def numbers_argument(text: str) -> tuple[float, ...]:
    """``104,117,123`` as a tuple of numbers."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text}: numbers separated by commas are needed, such as 104,117,123"
        ) from None


def size_argument(text: str) -> tuple[int, int]:
    """``H,W`` as a pair of integers."""
    try:
        height, width = (int(part) for part in text.split(","))
    except ValueError:
        height = width = 0
    if min(height, width) < 1:
        raise argparse.ArgumentTypeError(f"{text}: two positive integers H,W are needed, such as 224,224")
    return height, width
