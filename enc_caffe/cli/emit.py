"""``enc-caffe emit``: the compressed network's files from a rank plan."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe import pipeline
from enc_caffe.cli.common import add_emission, add_model, progress_bar
from enc_caffe.output import check_new
from enc_caffe.plan import read_plan


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("emit", help="prototxt, solver and caffemodel of a rank plan")
    add_model(p)
    p.add_argument("--ranks", type=Path, required=True, metavar="RANKS.json")
    p.add_argument("--train_lmdb", type=Path, help="source of the emitted TRAIN data layer")
    p.add_argument("--test_lmdb", type=Path, help="source of the emitted TEST data layer")
    p.add_argument("--lmdb", type=Path, help="LMDB that says how large images are")
    add_emission(p)
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Emit."""
    check_new(args.out, args.force)
    plan = read_plan(args.ranks)
    loaded = pipeline.load(
        args.model,
        args.lmdb or args.test_lmdb,
        args.input_shape,
        any(s == "inner_product" for s in plan.schemes.values()),
    )
    done = 0
    with progress_bar("decomposing", len(plan.ranks)) as bar:

        def step(name: str) -> None:
            nonlocal done
            done += 1
            bar(done, len(plan.ranks))

        emitted = pipeline.emit(
            loaded, args.weights, plan, args.out, args.stride_placement, args.force, args.solver, args.train_lmdb,
            args.test_lmdb, step, source=str(args.ranks),
        )  # fmt: skip
    print(pipeline.cost_line(emitted))
    print(
        f"written to {args.out}: train_val.prototxt, deploy.prototxt, solver.prototxt, compressed.caffemodel, ranks.json"
    )
