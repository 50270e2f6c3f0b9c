"""What the network is fed, as the flags have it."""

from __future__ import annotations

import argparse
from typing import Optional

from enc_caffe.caffe_io.feed import Feed
from enc_caffe.errors import UsageError


def feed_of(args: argparse.Namespace) -> Feed:
    """What the arguments of :func:`add_feed` say."""
    if args.force_color and args.force_gray:
        raise UsageError("--force_color and --force_gray exclude each other")
    color: Optional[bool] = True if args.force_color else False if args.force_gray else None
    return Feed(
        args.mean_value, args.mean_file, args.scale, args.crop_size, args.channel_order, args.resize, color
    )  # fmt: skip
