"""Which forms the options let a layer of a metrics table have, and what the metric says of them."""

from __future__ import annotations

import math
from typing import Optional, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost, named, scheme_for
from enc_caffe.errors import UsageError, nearest
from enc_caffe.form import ALL, PAPER, WHOLE, Form
from enc_caffe.metrics.curves import RankOf, inverse_of_curve, rank_over_metric
from enc_caffe.metrics.table import SERIES, LayerMetrics, MetricsTable
from enc_caffe.rounding import round_half_up
from enc_caffe.search.options import SearchOptions


def check_names(table: MetricsTable, options: SearchOptions) -> None:
    """Raise UsageError for names that the table does not have, or that contradict each other."""
    known = {m.name for m in table.layers}
    for flag, names in (("--bounds", set(options.bounds)), ("--whole", set(options.whole))):
        for name in sorted(names - known):
            raise UsageError(
                f"{flag} {name}: the metrics of '{table.network}' have no such layer{nearest(name, known)}; enc-caffe inspect lists "
                "those that can be decomposed"
            )
    for name in sorted(set(options.bounds) & options.whole):
        raise UsageError(f"layer '{name}' stands in --bounds and in --whole; one of them is needed")
    if isinstance(options.schemes, tuple):
        named(options.schemes)
        measured = {m.scheme for m in table.layers}
        missing = [n for n in options.schemes if n not in measured]
        if len(missing) == len(options.schemes):
            raise UsageError(
                f"--schemes {','.join(options.schemes)}: the metrics of '{table.network}' have {', '.join(sorted(measured))} alone; "
                f"compute them with enc-caffe metrics --schemes {','.join(missing)}"
            )


def asked_for(entry: LayerMetrics, options: SearchOptions) -> bool:
    """Whether the options let a layer have the forms of a curve."""
    if options.schemes == PAPER:
        return entry.paper
    if options.schemes == ALL:
        return entry.before is None
    return entry.scheme in options.schemes


def allowed_places(entry: LayerMetrics, options: SearchOptions) -> np.ndarray:
    """Places of a curve within floor, r_max, the layer's own bounds and the multiple; empty where no multiple fits (it stays
    whole).
    """
    low, high = max(1, round_half_up(options.floor * entry.max_rank)), entry.max_rank
    lowest, highest = options.bounds.get(entry.name, (None, None))
    if entry.ladder:
        return _allowed_forms(entry, options, lowest, highest)
    if entry.name in options.bounds:
        low, high = lowest if lowest is not None else low, highest if highest is not None else high
        if not 1 <= low <= high <= entry.max_rank:
            raise UsageError(
                f"--bounds {entry.name}={low}:{high}: 1 <= lowest <= highest <= r_max = {entry.max_rank} is needed"
            )
    ranks = np.arange(low, high + 1)
    return ranks[ranks % options.multiple_of == 0]


def _allowed_forms(
    entry: LayerMetrics, options: SearchOptions, lowest: Optional[int], highest: Optional[int]
) -> np.ndarray:
    """Places of forms of several ranks: each rank a multiple (or all channels) and within the bounds, MACs above the floor."""
    layer, rules = entry.layer, scheme_for(entry.scheme)
    least = options.floor * form_cost(layer, WHOLE)[0] if lowest is None and highest is None else 0.0
    return np.array([
        place for place, form in enumerate(entry.forms, 1)
        if rules.fits_step(layer, form, options.multiple_of)
        and all((lowest or 1) <= r <= (highest or r) for r in form.ranks) and form_cost(layer, form)[0] >= least
    ], dtype=int)  # fmt: skip


def has_values(entry: LayerMetrics, metric: str) -> bool:
    """Whether a curve has what the metric needs."""
    if metric == "measured":
        return any(a is not None for a in entry.sampled_accuracy)
    return metric in ("pca", "combined") or any(v is not None for v in entry.series(SERIES[metric]))


def with_values(
    able: Sequence[LayerMetrics], places: Sequence[np.ndarray], options: SearchOptions
) -> tuple[Sequence[LayerMetrics], Sequence[np.ndarray]]:
    """Those curves that have values; what another scheme clearly beat was not measured."""
    known = [(m, own) for m, own in zip(able, places) if has_values(m, options.metric)]
    return [m for m, _ in known] or able, [own for _, own in known] or places


def check_comparable(able: Sequence[LayerMetrics], options: SearchOptions) -> None:
    """Raise UsageError where a layer may have schemes that the metric, or the method, cannot compare."""
    names = ", ".join(m.scheme for m in able)
    if options.method in ("energy", "vbmf") and (len(able) > 1 or able[0].ladder):
        raise UsageError(
            f"--method {options.method}: layer '{able[0].name}' may have {names}, and its rule knows ranks of one matrix alone; "
            "give --schemes paper or one scheme"
        )
    if len(able) > 1 and options.metric in ("pca", "combined"):
        raise UsageError(
            f"--metric {options.metric}: layer '{able[0].name}' may have {names}, and PCA energy is not comparable between "
            "schemes; measure with images and give --metric divergence, loss or measured, or give --schemes paper or one scheme"
        )


def curve_of(entry: LayerMetrics, table: MetricsTable, options: SearchOptions) -> tuple[np.ndarray, RankOf]:
    """The metric at every place of a curve, 0 to r_max, and the rank over the metric."""
    kind, axis = "measured" if options.metric == "combined" else options.metric, entry.axis
    if kind == "pca":
        if options.preset == "paper":
            return entry.energy, inverse_of_curve(entry.energy, axis)
        # The published runs map PCA energy back to ranks through the sampled ranks only; without samples, through all.
        ranks = np.array(entry.sampled_ranks) if entry.sampled_ranks else np.arange(1, entry.max_rank + 1)
        return entry.energy, rank_over_metric(axis[ranks], entry.energy[ranks])
    if kind == "measured":
        points, values = entry.measured_points(table.baseline_accuracy)
        curve = entry.measured(table.baseline_accuracy)
    else:
        points, values = entry.surrogate_points(kind)
        curve = entry.surrogate(kind)
    return curve, inverse_of_curve(curve, axis) if options.preset == "paper" else rank_over_metric(axis[points], values)


def forms_and_values(
    able: Sequence[LayerMetrics], places: Sequence[np.ndarray], table: MetricsTable, options: SearchOptions
) -> tuple[list[Form], np.ndarray]:
    """The layer whole, whose metric is 1, and all forms of its curves."""
    forms = [WHOLE, *(m.form(int(p)) for m, own in zip(able, places) for p in own)]
    return forms, np.concatenate([[1.0], *(curve_of(m, table, options)[0][own] for m, own in zip(able, places))])


def log_metric(entry: LayerMetrics, place: int, table: MetricsTable, options: SearchOptions) -> float:
    """Logarithm of the metric at a place that is decided already; 0 where nothing was measured."""
    # A first layer at half its rank need not have been measured.
    if options.metric not in ("measured", "combined") or all(a is None for a in entry.sampled_accuracy):
        return 0.0
    value = float(curve_of(entry, table, options)[0][place])
    return math.log(value) if value > 0 else -math.inf
