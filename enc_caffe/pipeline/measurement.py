"""Measuring with images: where Caffe runs, what a network sees there, and the measured metrics of its layers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.notices import batch_statistics
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import UsageError
from enc_caffe.measuring.early import Undecided
from enc_caffe.measuring.feeding import fed_lines
from enc_caffe.measuring.layers import ORIGINAL, Pair
from enc_caffe.measuring.scores import Counts
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import Subject, early_counts, first_counts, layer_counts, subject
from enc_caffe.metrics.bends import bent_ranks, floor_of
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.progress import Progress, silent
from enc_caffe.workers.defaults import MEMORY
from enc_caffe.workers.executor import Executor

#: A form is clearly beaten where another one costs no more and has less than this part of its output error: divergences follow
#: the output error within a layer, but not to the last digit.
CLEAR = 0.7
#: Metrics of right answers, or of their loss.
LABELLED = ("measured", "combined", "loss")


def images_of(
    loaded: LoadedNetwork,
    weights: Path,
    lmdb: Path,
    executor: Executor,
    store: Optional[ResultStore] = None,
    memory: int = MEMORY,
) -> Subject:
    """The network with these images, ready to be measured."""
    macs = network_complexity(loaded.network, {}).macs
    part = loaded.runnable
    made = subject(part.net, str(loaded.path), weights, lmdb, macs, executor, store, memory, loaded.transform)
    return replace(made, remark=part.words)


def measured_metrics(
    images: Subject,
    table: MetricsTable,
    top_k: int = 1,
    default_only: bool = False,
    progress: Progress = silent,
    decomposer: Optional[Decomposer] = None,
    dense: bool = False,
    undecided: Optional[Undecided] = None,
) -> MetricsTable:
    """A table with accuracy, cross-entropy and divergence at its sampled ranks, each layer truncated alone.

    Where a layer may have several schemes and ``decomposer`` knows the layers' output errors, forms that another one of the
    layer clearly beats (:data:`CLEAR`) are not measured.

    Parameters
    ----------
    images : Subject
    table : MetricsTable
        Of :func:`enc_caffe.pipeline.pca_metrics`, for the same weights.
    top_k : int
        1 or 5: the accuracy that counts as the metric.
    default_only : bool
        Measure at the ranks that METHOD section 3 measures, not at all that are sampled.
    progress : callable of images times (layer, form), done and in all
    decomposer : Decomposer, optional
        Whose factors are measured; those of plain SVD without it.
    dense : bool
        Measure at more ranks where the divergence bends (:mod:`enc_caffe.metrics.bends`); they become sampled ranks.
    undecided : callable, optional
        Which of the sampled forms go on where some end early (:func:`enc_caffe.pipeline.wanted.can_be_wanted`).

    Raises
    ------
    UsageError
        For another ``top_k``.
    """
    if top_k not in (1, 5):
        raise UsageError(f"--accuracy {top_k}: 1 or 5 is needed")
    wanted = _wanted(table, default_only)
    if decomposer is not None and decomposer.how.kind != "svd":
        table = output_errors(table, decomposer, default_only)
        wanted = _worth_measuring(table, wanted)

    seen: dict[Pair, int] = {}

    def counted(pairs: Sequence[Pair]) -> dict[Pair, Counts]:
        factors, key = (decomposer.prepare(pairs), decomposer.key()) if decomposer else ("", {})
        if undecided is None or not set(pairs) <= set(wanted):
            return layer_counts(images, pairs, progress, factors, key)
        counts, early = early_counts(images, pairs, undecided, progress, factors, key)
        seen.update(early)
        return counts

    found = counted(wanted)
    original = found[ORIGINAL]
    if dense:
        table, more = _with_bends(table, found)
        found.update(counted(more) if more else {})
    labelled = images.look.labelled
    layers = tuple(_with_counts(m, found, top_k, labelled) for m in table.layers)
    if undecided is not None:
        layers = tuple(
            m.with_series("sampled_images", [_images(found, seen, (m.name, m.form(r))) for r in m.sampled_ranks])
            for m in layers
        )
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


def _wanted(table: MetricsTable, default_only: bool) -> list[Pair]:
    return [(m.name, m.form(r)) for m in table.layers for r in (default_only and m.measure_at or m.sampled_ranks)]


def output_errors(table: MetricsTable, decomposer: Decomposer, default_only: bool = False) -> MetricsTable:
    """A table with the part of its output's power that each layer loses on the images, from second moments alone: no network is
    run for a form.

    Raises
    ------
    UsageError
        If the decomposer makes factors by plain SVD, which sees no images.
    """
    if decomposer.how.kind == "svd":
        raise UsageError("--metric output looks at the images: give --decomposition weighted or asymmetric")
    wanted = _wanted(table, default_only)
    errors = decomposer.errors(wanted)
    layers = tuple(
        m.with_series("sampled_output_error", [errors.get((m.name, m.form(r))) for r in m.sampled_ranks])
        for m in table.layers
    )
    extra = {
        **dict(table.extra),
        "decomposition": decomposer.factors_kind,
        "images": decomposer.made.look.images,
        "lmdb": decomposer.made.lmdb.name,
    }
    return replace(table, layers=layers, extra=tuple(extra.items()))


def _worth_measuring(table: MetricsTable, wanted: Sequence[Pair]) -> list[Pair]:
    """Those of the pairs that no other form of the layer clearly beats; every curve keeps none, or two at least."""
    asked, kept = set(wanted), []
    for layer, curves in table.by_layer():
        if len(curves) == 1:
            kept += [p for p in wanted if p[0] == layer.name]
            continue
        # What a layer does not read costs the layers before it nothing either: not to be compared by what the layer itself costs.
        curves, apart = tuple(m for m in curves if m.before is None), [m for m in curves if m.before is not None]
        kept += [p for m in apart for p in ((m.name, m.form(r)) for r in m.sampled_ranks) if p in asked]
        points = [
            (form_cost(layer, m.form(r))[0], e, m, r)
            for m in curves for r, e in zip(m.sampled_ranks, m.series("sampled_output_error")) if e is not None
        ]  # fmt: skip
        for m in curves:
            own = [(cost, e, r) for cost, e, other, r in points if other is m and (m.name, m.form(r)) in asked]
            rivals = [(cost, e) for cost, e, other, _ in points if other is not m]
            good = [r for cost, e, r in own if not any(c <= cost and x <= CLEAR * e for c, x in rivals)]
            if good:
                # Neighbours of the good ones, so that a curve can be drawn through them, and r_max, where a loss is the original's.
                at = [r for _, _, r in own]
                places = {
                    j for r in good for j in (at.index(r) - 1, at.index(r), at.index(r) + 1) if 0 <= j < len(at)
                } | {len(at) - 1}
                kept += [(m.name, m.form(at[j])) for j in sorted(places)]
    return kept


def _with_bends(table: MetricsTable, found: Mapping[Pair, Counts]) -> tuple[MetricsTable, list[Pair]]:
    """The table with ranks where the measured divergences bend, and those ranks."""
    curves = []
    for m in table.layers:
        counts = [(r, found[m.name, m.form(r)]) for r in m.sampled_ranks if (m.name, m.form(r)) in found]
        curves.append(([r for r, _ in counts], [max(0.0, c.divergence / c.images) for _, c in counts]))
    floor, layers = floor_of(curves), []
    more: list[Pair] = []
    for m, curve in zip(table.layers, curves):
        ranks = bent_ranks(curve, floor)
        more += [(m.name, m.form(r)) for r in ranks]
        layers.append(m.sampled_at(tuple(sorted({*m.sampled_ranks, *ranks}))))
    return replace(table, layers=tuple(layers)), more


def _accuracy(counts: Counts, top_k: int) -> float:
    return (counts.correct if top_k == 1 else counts.correct_5) / counts.images


def _with_counts(m: LayerMetrics, found: Mapping[Pair, Counts], top_k: int, labelled: bool) -> LayerMetrics:
    counts = [found.get((m.name, m.form(r))) for r in m.sampled_ranks]
    series: dict[str, list[Any]] = {
        "sampled_divergence": [None if c is None else max(0.0, c.divergence / c.images) for c in counts]
    }
    if labelled:
        series["sampled_correct"] = [None if c is None else c.correct for c in counts]
        series["sampled_correct_5"] = [None if c is None else c.correct_5 for c in counts]
        series["sampled_cross_entropy"] = [None if c is None else c.cross_entropy / c.images for c in counts]
    accuracy = tuple(None if c is None or not labelled else _accuracy(c, top_k) for c in counts)
    known = {k: v for k, v in dict(m.extra).items() if k not in series}
    return replace(m, sampled_accuracy=accuracy, extra=tuple({**known, **series}.items()))


def _images(found: Mapping[Pair, Counts], seen: Mapping[Pair, int], pair: Pair) -> Optional[int]:
    return seen.get(pair, found[pair].images) if pair in found else None


def ended_early(table: MetricsTable) -> list[str]:
    """A line on the forms that were not measured on all images; none where all were."""
    images = [i for m in table.layers for i in dict(m.extra).get("sampled_images", ()) if i is not None]
    fewer = [i for i in images if i < max(images)]
    if not fewer:
        return []
    return [
        f"{len(fewer)} of {len(images)} forms, which no plan can want, were measured on {min(fewer)} to {max(fewer)} images alone: "
        f"{1 - sum(images) / (len(images) * max(images)):.0%} less work"
    ]


def check_labels(metric: str, images: Subject, lmdb: Path) -> None:
    """Raise UsageError where a metric counts right answers, or their loss, and the images, which the user calls ``lmdb``, have no labels."""
    if metric in LABELLED and not images.look.labelled:
        has = (
            f"those of {lmdb} are none: {images.look.beyond}"
            if images.look.beyond
            else f"{lmdb} has none for the network's scores"
        )
        raise UsageError(f"--metric {metric} needs labels, and {has}; --metric divergence, output and fisher need none")


def falling_curves(table: MetricsTable) -> list[str]:
    """Layers whose measured accuracy falls somewhere as the rank rises."""
    names = []
    for m in table.layers:
        values = [a for a in m.sampled_accuracy if a is not None]
        if np.any(np.diff(values) < 0):
            names.append(m.name)
    return list(dict.fromkeys(names))


def concerns(images: Subject, lmdb: Optional[Path] = None) -> list[str]:
    """What a person should know of the images, which they call ``lmdb``, before anything is measured."""
    look, lmdb = images.look, lmdb or images.lmdb
    lines = [images.remark] if images.remark else []
    lines += fed_lines(images.net, images.source, images.weights, images.lmdb, look, images.executor)
    lines += batch_statistics(images.net)
    if not look.labelled:
        return lines
    if look.classes_seen == 1 < look.scores.classes:
        lines.append(
            f"{lmdb}: all {look.images} images are of one class, but the network has {look.scores.classes}; what they say of the others is little"
        )
    counts = first_counts(images)
    entropy, chance = counts.cross_entropy / counts.images, float(np.log(look.scores.classes))
    if entropy <= chance:
        return lines
    said = f"{entropy:.2f}" if entropy < 1e5 else f"{entropy:.3g}"
    return [
        *lines,
        f"{lmdb}: the original network's cross-entropy on the first {counts.images} images is {said}, and guessing gives {chance:.2f}; "
        "do the images have the scale, mean and channel order that the network expects?",
    ]
