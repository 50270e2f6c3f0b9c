"""``enc-caffe data``: LMDBs from arrays, image folders, lists or CIFAR-10 files, of a part of an LMDB's images or of mixtures of them."""

from __future__ import annotations

import argparse
from typing import Any

from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.mixtures import mixtures_of
from enc_caffe.errors import UsageError
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar


def run(args: argparse.Namespace) -> None:
    """Write the LMDB."""
    if args.seed is not None and args.seed < 0:
        raise UsageError(f"--seed {args.seed}: a whole number of 0 or more is needed")
    if args.kind == "arrays":
        total, records = sources.from_npz(args.source, args.images, args.labels, args.pad, args.seed)
    elif args.kind == "folder":
        total, records = sources.from_folder(args.source, args.resize, args.gray, args.seed, say)
    elif args.kind == "list":
        total, records = sources.from_list(args.source, args.resize, args.gray, args.seed, args.root)
    elif args.kind == "cifar10":
        total, records = sources.from_cifar10(args.source, args.split, args.pad, args.seed)
    elif args.kind == "mixtures":
        total, records = mixtures_of(args.source, args.number, args.seed, args.mirror, args.zoom, args.pad)
    else:
        total, records = sources.part_of(args.source, args.fraction, args.images, args.seed)
    with progress_bar("images", total) as bar:

        def counted() -> Any:
            for i, record in enumerate(records):
                bar(i + 1, total)
                yield record

        number = write_lmdb(args.out, counted(), args.force)
    print(f"{args.out}: {number} images")
