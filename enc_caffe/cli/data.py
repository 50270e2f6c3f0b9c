"""``enc-caffe data``: LMDBs from arrays, image folders or CIFAR-10 files, and a stratified part of an LMDB."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.cli.common import progress_bar


def register(commands: Any) -> None:
    """Add the command and its kinds."""
    p: argparse.ArgumentParser = commands.add_parser("data", help="make LMDBs of labelled images")
    kinds = p.add_subparsers(dest="kind", metavar="KIND", required=True)
    a = kinds.add_parser("arrays", help="from a .npz file of images (N, C, H, W) or (N, H, W) and labels (N,), uint8")
    a.add_argument("source", type=Path, metavar="FILE.npz")
    a.add_argument("--images", default="images", help="name of the images' array (default: images)")
    a.add_argument("--labels", default="labels", help="name of the labels' array (default: labels)")
    f = kinds.add_parser("folder", help="from a folder with one sub-folder of images for each class")
    f.add_argument("source", type=Path, metavar="DIR")
    f.add_argument("--resize", type=int, nargs=2, metavar=("H", "W"), help="size to resize to")
    f.add_argument("--gray", action="store_true", help="one channel")
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
    for kind in (a, f, c, q):
        kind.add_argument("--seed", type=int, default=0, help="seed of the shuffling or the choice (default: 0)")
        kind.add_argument("--out", type=Path, required=True, metavar="LMDB")
        kind.add_argument("--force", action="store_true", help="replace an LMDB that exists")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Write the LMDB."""
    if args.kind == "arrays":
        total, records = sources.from_npz(args.source, args.images, args.labels, args.pad, args.seed)
    elif args.kind == "folder":
        total, records = sources.from_folder(args.source, args.resize, args.gray, args.seed)
    elif args.kind == "cifar10":
        total, records = sources.from_cifar10(args.source, args.split, args.pad, args.seed)
    else:
        total, records = sources.part_of(args.source, args.fraction, args.images, args.seed)
    with progress_bar("images", total) as bar:

        def counted() -> Any:
            for i, record in enumerate(records):
                bar(i + 1, total)
                yield record

        number = write_lmdb(args.out, counted(), args.force)
    print(f"{args.out}: {number} images")
