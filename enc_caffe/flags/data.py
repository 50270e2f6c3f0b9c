"""``enc-caffe data``: LMDBs from arrays, image folders, lists or CIFAR-10 files, of a part of an LMDB's images or of mixtures of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.flags.feed import size_argument


def register(commands: Any) -> None:
    """Add the command and its kinds."""
    p: argparse.ArgumentParser = commands.add_parser("data", help="make LMDBs of images")
    kinds = p.add_subparsers(dest="kind", metavar="KIND", required=True)
    a = kinds.add_parser(
        "arrays",
        help="from a .npz file of images (N, C, H, W) or (N, H, W), uint8 or float, and labels (N,) if there are any",
    )
    a.add_argument("source", type=Path, metavar="FILE.npz")
    a.add_argument("--images", help="name of the images' array (default: images, or the only array of images)")
    a.add_argument("--labels", help="name of the labels' array (default: labels, if it is there)")
    f = kinds.add_parser(
        "folder", help="from a folder with one sub-folder of images for each class, or of images without labels"
    )
    f.add_argument("source", type=Path, metavar="DIR")
    x = kinds.add_parser(
        "list", help="from a list of files as convert_imageset takes it: a name and a label on each line"
    )
    x.add_argument("source", type=Path, metavar="LIST.txt")
    x.add_argument(
        "--root", type=Path, metavar="DIR", help="folder that the names begin in (default: that of the list)"
    )
    for kind in (f, x):
        kind.add_argument("--resize", type=size_argument, metavar="H,W", help="size that images are brought to")
        kind.add_argument("--gray", action="store_true", help="one channel")
    c = kinds.add_parser("cifar10", help="from CIFAR-10's binary version (data_batch_1.bin ..., test_batch.bin)")
    c.add_argument("source", type=Path, metavar="DIR")
    c.add_argument("--split", choices=("train", "test"), default="train")
    for kind in (a, c):
        kind.add_argument("--pad", type=int, default=0, help="zero pixels to add on every side")
    q = kinds.add_parser("partial", help="a stratified, seeded part of an LMDB, keys and labels kept")
    q.add_argument("source", type=Path, metavar="LMDB")
    size = q.add_mutually_exclusive_group(required=True)
    size.add_argument("--fraction", type=float, help="part of the images, such as 0.1")
    size.add_argument("--images", type=int, help="number of images")
    m = kinds.add_parser(
        "mixtures",
        help="images without labels, each made of two of an LMDB: a distillation's training set where images are few",
    )
    m.add_argument("source", type=Path, metavar="LMDB")
    m.add_argument("--number", type=int, required=True, help="images to make")
    m.add_argument("--mirror", action="store_true", help="mirror half of the images before they are mixed")
    m.add_argument(
        "--zoom", type=float, default=1.0, metavar="PART", help="take windows of this part of an image's area at the least (default: 1, all of it)"
    )  # fmt: skip
    m.add_argument("--pad", type=int, default=0, help="zero pixels to add on every side")
    for kind in (a, f, c, q, m):
        kind.add_argument("--seed", type=int, default=0, help="seed of the shuffling or the choice (default: 0)")
    x.add_argument("--seed", type=int, help="shuffle with this seed (default: the list's own order)")
    for kind in (a, f, x, c, q, m):
        kind.add_argument("--out", type=Path, required=True, metavar="LMDB")
        kind.add_argument("--force", action="store_true", help="replace an LMDB that exists")
