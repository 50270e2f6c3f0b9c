"""``enc-caffe evaluate``: accuracy over an LMDB."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.cli.common import add_number_of_workers, add_python_layers, add_shapes, list_argument
from enc_caffe.cli.feed import add_feed, feed_of
from enc_caffe.cli.images import add_images, shown, take_images
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import check_parent
from enc_caffe.measuring.evaluate import evaluate
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser(
        "evaluate", help="top-k accuracy over an LMDB, equal to caffe test"
    )
    p.add_argument("--model", type=Path, required=True, help="prototxt of the network (train_val or deploy)")
    p.add_argument("--weights", type=Path, required=True, help="caffemodel")
    add_images(p, "labelled images", required=True)
    p.add_argument("--top_k", type=list_argument, default=(1,), help="for example 1,5 (default: 1)")
    p.add_argument("--batch_size", type=int, default=50, help="images of one forward pass (default: 50)")
    add_number_of_workers(p)
    p.add_argument("--gpu", type=int, help="device (default: the CPU)")
    p.add_argument("--json", type=Path, metavar="OUT", help="write the counts as JSON as well")
    add_feed(p)
    add_shapes(p)
    add_python_layers(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Evaluate and print."""
    if args.json:
        check_parent(args.json)
    take_images(args)
    with progress_bar("images", None) as bar:
        result = evaluate(
            args.model, args.weights, args.lmdb, args.top_k, args.batch_size, args.workers, gpu=args.gpu, progress=bar,
            python_layers=args.allow_python_layers, level=args.level, stages=args.stage,
            input_shapes=dict(args.top_shape), feed=feed_of(args), notice=say,
        )  # fmt: skip
    for k, correct in result.correct.items():
        print(f"top-{k} accuracy {result.accuracy(k):.4f} ({correct} of {result.images} images)")
    print(f"cross-entropy {result.cross_entropy:.4f}")
    if args.json:
        write_json(args.json, {
            "format": "enc-caffe-evaluation/1", "model": str(args.model), "weights": str(args.weights),
            "lmdb": str(shown(args)), "images": result.images, "cross_entropy": result.cross_entropy,
            "correct": {str(k): v for k, v in result.correct.items()},
            "accuracy": {str(k): result.accuracy(k) for k in result.correct},
        })  # fmt: skip
