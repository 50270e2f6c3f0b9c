"""``enc-caffe compress``: metrics, search, emission and evaluation in one go."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Union

from enc_caffe.flags.common import (
    add_dense,
    add_early,
    add_emission,
    add_making,
    add_model,
    add_placement,
    add_workers,
    list_argument,
)
from enc_caffe.flags.distilling import add_distillation
from enc_caffe.flags.feed import add_feed
from enc_caffe.flags.images import add_images
from enc_caffe.flags.searching import add_runtime_python, add_search
from enc_caffe.form import PLACEMENTS
from enc_caffe.pipeline.quality import AUTO, QUALITY, REFINED


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "compress", help="all of it: a smaller network at the MACs you ask for"
    )
    add_model(p)
    add_images(
        p, "images that networks are compared on (a part of the training set); --metric pca with plain SVD needs none"
    )
    add_images(p, "images that accuracies are reported on (default: those of --lmdb)", prefix="test_")
    p.add_argument(
        "--train_lmdb", type=Path, help="source of the emitted TRAIN data layer (default: the prototxt's own)"
    )
    p.add_argument("--top_k", type=list_argument, default=(1,), help="accuracies to report (default: 1)")
    p.add_argument("--fully_connected", action="store_true", help="decompose fully connected layers too")
    p.add_argument(
        "--quality", choices=tuple(QUALITY), help="best: the least loss without training, with the images of --lmdb alone; max: the same, then "
        "trained on these images without their labels; paper: as published; channel_pruning: only removes channels, by LASSO, the same part of every "
        "layer; each of them sets flags below, and flags that you give take precedence",
    )  # fmt: skip
    p.add_argument(
        "--refine", type=_networks, default=0, metavar="N|auto",
        help=f"evaluate N whole networks to refine the ranks (default: 0); auto: {REFINED}, unless a long fit by blocks follows",
    )  # fmt: skip
    add_dense(p)
    add_early(p)
    add_search(p, solver="--search_solver")
    add_runtime_python(p)
    add_making(p)
    add_feed(p)
    add_workers(p)
    add_placement(p, PLACEMENTS[0])
    add_emission(p)
    add_distillation(p)
    p.add_argument(
        "--fit_train", action=argparse.BooleanOptionalAction, default=False, help="fit all layers together to the images of --train_lmdb in the end (--quality max)"
    )  # fmt: skip
    p.add_argument(
        "--distill_iterations", type=int, default=0, metavar="N",
        help="train for N iterations towards the original's outputs, on the images of --lmdb or --train_lmdb (--quality max: 1000)",
    )  # fmt: skip
    p.set_defaults(presets=(p, QUALITY))


def _networks(text: str) -> Union[int, str]:
    """A number of networks, or ``auto``."""
    if text == AUTO:
        return text
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a number or {AUTO} is needed") from None
