"""``enc-caffe finetune``: stock ``caffe train``, resumable."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe.caffe_tools.finetune import Step, finetune
from enc_caffe.cli.common import add_python_layers, add_top_shape
from enc_caffe.terminal.progress import progress_bar


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("finetune", help="train a network with stock caffe train")
    p.add_argument("--solver", type=Path, required=True, help="solver prototxt")
    p.add_argument("--weights", type=Path, help="caffemodel to start from")
    p.add_argument("--model", type=Path, help="prototxt, instead of the solver's net")
    p.add_argument("--train_lmdb", type=Path, help="source of the TRAIN data layer")
    p.add_argument("--test_lmdb", type=Path, help="source of the TEST data layer")
    p.add_argument("--max_iter", type=int, help="iterations, instead of the solver's")
    p.add_argument("--base_lr", type=float, help="learning rate, instead of the solver's")
    p.add_argument("--snapshot", type=int, help="iterations between snapshots, instead of the solver's")
    p.add_argument("--gpu", default="", help="devices, as caffe train takes them")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder; an interrupted run there goes on")
    p.add_argument("--force", action="store_true", help="start again where a result exists")
    add_top_shape(p)
    add_python_layers(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Train and print."""
    overrides = {k: getattr(args, k) for k in ("max_iter", "base_lr", "snapshot") if getattr(args, k) is not None}
    with progress_bar("iterations", None) as bar:

        def show(step: Step) -> None:
            bar(step.iteration, step.iterations, step.words())

        result = finetune(
            args.solver, args.weights, args.out, args.model, args.train_lmdb, args.test_lmdb, overrides, args.gpu,
            args.force, progress=show, python_layers=args.allow_python_layers,
            input_shapes=dict(args.top_shape),
        )  # fmt: skip
    if result.resumed_from:
        print(f"went on from iteration {result.resumed_from}")
    print(f"{result.iterations} iterations, last training loss {result.loss}")
    if result.test:
        outputs = ", ".join(f"{k} {v:.4f}" for k, v in result.test.items())
        print(
            f"caffe test on {result.images} images{'' if result.exactly else ' (the first of them twice)'}: {outputs}"
        )
    print(f"written to {result.weights}, with deploy.prototxt beside it")
