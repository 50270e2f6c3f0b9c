"""Flags of a distillation, for the commands that emit."""

from __future__ import annotations

import argparse


def add_distillation(command: argparse.ArgumentParser) -> None:
    """``--distill`` and what it is held to."""
    group = command.add_argument_group("fine-tuning without labels, by the original's outputs")
    group.add_argument(
        "--distill", action="store_true",
        help="also write distill.prototxt with its solver and its caffemodel, for caffe train or finetune --distill",
    )  # fmt: skip
    group.add_argument("--temperature", type=float, metavar="T", help="what class scores are divided by (default: 2)")
    group.add_argument(
        "--distill_blobs", default="", metavar="auto|none|BLOB[=WEIGHT],...",
        help="blobs of both networks that should agree too; auto: those between runs of decomposed layers (default)",
    )  # fmt: skip
    group.add_argument(
        "--distill_labels", type=float, metavar="WEIGHT", help="weight of the network's own loss, which reads labels (default: 0)"
    )  # fmt: skip
    group.add_argument(
        "--batch_statistics", action="store_true",
        help="let BatchNorm layers use the statistics of each batch during training (by default they keep those that they have)",
    )  # fmt: skip
