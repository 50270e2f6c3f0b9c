"""``enc-caffe evaluate``: accuracy over an LMDB."""

from __future__ import annotations

import argparse

from enc_caffe.cli.feed import feed_of
from enc_caffe.cli.images import shown, take_images
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import check_parent
from enc_caffe.measuring.evaluate import evaluate
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar


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
            input_shape=args.input_shape,
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
