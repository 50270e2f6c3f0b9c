"""LMDBs of what ``--images`` names: a folder, a list or arrays; kept in the user's cache."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Optional

from enc_caffe.caffe_io.collection import collection, wanted_of
from enc_caffe.caffe_io.describe import set_state
from enc_caffe.caffe_io.feed import AS_WRITTEN
from enc_caffe.caffe_io.inputs import set_input_shape
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.cli.feed import feed_of
from enc_caffe.pipeline.pictures import kept_images
from enc_caffe.terminal.naming import call, say
from enc_caffe.terminal.progress import progress_bar


def shown(args: argparse.Namespace, prefix: str = "") -> Optional[Path]:
    """What the user calls the images: a folder that was made into an LMDB keeps its name."""
    given: Optional[Path] = getattr(args, f"{prefix}images", None) or getattr(args, f"{prefix}lmdb")
    return given


def take_images(args: argparse.Namespace, describe_only: bool = False) -> None:
    """Put the LMDBs of ``--images`` and ``--test_images`` in the place of ``--lmdb`` and ``--test_lmdb``.

    ``describe_only``: the network will not be run, so its Python layers need no permission.
    """
    given = [p for p in ("", "test_") if getattr(args, f"{p}images", None) is not None]
    if not given or args.model is None:
        return
    net = set_state(read_net(args.model, args.allow_python_layers or describe_only), args.level, args.stage)
    if getattr(args, "input_shape", None) is not None:
        set_input_shape(net, args.input_shape, str(args.model), dict(args.top_shape))
    feed = feed_of(args) if hasattr(args, "mean_value") else AS_WRITTEN
    for prefix in given:
        source = getattr(args, f"{prefix}images")
        wanted = wanted_of(net, str(args.model), feed, source)
        with progress_bar(f"reading {source}", None) as bar:
            lmdb = collection(source, kept_images(), wanted, bar, say, f"--{prefix}images")
        call(lmdb, source)
        setattr(args, f"{prefix}lmdb", lmdb)
