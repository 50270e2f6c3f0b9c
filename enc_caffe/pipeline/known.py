"""What images say before anything is searched: the metrics, and how long all of it takes, said first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from enc_caffe.calibration import duration
from enc_caffe.calibration.blocks import images_passed, is_long
from enc_caffe.calibration.forecast import Forecast, unpredicted
from enc_caffe.calibration.remaining import remaining
from enc_caffe.form import PAPER, Form
from enc_caffe.measuring.subject import Subject
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.choosing import Chooser
from enc_caffe.pipeline.distilled import passes
from enc_caffe.pipeline.forecasting import PREDICTED, predicted_metrics
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.pipeline.making import Making
from enc_caffe.pipeline.measurement import (
    check_labels,
    concerns,
    ended_early,
    images_of,
    measured_metrics,
    output_errors,
)
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.pipeline.wanted import can_be_wanted
from enc_caffe.progress import Stages
from enc_caffe.search.methods import evaluates
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import PRUNING
from enc_caffe.workers.executor import Executor


@dataclass(frozen=True)
class Known:
    """Metrics, and what measures more of them where images have a say.

    Attributes
    ----------
    table : MetricsTable
    chooser : Chooser, optional
    forecast : Forecast, optional
        Where metrics are predicted.
    more : Subject, optional
        Images beside those that choose, which all layers are fitted to.
    refinements : int
        Whole networks that refine a plan.
    mixed : bool
        Whether whole networks decide between a mixture and one scheme.
    """

    table: MetricsTable
    chooser: Optional[Chooser] = None
    forecast: Optional[Forecast] = None
    more: Optional[Subject] = None
    refinements: int = 0
    mixed: bool = False


def from_images(
    loaded: LoadedNetwork, source: Source, lmdb: Path, train_lmdb: Optional[Path], table: MetricsTable, options: SearchOptions,
    making: Making, resources: Resources, executor: Executor, progress: Stages, notice: Callable[[str], None],
) -> Known:  # fmt: skip
    """Metrics of a table's layers by images.

    Raises
    ------
    EncError
        As the stages do.
    """
    how, more, forecast = making.decomposition, None, None
    images = images_of(loaded, source.weights, lmdb, executor, resources.store, resources.memory)
    check_labels(options.metric, images, lmdb)
    chooser = Chooser(images, how, making.placement, progress)
    if making.fit_train and train_lmdb is not None:
        more = images_of(loaded, source.weights, train_lmdb, executor, resources.store, resources.memory)
    # Before anything is measured.
    for m in table.layers:
        chooser.decomposer.check({m.name: m.form(1)})
    for line in concerns(images, lmdb):
        notice(line)
    sampled: dict[str, list[Form]] = {}
    for m in table.layers:
        sampled.setdefault(m.name, []).extend(m.form(r) for r in m.measure_at)
    left = remaining(chooser.decomposer, sampled)
    gradients = unpredicted(chooser.decomposer, sampled) if options.metric in PREDICTED else 0.0
    measured = options.metric not in ("pca", "output", *PREDICTED)
    # A long fit begins with what a part of the images gives, and what it gives is only measured.
    long = how.by_blocks and is_long(images.look.images, images.macs)
    refinements = making.refinements(long, options.method in PRUNING)
    # Where whole networks are measured anyway, they decide between a mixture and one scheme too.
    mixed = refinements > 0 and options.schemes != PAPER and not evaluates(options)
    seconds = duration.stages(
        images, [layer for layer, _ in table.by_layer()], sampled, how.kind, measured,
        0 if long else len(how.alternatives()), making.dense, left,
        passes(loaded, making.iterations) if making.iterations else 0, gradients,
        images_passed(images.look.images, images.macs) if how.by_blocks else 0,
        images_passed(more.look.images, more.macs, more=True) if more is not None else 0,
        (refinements + (1 if mixed else 0) + (1 if long else 0), chooser.compared_by), 1 if long else 0,
    )  # fmt: skip
    done = left.measured if measured else 1.0 - gradients if options.metric in PREDICTED else 0.0
    known = f"; {done:.0%} of the metrics are known already" if done else ""
    notice(f"measuring on {images.look.images} images: {duration.words(seconds, executor.workers)}{known}")
    if options.metric == "output":
        table = output_errors(table, chooser.decomposer, default_only=True)
    elif options.metric in PREDICTED:
        forecast = Forecast(chooser.decomposer, [m.name for m in table.layers], progress)
        for line in forecast.remarks():
            notice(line)
        table = predicted_metrics(table, forecast)
    elif options.metric != "pca":
        table = measured_metrics(
            images, table, default_only=True, progress=chooser.step("metrics"), decomposer=chooser.decomposer,
            dense=making.dense, undecided=can_be_wanted(table, options.target_flops) if making.early else None,
        )  # fmt: skip
        for line in ended_early(table):
            notice(line)
    return Known(table, chooser, forecast, more, refinements, mixed)
