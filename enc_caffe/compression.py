"""Measuring with images, and everything in one go: the stages that need Caffe, in their order."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.complexity import network_complexity
from enc_caffe.errors import UsageError
from enc_caffe.fetch import cache_folder
from enc_caffe.jsonfile import write_json
from enc_caffe.metrics.table import LayerMetrics, MetricsTable, write_metrics
from enc_caffe.output import atomic_folder, check_new
from enc_caffe.pipeline import Emitted, LoadedNetwork, emit, load, pca_metrics
from enc_caffe.plan import RankPlan
from enc_caffe.planning import search_plan
from enc_caffe.runtime.cluster import ClusterExecutor
from enc_caffe.runtime.evaluate import Evaluation, evaluate
from enc_caffe.runtime.executor import CaffeExecutor, Executor
from enc_caffe.runtime.measure import ORIGINAL, Counts, Pair
from enc_caffe.runtime.measuring import MEMORY, PlanEvaluator, Subject, layer_counts, subject
from enc_caffe.runtime.store import ResultStore
from enc_caffe.search.build import LatencyCurve
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions
from enc_caffe.shapes import Shape

Progress = Callable[[int, int], None]


def silent(done: int, all_: int) -> None:
    """Progress that nobody sees."""


@dataclass(frozen=True)
class Workers:
    """Where Caffe runs: processes on this machine, on its GPUs, or the workers of a Dask scheduler.

    Attributes
    ----------
    number : int
        Processes on the CPU; several have one BLAS thread each, a single one as many as the library takes.
    gpus : str
        ``0,1`` or ``all``: one process for each device.
    scheduler : str
        ``tcp://host:8786``.
    """

    number: int = 1
    gpus: str = ""
    scheduler: str = ""

    def executor(self) -> Any:
        """The executor, a context manager.

        Raises
        ------
        UsageError
            For numbers that make no sense, or where GPUs are asked for and none is there.
        EncError
            If the scheduler does not answer.
        """
        if self.scheduler:
            return ClusterExecutor(self.scheduler)
        if self.gpus:
            return CaffeExecutor(gpus=devices(self.gpus))
        if self.number < 1:
            raise UsageError(f"--workers {self.number}: 1 or more are needed")
        return CaffeExecutor(self.number, 1 if self.number > 1 else None)


def devices(text: str) -> tuple[int, ...]:
    """Numbers of GPUs from ``0,1`` or ``all``."""
    if text == "all":
        try:
            done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise UsageError("--gpu all: nvidia-smi finds no GPU on this machine") from None
        return tuple(range(len(done.stdout.strip().splitlines())))
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise UsageError(f"--gpu {text}: device numbers such as 0,1 or all are needed")
    return numbers


def default_store() -> Path:
    """The per-user store of results."""
    return cache_folder() / "results.sqlite"


def images_of(
    loaded: LoadedNetwork,
    weights: Path,
    lmdb: Path,
    executor: Executor,
    store: Optional[ResultStore] = None,
    memory: int = MEMORY,
) -> Subject:
    """The network with these images, ready to be measured."""
    macs = network_complexity(loaded.network, {}, loaded.policy.schemes, "exact", "all").macs
    return subject(loaded.net, str(loaded.path), weights, lmdb, macs, executor, store, memory)


def measured_metrics(
    images: Subject,
    table: MetricsTable,
    top_k: int = 1,
    ranks: Optional[Mapping[str, Sequence[int]]] = None,
    progress: Progress = silent,
) -> MetricsTable:
    """A table with accuracy, cross-entropy and divergence at its sampled ranks, each layer truncated alone.

    Parameters
    ----------
    images : Subject
    table : MetricsTable
        Of :func:`enc_caffe.pipeline.pca_metrics`, for the same weights.
    top_k : int
        1 or 5: the accuracy that counts as the metric.
    ranks : mapping of layer to ranks, optional
        Which of the sampled ranks are measured; all without it.
    progress : callable of images times (layer, rank), done and in all

    Raises
    ------
    UsageError
        For another ``top_k``.
    """
    if top_k not in (1, 5):
        raise UsageError(f"--accuracy {top_k}: 1 or 5 is needed")
    pairs: list[Pair] = [(m.name, r) for m in table.layers for r in (ranks or {}).get(m.name, m.sampled_ranks)]
    found = layer_counts(images, {m.name: m.scheme for m in table.layers}, pairs, progress)
    original = found[ORIGINAL]
    labelled = images.look.labelled
    layers = tuple(_with_counts(m, found, top_k, labelled) for m in table.layers)
    extra = dict(table.extra)
    extra.update(
        images=original.images, lmdb=images.lmdb.name, accuracy_top_k=top_k if labelled else None,
        baseline_correct=original.correct if labelled else None,
        baseline_correct_5=original.correct_5 if labelled else None,
        baseline_cross_entropy=original.cross_entropy / original.images if labelled else None,
    )  # fmt: skip
    baseline = _accuracy(original, top_k) if labelled else None
    return replace(
        table, layers=layers, source=f"measured on {original.images} images of {images.lmdb.name}",
        baseline_accuracy=baseline or None, extra=tuple((k, v) for k, v in extra.items() if v is not None),
    )  # fmt: skip


def _accuracy(counts: Counts, top_k: int) -> float:
    return (counts.correct if top_k == 1 else counts.correct_5) / counts.images


def _with_counts(m: LayerMetrics, found: Mapping[Pair, Counts], top_k: int, labelled: bool) -> LayerMetrics:
    counts = [found.get((m.name, r)) for r in m.sampled_ranks]
    series: dict[str, list[Any]] = {
        "sampled_divergence": [None if c is None else max(0.0, c.divergence / c.images) for c in counts]
    }
    if labelled:
        series["sampled_correct"] = [None if c is None else c.correct for c in counts]
        series["sampled_correct_5"] = [None if c is None else c.correct_5 for c in counts]
        series["sampled_cross_entropy"] = [None if c is None else c.cross_entropy / c.images for c in counts]
    accuracy = tuple(None if c is None or not labelled else _accuracy(c, top_k) for c in counts)
    return replace(m, sampled_accuracy=accuracy, extra=tuple(series.items()))


def falling_curves(table: MetricsTable) -> list[str]:
    """Layers whose measured accuracy falls somewhere as the rank rises."""
    names = []
    for m in table.layers:
        values = [a for a in m.sampled_accuracy if a is not None]
        if np.any(np.diff(values) < 0):
            names.append(m.name)
    return names


@dataclass(frozen=True)
class Compressed:
    """A compression from end to end: what was emitted, and the accuracies of both networks."""

    emitted: Emitted
    plan: RankPlan
    before: Evaluation
    after: Evaluation


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
    workers: Workers = Workers(),
    store: Optional[ResultStore] = None,
    force: bool = False,
    latency: Optional[Mapping[str, LatencyCurve]] = None,
    progress: Progress = silent,
) -> Compressed:
    """Metrics, search, emission, and the accuracy of both networks on the test images.

    Besides the emitted network the folder gets ``metrics.json``, ``ranks.json`` and ``evaluation.json``, and appears when
    all of it is there.
    """
    check_new(Path(out), force)
    loaded = load(model, lmdb, input_shape, fully_connected)
    ImageLmdb(Path(test_lmdb or lmdb)).close()
    table = pca_metrics(loaded, weights)
    with workers.executor() as executor:
        if options.metric != "pca":
            images = images_of(loaded, weights, lmdb, executor, store)
            table = measured_metrics(images, table, progress=progress)
        accuracy = None
        if options.method in EVALUATING or options.target_accuracy is not None:
            images = images_of(loaded, weights, lmdb, executor, store)
            schemes = {m.name: m.scheme for m in table.layers}
            accuracy = PlanEvaluator(
                images, schemes, placement, progress=lambda plans, done, all_: progress(done, all_)
            )
        plan = search_plan(table, options, accuracy, latency).plan
        return _finished(
            loaded, weights, table, plan, out, placement, solver, train_lmdb, Path(test_lmdb or lmdb), top_k, executor,
            force, progress,
        )  # fmt: skip


def _finished(
    loaded: LoadedNetwork, weights: Path, table: MetricsTable, plan: RankPlan, out: Path, placement: str,
    solver: Optional[Path], train_lmdb: Optional[Path], images: Path, top_k: tuple[int, ...], executor: Executor,
    force: bool, progress: Progress,
) -> Compressed:  # fmt: skip
    with atomic_folder(Path(out), force) as work:
        emitted = emit(
            loaded, weights, plan, work / "network", placement, solver=solver, train_lmdb=train_lmdb, test_lmdb=images,
            final=Path(out),
        )  # fmt: skip
        for path in (work / "network").iterdir():
            path.rename(work / path.name)
        (work / "network").rmdir()
        write_metrics(work / "metrics.json", table)
        networks = ((loaded.path, weights), (work / "train_val.prototxt", work / "compressed.caffemodel"))
        results: list[Evaluation] = []
        for prototxt, caffemodel in networks:
            base = len(results)

            def step(done: int, all_: int, base: int = base) -> None:
                progress(done + base * all_, len(networks) * all_)

            results.append(evaluate(prototxt, caffemodel, images, top_k, executor=executor, progress=step))
        before, after = results
        write_json(work / "evaluation.json", {
            "format": "enc-caffe-compression/1", "images": before.images, "lmdb": str(images),
            "original": {"correct": before.correct, "cross_entropy": before.cross_entropy},
            "compressed": {"correct": after.correct, "cross_entropy": after.cross_entropy},
            "macs": {f"{c}, {k}": emitted.ratio(c, k) for c in ("paper", "exact") for k in ("decomposable", "all")},
            "parameters": emitted.parameter_ratio("all"),
        })  # fmt: skip
    return Compressed(emitted, plan, before, after)
