"""``enc-caffe compress``: metrics, search, emission and evaluation in one go."""

from __future__ import annotations

import argparse
import shlex

from enc_caffe import pipeline
from enc_caffe.cli.common import decomposition, print_untrained, source_of, workers
from enc_caffe.cli.distilling import distillation_of, held_to
from enc_caffe.cli.images import shown, take_images
from enc_caffe.cli.searching import search_options, times_of
from enc_caffe.cli.storing import open_store
from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_new, claimed
from enc_caffe.measuring.scores import counted
from enc_caffe.pipeline.compression import compress
from enc_caffe.pipeline.making import Making, Output
from enc_caffe.pipeline.quality import QUALITY
from enc_caffe.pipeline.source import Resources
from enc_caffe.search.options import SOLVERS
from enc_caffe.terminal.naming import say
from enc_caffe.terminal.progress import stage_bars
from enc_caffe.terminal.tables import print_table


def run(args: argparse.Namespace) -> None:
    """Compress and print."""
    check_new(args.out, args.force)
    # Before a folder of images is read, which may take minutes.
    options = search_options(args)
    if args.solver is not None and str(args.solver) in SOLVERS and not args.solver.exists():
        raise UsageError(
            f"--solver {args.solver}: is a solver prototxt here; --search_solver {args.solver} says how the search solves"
        )
    if args.fit_train and args.train_lmdb is None and "fit_train" not in QUALITY.get(args.quality, {}):
        raise UsageError("--fit_train: fits to the images of --train_lmdb, and there is none; give it")
    if args.quality not in (None, "paper") and not (args.lmdb or args.images):
        raise UsageError(
            f"--quality {args.quality}: measures on images, and none are given to choose by; give --lmdb or --images"
        )
    take_images(args)
    trains = args.distill_iterations > 0
    making = Making(
        decomposition(args),
        args.refine,
        args.dense,
        args.stride_placement,
        args.fully_connected,
        args.distill_iterations,
        args.fit_train,
        args.early,
        held_to(args, trains),
    )
    images = shown(args, "test_") or shown(args)
    output = Output(
        args.test_lmdb, args.train_lmdb, args.solver, args.top_k, args.force, distillation_of(args, trains), images
    )  # fmt: skip
    with claimed(args.out), open_store(args) as store, stage_bars() as bar:
        result = compress(
            source_of(args), args.lmdb, args.out, options, making,
            Resources(workers(args), store, int(args.memory * 2**30), args.runtime_python), output, times_of(args), bar,
            say,
        )  # fmt: skip
    rows, top_k = [], args.top_k if result.before else ()
    for name, evaluation, costs in (
        ("original", result.before, result.emitted.before),
        ("compressed", result.after, result.emitted.after),
    ):
        cost = costs["exact", "all"]
        row = [name, f"{cost.macs:,}", f"{cost.parameters:,}"]
        if evaluation is not None:
            row += [*(f"{evaluation.accuracy(k):.4f}" for k in top_k), f"{evaluation.cross_entropy:.4f}"]
        rows.append(row)
    # A network is better on images that it was fitted to than on others.
    seen = ", the very ones it was fitted to (others may lose more: give --test_lmdb)" if result.seen else ""
    title = f"accuracy on {result.before.images} images of {images}{seen}, without fine-tuning" if result.before else ""
    headers = ["network", "MACs", "weights"] + (
        [*(f"top-{k}" for k in top_k), "cross-entropy"] if result.before else []
    )
    print_table(title, headers, rows)
    if result.before is None:
        print(f"{f'{images}: ' if images else ''}{result.unrated}, so no accuracy")
    if result.divergence is not None:
        apart = counted(result.divergence, result.unit)
        print(f"divergence from the original on the images of {shown(args)}: {apart}; {result.making}")
    refined = result.plan.about.refined
    if refined:
        print(
            f"ranks refined by {refined['evaluations']} whole network{'s' if refined['evaluations'] != 1 else ''}: divergence "
            f"{refined['divergence_before']:.4g} "
            f"to {refined['divergence']:.4g}"
        )
    print(pipeline.cost_line(result.emitted))
    if result.time is not None:
        print(result.time.words())
    print_untrained(result.emitted)
    how = ["--solver", args.out / "solver.prototxt", "--weights", args.out / "compressed.caffemodel"]
    if output.distillation is not None:
        how = ["--distill", args.out, "--base_lr", "auto"]
    tune = f"fine-tune: {shlex.join(map(str, ['enc-caffe', 'finetune', *how, '--out', f'{args.out}-finetuned']))}"
    if result.emitted.untrained and output.distillation is None:
        tune = "to train it by the original's outputs, without a loss of its own, compress with --distill"
        if not result.emitted.one_input:
            tune = "to train it, give train_val.prototxt data layers"
    print(f"written to {args.out}; {tune}")
