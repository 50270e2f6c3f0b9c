"""Measuring with images, and everything in one go: the stages that need Caffe, in their order."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.prototxt import read_solver
from enc_caffe.caffe_io.variants import check_one_input, unread
from enc_caffe.calibration.layerwise import Blobs
from enc_caffe.decomposition.policy import unruled
from enc_caffe.errors import InfeasibleError, MetricsError, RuntimeRefusal, UsageError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.files.output import atomic_folder, check_apart, check_new
from enc_caffe.form import CONVENTIONS
from enc_caffe.measuring.evaluate import scores_lines
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.latency import LatencyTable, write_latency
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.choosing import nearness
from enc_caffe.pipeline.distilled import check_trainable
from enc_caffe.pipeline.distilling import check_distillable
from enc_caffe.pipeline.emission import Emitted, budgeted, emit
from enc_caffe.pipeline.forecasting import PREDICTED, Predictor
from enc_caffe.pipeline.known import Known, from_images
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.pipeline.making import Compressed, Making, Output, check_imageless
from enc_caffe.pipeline.planning import Found, check_search, search_plan
from enc_caffe.pipeline.quality import AUTO
from enc_caffe.pipeline.settling import settled
from enc_caffe.pipeline.slower import slower
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.pipeline.spectra import pca_metrics
from enc_caffe.pipeline.tested import accuracies, same_images, tested_images, unrated
from enc_caffe.pipeline.timing import as_timed, check_placement, end_to_end, unlike
from enc_caffe.plan import Plan
from enc_caffe.progress import Names, Stages, by_name, quiet
from enc_caffe.search.build import TimeOf
from enc_caffe.search.methods import evaluates
from enc_caffe.search.multiples import unmet_multiples
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import PRUNING
from enc_caffe.workers.limits import check_device

ALONE, PLAIN, PLAINLY = Resources(), Making(), Output()


def compress(
    source: Source,
    lmdb: Optional[Path],
    out: Path,
    options: SearchOptions,
    making: Making = PLAIN,
    resources: Resources = ALONE,
    output: Output = PLAINLY,
    time_of: Optional[TimeOf] = None,
    progress: Stages = quiet,
    notice: Callable[[str], None] = lambda line: None,
) -> Compressed:
    """Metrics, search, emission, and the accuracy of both networks on the test images.

    Besides the emitted network the folder gets ``metrics.json``, ``ranks.json`` and ``evaluation.json``, and appears when
    all of it is there.

    Parameters
    ----------
    source : Source
    lmdb : Path, optional
        Images that choose. Ranks by the energy of singular values, with plain SVD, need none; then no accuracy is had either, but of
        test images.
    out : Path
        Folder to make.
    options : SearchOptions
        Budgets, what they count, and how forms are searched.
    making : Making
    resources : Resources
    output : Output
    time_of : callable of layer and form, optional
        Nanoseconds, where latency has a budget.
    progress : callable of what is done, how much of it, and in all
    notice : callable of a line that a person should read

    Raises
    ------
    EncError
        As the stages do.
    """
    lmdb, out = None if lmdb is None else Path(lmdb), Path(out)
    check_new(out, output.force)
    check_apart(out, {
        "--model": source.model, "--weights": source.weights, "--lmdb": lmdb, "--test_lmdb": output.test_lmdb,
        "--train_lmdb": output.train_lmdb,
    })  # fmt: skip
    if output.solver is not None:
        # Before anything is measured.
        read_solver(output.solver)
    if making.refine not in (0, AUTO) and options.method in PRUNING:
        raise UsageError(
            f"--refine {making.refine}: moves what a sum over layers was least by, and the costs of --method {options.method} are none; "
            "give --refine 0"
        )
    if making.early and options.metric in ("pca", "output", *PREDICTED):
        raise UsageError(
            f"--early: shortens measurements of single forms, and with --metric {options.metric} none is made on all images; leave it out, or "
            "give --metric divergence"
        )
    if making.early and (options.target_params is not None or options.target_latency is not None):
        raise UsageError(
            "--early: what a plan can want is judged by MACs, and here parameters or time have a budget; leave --early out"
        )
    if making.iterations < 0:
        raise UsageError(f"--distill_iterations {making.iterations}: 0 or more are needed")
    evaluating = evaluates(options)
    if lmdb is None:
        check_imageless(options, making, output)
    loaded = source.load(
        lmdb or output.test_lmdb or output.train_lmdb, options.schemes, making.fully_connected
    ).measurable()
    if lmdb is not None or output.test_lmdb is not None:
        check_one_input(loaded.runnable.net, loaded.network, str(source.model))
    held = output.distillation or making.held_to
    if making.iterations:
        held = held if held.lmdb else replace(held, lmdb=output.train_lmdb or lmdb)
        check_trainable(loaded, held)
    elif output.distillation is not None:
        check_distillable(loaded, held)
    loaded.check_trained(source.weights)
    for line in [*loaded.notices(), *unruled(options.schemes, making.decomposition.kind)]:
        notice(line)
    test, tested = output.test_lmdb or lmdb, None
    if test is not None:
        tested = tested_images(loaded, source, test, output.top_k, output.test_lmdb is not None)
        for line in [f"{test}: {tested.beyond}; no accuracy"] if tested.beyond else scores_lines(tested):
            notice(line)
    if isinstance(time_of, LatencyTable):
        check_placement(time_of, loaded.network.layers, making.placement)
    layers = by_name(lambda done, all_: progress("singular values", done, all_), len(loaded.policy.schemes))
    table = pca_metrics(loaded, source.weights, progress=layers, step=options.multiple_of)
    for line in unmet_multiples(table, options):
        notice(line)
    try:
        check_search(table, options, time_of)
    except (InfeasibleError, MetricsError) as exc:
        # Not the flags that the message names keep these whole.
        raise type(exc)(*exc.args, *loaded.unreached()) from None
    with contextlib.ExitStack() as stack:
        executor = stack.enter_context(resources.workers.executor())
        # Both networks are run in the end, if not before.
        check_device(loaded.runnable.net, str(source.model), executor.arithmetic.device)
        for line in unlike(time_of, loaded.network.name) if isinstance(time_of, LatencyTable) else ():
            notice(line)
        ends = end_to_end(
            loaded, time_of, resources.runtime_python, making.placement, notice, lambda words: progress(words, 0, 1),
            resources.store,
        )  # fmt: skip
        if ends is not None:
            stack.callback(ends.close)
        known = Known(table)
        if lmdb is not None and (
            options.metric != "pca" or evaluating or making.refine or not making.decomposition.plain
        ):
            known = from_images(
                loaded, source, lmdb, output.train_lmdb, table, options, making, resources, executor, progress, notice
            )  # fmt: skip
        elif lmdb is not None:
            rated = test == lmdb and tested is not None and tested.labelled
            notice(
                f"{lmdb}: these images are not used to choose anything{'; the accuracy is measured on them' if rated else ''}: ranks follow the singular "
                "values, weights plain SVD; --quality best chooses both by images"
            )
        chooser, forecast, measured_table, mixed = known.chooser, known.forecast, known.table, known.mixed
        if chooser is None and making.iterations:
            raise UsageError(
                "--distill_iterations: images have no say in the rest; give --quality max or a --decomposition"
            )

        def search(times: Optional[TimeOf], part: Optional[float] = None) -> tuple[Found, MetricsTable]:
            metrics, wanted = measured_table, options if part is None else options.at("latency", part)
            if forecast is not None and chooser is not None and not evaluating:
                predictor = Predictor(wanted, forecast, times, chooser.evaluator.divergence)
                found = chooser.mixture(metrics, wanted, times, predictor) if mixed else predictor(metrics)
                metrics = predictor.completed(metrics)
            elif chooser is not None and mixed:
                found = chooser.mixture(metrics, wanted, times)
            else:
                found = search_plan(metrics, wanted, chooser.evaluator if chooser and evaluating else None, times)
            if chooser is not None and known.refinements:
                found = chooser.refined(metrics, found, known.refinements)
            return found, metrics

        def draft(times: LatencyTable, part: float) -> Found:
            return search_plan(measured_table, options.at("latency", part), None, times)

        if options.target_latency is None or not isinstance(time_of, LatencyTable):
            found, table = search(time_of)
        elif ends is None:
            # Nothing can be measured again.
            found, table = search(time_of.cautious())
        else:
            # Sums of searches are of other plans, or of other predictions; whole networks can be compared.
            values = {} if chooser is None else {"value_of": nearness(chooser)}
            found, table, time_of = settled(
                search, time_of, ends, options.target_latency, notice, draft=None if evaluating else draft, **values
            )
        found = replace(found, plan=as_timed(found.plan, time_of))
        if found.result.note:
            notice(found.result.note)
        blobs: Blobs = {}
        if chooser is not None:
            chooser.settle(found.plan.forms)
            blobs = chooser.decomposer.blobs(found.plan.forms)
            if known.more is not None:
                blobs, came = chooser.fitted_to(known.more, found.plan.forms)
                notice(f"{output.train_lmdb}: {came}")
            if making.iterations:
                blobs, kept = chooser.distilled(
                    loaded, found.plan, blobs, held, making.iterations, resources.workers.training_gpu()
                )
                notice(f"distillation: {kept}")
        with atomic_folder(out, output.force) as work:
            layers = by_name(lambda done, all_: progress("decomposed layers", done, all_), len(found.plan.forms))
            emitted = _written(loaded, source, table, found.plan, work, out, lmdb, test, making, output, blobs, layers)
            # Where images chose the ranks, what the network is fed was said before.
            say = notice if chooser is None else lambda line: None
            before = after = None
            if test is not None and tested is not None and tested.labelled:
                before, after = accuracies(
                    loaded, source, work, test, output.top_k, executor, resources.store, progress, say
                )
            divergence, unit, words, seen = None, "", "svd", False
            data: dict[str, Any] = {
                "format": "enc-caffe-compression/1",
                "images": 0 if tested is None else tested.images,
                "lmdb": None if test is None else str(output.images or test),
            }
            if chooser is not None:
                divergence, words = chooser.evaluator.divergence(found.plan.forms), chooser.words()
                made = chooser.decomposer.made
                seen, unit = test is not None and same_images(test, made.lmdb), made.unit
                data["divergence"] = {"mean": divergence, "unit": unit, "images": made.look.images}
            data.update(
                decomposition=words, chosen_by_these_images=seen, parameters=emitted.parameter_ratio("all"),
                macs={f"{c}, {k}": emitted.ratio(c, k) for c in CONVENTIONS for k in ("decomposable", "all")},
            )  # fmt: skip
            for name, e in (("original", before), ("compressed", after)):
                if e is not None:
                    data[name] = {"correct": e.correct, "cross_entropy": e.cross_entropy}
            taken = None
            if ends is not None and emitted.sized:
                try:
                    taken = ends.emitted(work, source.weights, found.plan.about.latency_ratio or 1.0)
                    data["time"] = taken.data()
                except RuntimeRefusal as exc:
                    notice(f"not timed from end to end: {exc}")
            if emitted.sized:
                for line in budgeted(loaded.network, found.plan, making.placement):
                    notice(line)
            if isinstance(time_of, LatencyTable):
                write_latency(work / "latency.json", time_of)
            elif emitted.sized:
                for line in slower(loaded.network, found.plan.forms, making.placement):
                    notice(line)
            write_json(work / "evaluation.json", data)
        return Compressed(
            replace(emitted, folder=out),
            found.plan,
            before,
            after,
            divergence,
            unit,
            words,
            seen,
            taken,
            unrated(tested),
        )


def _written(
    loaded: LoadedNetwork, source: Source, table: MetricsTable, plan: Plan, work: Path, out: Path, lmdb: Optional[Path],
    test: Optional[Path], making: Making, output: Output, blobs: Blobs, layers: Names,
) -> Emitted:  # fmt: skip
    """The network's files and its metrics in ``work``, which becomes ``out``."""
    distillation = output.distillation
    if distillation is not None and distillation.lmdb is None and output.train_lmdb is None:
        distillation = replace(distillation, lmdb=lmdb)
    # Labels that another layer brings are those of the images that the prototxt names: images that only choose are not put there.
    named = output.test_lmdb if len(data_layers(loaded.net)) > 1 else test
    if test is None and distillation is not None:
        # What a distillation is judged by, where nothing else is known.
        named = output.train_lmdb
    if output.test_lmdb is None and unread(loaded.net, {"TEST": named}):
        # Nobody asked for them to be there.
        named = None
    emitted = emit(
        loaded, source.weights, plan, work / "network", making.placement, solver=output.solver,
        train_lmdb=output.train_lmdb, test_lmdb=named, progress=layers, final=out, blobs=blobs, distillation=distillation,
    )  # fmt: skip
    for path in (work / "network").iterdir():
        path.rename(work / path.name)
    (work / "network").rmdir()
    write_metrics(work / "metrics.json", table)
    if output.test_lmdb is None:
        emitted = replace(emitted, unread=tuple(x for x in emitted.unread if not x.startswith("--test_lmdb")))
    return emitted
