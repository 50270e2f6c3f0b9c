"""Measuring with images, and everything in one go: the stages that need Caffe, in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.variants import check_one_input
from enc_caffe.errors import UsageError
from enc_caffe.jsonfile import write_json
from enc_caffe.measurement import Progress, Steps, Workers, concerns, images_of, measured_metrics, quiet
from enc_caffe.metrics.table import MetricsTable, write_metrics
from enc_caffe.output import atomic_folder, check_new
from enc_caffe.pipeline import Emitted, LoadedNetwork, emit, load, measured_ranks, pca_metrics
from enc_caffe.plan import RankPlan
from enc_caffe.planning import Found, check_search, refined_plan, search_plan
from enc_caffe.runtime import estimate
from enc_caffe.runtime.calibrate import Blobs
from enc_caffe.runtime.decomposer import Decomposer, Decomposition
from enc_caffe.runtime.evaluate import Evaluation, evaluate, look_at
from enc_caffe.runtime.executor import Executor
from enc_caffe.runtime.measuring import MEMORY, PlanEvaluator, Subject
from enc_caffe.runtime.store import ResultStore
from enc_caffe.search.build import LatencyCurve
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
    plan : RankPlan
    before, after : Evaluation, optional
        Accuracies of both networks on the test images; None where these have no labels or the network no class scores.
    divergence : float, optional
        Mean divergence of the compressed network from the original on the images that it was chosen by.
    making : str
        How its layers got their weights.
    """

    emitted: Emitted
    plan: RankPlan
    before: Optional[Evaluation]
    after: Optional[Evaluation]
    divergence: Optional[float] = None
    making: str = "svd"


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
    latency: Optional[Mapping[str, LatencyCurve]] = None,
    progress: Steps = quiet,
    making: Making = PLAIN,
    notice: Callable[[str], None] = lambda line: None,
    python_layers: bool = False,
    level: Optional[int] = None,
    stages: Sequence[str] = (),
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Compressed:
    """Metrics, search, emission, and the accuracy of both networks on the test images.

    Besides the emitted network the folder gets ``metrics.json``, ``ranks.json`` and ``evaluation.json``, and appears when
    all of it is there.

    Parameters
    ----------
    progress : callable of what is done, how much of it, and in all
    notice : callable of a line that a person should read
    level, stages, input_shapes : optional
        As of :func:`enc_caffe.pipeline.load`.
    """
    check_new(Path(out), force)
    if making.refine < 0:
        raise UsageError(f"--refine {making.refine}: 0 or more evaluations are needed")
    loaded = load(model, lmdb, input_shape, fully_connected, python_layers, input_shapes, level, stages)
    check_one_input(loaded.net, loaded.network, str(model))
    for line in loaded.notices():
        notice(line)
    ImageLmdb(Path(test_lmdb or lmdb)).close()
    table, how = pca_metrics(loaded, weights), making.decomposition
    check_search(table, options, latency)
    schemes = {m.name: m.scheme for m in table.layers}
    evaluating = options.method in EVALUATING or options.target_accuracy is not None
    with workers.executor() as executor:
        chooser = None
        if options.metric != "pca" or evaluating or making.refine or not how.plain:
            images = images_of(loaded, weights, lmdb, executor, store, making.memory)
            chooser = Chooser(images, schemes, how, placement, progress)
            # Before anything is measured.
            chooser.decomposer.check()
            for line in concerns(images, lmdb):
                notice(line)
            sampled = measured_ranks(loaded, table, weights)
            seconds = estimate.stages(
                images, [m.layer for m in table.layers], sampled, how.kind, options.metric != "pca",
                making.refine + len(how.alternatives()), making.dense,
            )  # fmt: skip
            notice(f"measuring on {images.look.images} images: {estimate.words(seconds, executor.workers)}")
            if options.metric != "pca":
                table = measured_metrics(
                    images, table, ranks=sampled, progress=chooser.step("metrics"), decomposer=chooser.decomposer,
                    dense=making.dense,
                )  # fmt: skip
        found = search_plan(table, options, chooser.evaluator if chooser and evaluating else None, latency)
        blobs: Blobs = {}
        if chooser is not None:
            found = chooser.refined(table, found, making.refine) if making.refine else found
            chooser.settle(found.plan.ranks)
            blobs = chooser.decomposer.blobs(found.plan.ranks)
        return _finished(
            loaded, weights, table, found.plan, out, placement, solver, train_lmdb, Path(test_lmdb or lmdb), top_k, executor,
            force, progress, blobs, chooser,
        )  # fmt: skip


class Chooser:
    """Whole networks made and measured on the images that choose.

    Until :meth:`settle` was called, ``decomposer`` makes them with the first of what ``--recalibrate auto`` stands for.
    """

    def __init__(
        self, images: Subject, schemes: Mapping[str, str], how: Decomposition, placement: str, progress: Steps
    ) -> None:
        self._images, self._schemes, self._how, self._placement = images, schemes, how, placement
        self._progress, self._what = progress, ""
        self.decomposer, self.evaluator = self._made(how.alternatives()[0])

    def _made(self, how: Decomposition) -> tuple[Decomposer, PlanEvaluator]:
        decomposer = Decomposer(self._images, self._schemes, how, self._placement, self._report)
        evaluator = PlanEvaluator(
            self._images, self._schemes, self._placement,
            progress=lambda plans, done, all_: self._report("whole networks", done, all_), blobs_of=decomposer.blobs,
            name=decomposer.name(), reference=decomposer.reference(),
        )  # fmt: skip
        return decomposer, evaluator

    def settle(self, ranks: Mapping[str, int]) -> None:
        """Take what gives the least divergence at these ranks of all that ``--recalibrate auto`` stands for."""
        ways = self._how.alternatives()
        if not any(layer.type == "BatchNorm" for layer in self._images.look.network.layers):
            ways = ways[:1]
        if len(ways) > 1:
            made = []
            for at, how in enumerate(ways, 1):
                self._what = f"recalibration {at} of {len(ways)}: "
                made.append(self._made(how))
                made[-1][1].counts(ranks)
            self._what = ""
            self.decomposer, self.evaluator = min(made, key=lambda m: m[1].divergence(ranks))

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
            return self.evaluator.divergence(replace(found.result, ranks=tuple(ranks)).plan_ranks(problem))

        result = refine(problem, found.result.ranks, value_of, evaluations)
        self._what = ""
        return refined_plan(table, found, result)


def _finished(
    loaded: LoadedNetwork, weights: Path, table: MetricsTable, plan: RankPlan, out: Path, placement: str,
    solver: Optional[Path], train_lmdb: Optional[Path], images: Path, top_k: tuple[int, ...], executor: Executor,
    force: bool, progress: Steps, blobs: Blobs, chooser: Optional[Chooser],
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
        look = look_at(loaded.net, str(loaded.path), weights, images, any_output=True)
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
                )
        before, after = results
        data: dict[str, Any] = {
            "format": "enc-caffe-compression/1", "images": look.images, "lmdb": str(images),
            "decomposition": chooser.decomposer.how.words() if chooser else "svd",
            "macs": {f"{c}, {k}": emitted.ratio(c, k) for c in ("paper", "exact") for k in ("decomposable", "all")},
            "parameters": emitted.parameter_ratio("all"),
        }  # fmt: skip
        for name, e in (("original", before), ("compressed", after)):
            if e is not None:
                data[name] = {"correct": e.correct, "cross_entropy": e.cross_entropy}
        divergence = chooser.evaluator.divergence(plan.ranks) if chooser else None
        if chooser:
            data["divergence"] = {"mean": divergence, "images": chooser.decomposer.made.look.images}
        write_json(work / "evaluation.json", data)
    return Compressed(emitted, plan, before, after, divergence, data["decomposition"])
