"""``enc-caffe finetune``: stock ``caffe train``, resumable."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Union

from enc_caffe.flags.common import add_python_layers, add_top_shape

AUTO = "auto"


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("finetune", help="train a network with stock caffe train")
    p.add_argument("--solver", type=Path, help="solver prototxt")
    p.add_argument("--weights", type=Path, help="caffemodel to start from")
    p.add_argument(
        "--distill", type=Path, metavar="DIR",
        help="instead of both: a folder that emit --distill or compress --distill wrote; the student is extracted at the end",
    )  # fmt: skip
    p.add_argument("--model", type=Path, help="prototxt, instead of the solver's net")
    p.add_argument("--train_lmdb", type=Path, help="source of the TRAIN data layer")
    p.add_argument("--test_lmdb", type=Path, help="source of the TEST data layer")
    p.add_argument("--max_iter", type=int, help="iterations, instead of the solver's")
    p.add_argument(
        "--base_lr", type=_rate, metavar="LR|auto",
        help="learning rate, instead of the solver's; auto: the rate with which short trainings do best on held-out images",
    )  # fmt: skip
    p.add_argument(
        "--keep_best", action="store_true",
        help="keep the snapshot (or the start) that is best on held-out training images instead of the last one (--base_lr auto does so too)",
    )  # fmt: skip
    p.add_argument(
        "--held_out_lmdb", type=Path, metavar="LMDB",
        help="images that choose; by default a tenth of the training images, at most 1,000, is held out",
    )  # fmt: skip
    p.add_argument(
        "--mixtures", type=int, default=0, metavar="N",
        help="with --distill, but not --distill_labels: train on N mixtures of the images in their place, where images are few for so many iterations",
    )  # fmt: skip
    p.add_argument("--snapshot", type=int, help="iterations between snapshots, instead of the solver's")
    p.add_argument("--gpu", default="", help="devices, as caffe train takes them")
    p.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder; an interrupted run in it is continued"
    )
    p.add_argument("--force", action="store_true", help="start over even if a result exists")
    add_top_shape(p)
    add_python_layers(p)


def _rate(text: str) -> Union[float, str]:
    """A learning rate, or ``auto``."""
    if text == AUTO:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a number or auto is needed") from None
