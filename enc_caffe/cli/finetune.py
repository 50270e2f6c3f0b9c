"""``enc-caffe finetune``: stock ``caffe train``, resumable."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Union

from enc_caffe.caffe_tools.finetune import finetune
from enc_caffe.caffe_tools.selection import Selection
from enc_caffe.caffe_tools.training import Step
from enc_caffe.cli.common import add_python_layers, add_top_shape
from enc_caffe.errors import UsageError
from enc_caffe.pipeline.distilling import SOLVER, WEIGHTS
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar

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
    p.add_argument("--snapshot", type=int, help="iterations between snapshots, instead of the solver's")
    p.add_argument("--gpu", default="", help="devices, as caffe train takes them")
    p.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder; an interrupted run in it is continued"
    )
    p.add_argument("--force", action="store_true", help="start over even if a result exists")
    add_top_shape(p)
    add_python_layers(p)
    p.set_defaults(run=run)


def _rate(text: str) -> Union[float, str]:
    """A learning rate, or ``auto``."""
    if text == AUTO:
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: a number or auto is needed") from None


def run(args: argparse.Namespace) -> None:
    """Train and print."""
    _from_distillation(args)
    sweeps = args.base_lr == AUTO
    overrides = {
        k: getattr(args, k) for k in ("max_iter", "base_lr", "snapshot") if getattr(args, k) not in (None, AUTO)
    }
    chooses = sweeps or args.keep_best or args.held_out_lmdb is not None
    selection = Selection(args.held_out_lmdb, sweeps) if chooses else None
    with progress_bar("iterations", None) as bar:

        def show(step: Step) -> None:
            bar(step.iteration, step.iterations, step.words())

        result = finetune(
            args.solver, args.weights, args.out, args.model, args.train_lmdb, args.test_lmdb, overrides, args.gpu,
            args.force, progress=show, python_layers=args.allow_python_layers,
            input_shapes=dict(args.top_shape), selection=selection,
            notice=say,
        )  # fmt: skip
    if result.resumed_from:
        print(f"went on from iteration {result.resumed_from}")
    print(f"{result.iterations} iterations, last training loss {result.loss}")
    if result.chosen:
        print(f"kept: {result.chosen}")
    if result.test:
        outputs = ", ".join(f"{k} {v:.4f}" for k, v in result.test.items())
        print(
            f"caffe test on {result.images} images{'' if result.exactly else ' (the first of them twice)'}: {outputs}"
        )
    print(f"written to {result.weights}, with deploy.prototxt beside it")


def _from_distillation(args: argparse.Namespace) -> None:
    """Solver and weights of a folder that distils."""
    if args.distill is None:
        if args.solver is None:
            raise UsageError("give --solver, or --distill with a folder of emit --distill")
        return
    given = [f"--{n}" for n in ("solver", "weights", "model") if getattr(args, n) is not None]
    if given:
        raise UsageError(f"--distill names the solver, the network and the weights itself; {given[0]} contradicts it")
    args.solver, args.weights = args.distill / SOLVER, args.distill / WEIGHTS
    for path in (args.solver, args.weights):
        if not path.is_file():
            raise UsageError(f"{path} does not exist; emit or compress with --distill writes it")
