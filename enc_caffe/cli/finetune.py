"""``enc-caffe finetune``: stock ``caffe train``, resumable."""

from __future__ import annotations

import argparse

from enc_caffe.caffe_tools.finetune import finetune
from enc_caffe.caffe_tools.selection import Selection
from enc_caffe.caffe_tools.training import Step
from enc_caffe.errors import UsageError
from enc_caffe.flags.finetune import AUTO
from enc_caffe.pipeline.distilling import SOLVER, WEIGHTS
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar


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
            notice=say, mixtures=args.mixtures,
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
