"""``enc-caffe emit``: the compressed network's files from a rank plan."""

from __future__ import annotations

import argparse
from typing import Mapping

from enc_caffe import pipeline
from enc_caffe.calibration.blocks import FEWEST, too_few
from enc_caffe.calibration.layerwise import Blobs
from enc_caffe.cli.common import decomposition, load_network, print_untrained, workers
from enc_caffe.cli.distilling import distillation_of
from enc_caffe.cli.images import shown, take_images
from enc_caffe.cli.storing import open_store
from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_new, claimed
from enc_caffe.form import Form
from enc_caffe.measuring.scores import counted
from enc_caffe.pipeline import distilling
from enc_caffe.pipeline.choosing import Chooser
from enc_caffe.pipeline.measurement import concerns, images_of
from enc_caffe.pipeline.slower import slower
from enc_caffe.plan import Plan, read_plan
from enc_caffe.progress import by_name
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import progress_bar, stage_bars


def run(args: argparse.Namespace) -> None:
    """Emit."""
    check_new(args.out, args.force)
    take_images(args, decomposition(args).plain)
    with claimed(args.out):
        _emit(args)


def _emit(args: argparse.Namespace) -> None:
    plan, distillation = read_plan(args.ranks), distillation_of(args)
    loaded = load_network(
        args, args.lmdb or args.test_lmdb, False, describe_only=decomposition(args).plain, weights=args.weights
    ).with_fully_connected(plan)
    forms = pipeline.plan_forms(loaded, plan, str(args.ranks))
    args.stride_placement = pipeline.placed(loaded.network, plan, forms, args.stride_placement, str(args.ranks))
    if distillation is not None:
        distilling.check_distillable(loaded, distillation)
    blobs, words = _calibrated(args, loaded, plan, forms)
    with progress_bar("decomposed layers", len(plan.forms)) as bar:
        emitted = pipeline.emit(
            loaded, args.weights, plan, args.out, args.stride_placement, args.force, args.solver, args.train_lmdb,
            args.test_lmdb, by_name(bar, len(plan.forms)), source=str(args.ranks), blobs=blobs, version=args.format, distillation=distillation,
        )  # fmt: skip
    for line in slower(loaded.network, forms, args.stride_placement) if emitted.sized else ():
        say(line)
    print(pipeline.cost_line(emitted) + words)
    print_untrained(emitted)
    names = ["train_val.prototxt", "deploy.prototxt", "solver.prototxt", "compressed.caffemodel", "ranks.json"]
    names += [distilling.NET, distilling.SOLVER, distilling.WEIGHTS]
    print(f"written to {args.out}: {', '.join(name for name in names if (args.out / name).exists())}")


def _calibrated(
    args: argparse.Namespace, loaded: pipeline.LoadedNetwork, plan: Plan, forms: Mapping[str, Form]
) -> tuple[Blobs, str]:
    how = decomposition(args)
    if how.plain:
        return {}, ""
    if args.lmdb is None:
        raise UsageError(
            f"--decomposition, --recalibrate and --reconstruct ({how.words()}) look at images: give --lmdb or --images"
        )
    loaded.check_measurable(forms, str(args.ranks))
    with open_store(args) as store, workers(args).executor() as executor, stage_bars() as bars:
        images = images_of(loaded, args.weights, args.lmdb, executor, store, int(args.memory * 2**30))
        for line in concerns(images, shown(args)):
            say(line)
        if how.by_blocks and images.look.images < FEWEST:
            say(f"--reconstruct blocks: {too_few(images.look.images)}, and the network is written without")
        chooser = Chooser(images, how, args.stride_placement, bars)
        chooser.settle(forms)
        apart = counted(chooser.evaluator.divergence(forms), images.unit)
        words = f"; {chooser.words()}: divergence from the original {apart} on {images.look.images} images"
        return chooser.decomposer.blobs(forms), words
