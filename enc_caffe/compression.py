"""Measuring with images, and everything in one go: the stages that need Caffe, in their order."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.feed import AS_WRITTEN, Feed
from enc_caffe.caffe_io.variants import check_one_input
from enc_caffe.errors import UsageError
from enc_caffe.form import CONVENTIONS, Form
from enc_caffe.jsonfile import write_json
from enc_caffe.measurement import Progress, Steps, Workers, concerns, images_of, measured_metrics, output_errors, quiet
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.output import atomic_folder, check_new
from enc_caffe.pipeline import Emitted, LoadedNetwork, emit, load, pca_metrics
from enc_caffe.plan import Plan
from enc_caffe.planning import Found, check_search, refined_plan, search_plan
from enc_caffe.runtime import estimate
from enc_caffe.runtime.calibrate import Blobs
from enc_caffe.runtime.decomposer import Decomposer, Decomposition
from enc_caffe.runtime.evaluate import Evaluation, evaluate, look_at
from enc_caffe.runtime.executor import Executor
from enc_caffe.runtime.measuring import MEMORY, PlanEvaluator, Subject
from enc_caffe.runtime.remaining import remaining
from enc_caffe.runtime.store import ResultStore
from enc_caffe.search.build import TimeOf
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.refine import refine
from enc_caffe.shapes import Shape


@dataclass(frozen=True)
class Compressed:
    """A compression from end to end.

    Attributes
    ----------
    emitted : Emitted
    plan : Plan
    before, after : Evaluation, optional
        Accuracies of both networks on the test images; None where these have no labels or the network no class scores.
    divergence : float, optional
        Mean divergence of the compressed network from the original on the images that it was chosen by.
    making : str
        How its layers got their weights.
    seen : bool
        Whether the accuracies are those on the very images that the ranks or weights were chosen by.
    """

    emitted: Emitted
    plan: Plan
    before: Optional[Evaluation]
    after: Optional[Evaluation]
    divergence: Optional[float] = None
    making: str = "svd"
    seen: bool = False


@dataclass(frozen=True)
class Making:
    """What becomes of a plan's layers, and how the plan is refined; the default is the paper's way.

    Attributes
    ----------
    decomposition : Decomposition
    refine : int
        Evaluations of whole networks that refine the ranks; 0: none.
    memory : int
        Bytes that the workers may take beyond the weights.
    dense : bool
        Metrics at more ranks where they bend.
    """

    decomposition: Decomposition = Decomposition()
    refine: int = 0
    memory: int = MEMORY
    dense: bool = False


ALONE, PLAIN = Workers(), Making()


def compress(
    model: Path,
    weights: Path,
    lmdb: Path,
    out: Path,
    options: SearchOptions,
    placement: str = "exact",
    test_lmdb: Optional[Path] = None,
    train_lmdb: Optional[Path] = None,
    solver: Optional[Path] = None,
    input_shape: Optional[Shape] = None,
    fully_connected: bool = False,
    top_k: tuple[int, ...] = (1,),
    workers: Workers = ALONE,
    store: Optional[ResultStore] = None,
    force: bool = False,
    time_of: Optional[TimeOf] = None,
    progress: Steps = quiet,
    making: Making = PLAIN,
    notice: Callable[[str], None] = lambda line: None,
    python_layers: bool = False,
    level: Optional[int] = None,
    stages: Sequence[str] = (),
    input_shapes: Optional[Mapping[str, Shape]] = None,
    feed: Feed = AS_WRITTEN,
) -> Compressed:
    """Metrics, search, emission, and the accuracy of both networks on the test images.

    Besides the emitted network the folder gets ``metrics.json``, ``ranks.json`` and ``evaluation.json``, and appears when
    all of it is there.

    Parameters
    ----------
    progress : callable of what is done, how much of it, and in all
    notice : callable of a line that a person should read
    level, stages, input_shapes, feed : optional
        As of :func:`enc_caffe.pipeline.load`.
    """
    check_new(Path(out), force)
    if making.refine < 0:
        raise UsageError(f"--refine {making.refine}: 0 or more evaluations are needed")
    loaded = load(
        model, lmdb, input_shape, fully_connected, python_layers, input_shapes, level, stages, feed, options.schemes
    ).measurable()
    check_one_input(loaded.net, loaded.network, str(model))
    for line in loaded.notices():
        notice(line)
    ImageLmdb(Path(test_lmdb or lmdb)).close()
    table, how = pca_metrics(loaded, weights), making.decomposition
    check_search(table, options, time_of)
    evaluating = options.method in EVALUATING or options.target_accuracy is not None
    with workers.executor() as executor:
        chooser = None
        if options.metric != "pca" or evaluating or making.refine or not how.plain:
            images = images_of(loaded, weights, lmdb, executor, store, making.memory)
            chooser = Chooser(images, how, placement, progress)
            # Before anything is measured.
            for m in table.layers:
                chooser.decomposer.check({m.name: m.form(1)})
            for line in concerns(images, lmdb):
                notice(line)
            sampled: dict[str, list[Form]] = {}
            for m in table.layers:
                sampled.setdefault(m.name, []).extend(m.form(r) for r in m.measure_at)
            left, passes = remaining(chooser.decomposer, sampled), options.metric not in ("pca", "output")
            seconds = estimate.stages(
                images, [layer for layer, _ in table.by_layer()], sampled, how.kind, passes,
                making.refine + len(how.alternatives()), making.dense, left,
            )  # fmt: skip
            known = f"; {left.measured:.0%} of the metrics are known already" if left.measured and passes else ""
            notice(f"measuring on {images.look.images} images: {estimate.words(seconds, executor.workers)}{known}")
            if options.metric == "output":
                table = output_errors(table, chooser.decomposer, default_only=True)
            elif options.metric != "pca":
                table = measured_metrics(
                    images, table, default_only=True, progress=chooser.step("metrics"), decomposer=chooser.decomposer,
                    dense=making.dense,
                )  # fmt: skip
        found = search_plan(table, options, chooser.evaluator if chooser and evaluating else None, time_of)
        blobs: Blobs = {}
        if chooser is not None:
            found = chooser.refined(table, found, making.refine) if making.refine else found
            chooser.settle(found.plan.forms)
            blobs = chooser.decomposer.blobs(found.plan.forms)
        return _finished(
            loaded, weights, table, found.plan, out, placement, solver, train_lmdb, Path(test_lmdb or lmdb), top_k, executor,
            force, progress, blobs, chooser, notice,
        )  # fmt: skip


def same_images(first: Path, second: Path) -> bool:
    """Whether two names are of one LMDB."""
    return os.path.samefile(Path(first) / "data.mdb", Path(second) / "data.mdb")


class Chooser:
    """Whole networks made and measured on the images that choose.

    Until :meth:`settle` was called, ``decomposer`` makes them with the first of what ``--recalibrate auto`` stands for.
    """

    def __init__(self, images: Subject, how: Decomposition, placement: str, progress: Steps) -> None:
        self._images, self._how, self._placement = images, how, placement
        self._progress, self._what = progress, ""
        self.decomposer, self.evaluator = self._made(how.alternatives()[0])

    def _made(self, how: Decomposition) -> tuple[Decomposer, PlanEvaluator]:
        decomposer = Decomposer(self._images, how, self._placement, self._report)
        evaluator = PlanEvaluator(
            self._images, self._placement,
            progress=lambda plans, done, all_: self._report("whole networks", done, all_), blobs_of=decomposer.blobs,
            name=decomposer.name(), reference=decomposer.reference(),
        )  # fmt: skip
        return decomposer, evaluator

    def settle(self, forms: Mapping[str, Form]) -> None:
        """Take what gives the least divergence in these forms of all that ``--recalibrate auto`` stands for."""
        ways = self._how.alternatives()
        if not any(layer.type == "BatchNorm" for layer in self._images.look.network.layers):
            ways = ways[:1]
        if len(ways) > 1:
            made = []
            for at, how in enumerate(ways, 1):
                self._what = f"recalibration {at} of {len(ways)}: "
                made.append(self._made(how))
                made[-1][1].counts(forms)
            self._what = ""
            self.decomposer, self.evaluator = min(made, key=lambda m: m[1].divergence(forms))

    def step(self, what: str) -> Progress:
        """Progress of a stage."""
        return lambda done, all_: self._progress(what, done, all_)

    def _report(self, what: str, done: int, all_: int) -> None:
        self._progress(self._what + what, done, all_)

    def refined(self, table: MetricsTable, found: Found, evaluations: int) -> Found:
        """The plan of a search with ranks refined by whole networks' divergence on the images."""
        problem, seen = found.problem, 0

        def value_of(ranks: Sequence[int]) -> float:
            nonlocal seen
            seen += 1
            self._what = f"plan {seen} of {evaluations}: "
            return self.evaluator.divergence(replace(found.result, ranks=tuple(ranks)).plan_forms(problem))

        result = refine(problem, found.result.ranks, value_of, evaluations)
        self._what = ""
        return refined_plan(table, found, result)


def _finished(
    loaded: LoadedNetwork, weights: Path, table: MetricsTable, plan: Plan, out: Path, placement: str,
    solver: Optional[Path], train_lmdb: Optional[Path], images: Path, top_k: tuple[int, ...], executor: Executor,
    force: bool, progress: Steps, blobs: Blobs, chooser: Optional[Chooser],
    notice: Callable[[str], None],
) -> Compressed:  # fmt: skip
    with atomic_folder(Path(out), force) as work:
        emitted = emit(
            loaded, weights, plan, work / "network", placement, solver=solver, train_lmdb=train_lmdb, test_lmdb=images,
            final=Path(out), blobs=blobs,
        )  # fmt: skip
        for path in (work / "network").iterdir():
            path.rename(work / path.name)
        (work / "network").rmdir()
        write_metrics(work / "metrics.json", table)
        results: list[Optional[Evaluation]] = [None, None]
        look = look_at(loaded.runnable.net, str(loaded.path), weights, images, loaded.transform, any_output=True)
        if look.labelled:
            networks = ((loaded.path, weights), (work / "train_val.prototxt", work / "compressed.caffemodel"))
            for i, (prototxt, caffemodel) in enumerate(networks):
                step = partial(progress, ("the original's accuracy", "the compressed network's accuracy")[i])
                results[i] = evaluate(
                    prototxt,
                    caffemodel,
                    images,
                    top_k,
                    executor=executor,
                    progress=step,
                    python_layers=loaded.python_layers,
                    level=loaded.level,
                    stages=loaded.stages,
                    feed=loaded.feed,
                    # Where images chose the ranks it was said before.
                    notice=notice if i == 0 and chooser is None else lambda line: None,
                )
        before, after = results
        data: dict[str, Any] = {
            "format": "enc-caffe-compression/1", "images": look.images, "lmdb": str(images),
            "decomposition": chooser.decomposer.how.words() if chooser else "svd",
            "macs": {f"{c}, {k}": emitted.ratio(c, k) for c in CONVENTIONS for k in ("decomposable", "all")},
            "parameters": emitted.parameter_ratio("all"),
        }  # fmt: skip
        for name, e in (("original", before), ("compressed", after)):
            if e is not None:
                data[name] = {"correct": e.correct, "cross_entropy": e.cross_entropy}
        seen = chooser is not None and same_images(images, chooser.decomposer.made.lmdb)
        data["chosen_by_these_images"] = seen
        divergence = chooser.evaluator.divergence(plan.forms) if chooser else None
        if chooser:
            data["divergence"] = {"mean": divergence, "images": chooser.decomposer.made.look.images}
        write_json(work / "evaluation.json", data)
    return Compressed(emitted, plan, before, after, divergence, data["decomposition"], seen)
