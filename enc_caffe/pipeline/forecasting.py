"""Searches by what gradients predict: the least sum over layers, measurements where they decide, then whole plans."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Mapping, Optional, Sequence

import numpy as np

from enc_caffe.calibration.forecast import Forecast, corrections
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.layers import Pair
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.pipeline.planning import Found, search_plan, together_plan
from enc_caffe.search.build import TimeOf
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchLayer, SearchResult
from enc_caffe.search.together import Vectors, descend

#: Predictions up to this are taken as they are (docs/metrics.md: within a few percent of what is measured).
SMALL = 1e-3
#: Searches in a row at most, each by what the one before had measured.
ROUNDS = 6
#: Places of a layer's axis on either side of the chosen one that whole plans are looked for among. Where more than this part of the
#: layers ends at the edge, the window moves; windows at most: each costs a pass for gradients.
NEAR, EDGES, WINDOWS = 5, 0.1, 2
#: Metrics that are predicted.
PREDICTED = ("fisher", "fisher+measured")


@dataclass(frozen=True)
class Predictor:
    """Searches by predictions: a callable of a table."""

    options: SearchOptions
    forecast: Forecast
    time_of: Optional[TimeOf] = None

    def __call__(self, table: MetricsTable) -> Found:
        """:func:`search_predicted`."""
        return search_predicted(table, self.options, self.forecast, self.time_of)

    def completed(self, table: MetricsTable) -> MetricsTable:
        """A table of :func:`predicted_metrics` with all that searches learnt."""
        known = list(self.forecast.known())
        layers = []
        for m in table.layers:
            places = {_place_of(m, f) for n, f in known if n == m.name and f.scheme == m.scheme}
            layers.append(_with_predictions(m, sorted(places | set(_places(m))), self.forecast))
        return replace(table, layers=tuple(layers))


def predicted_metrics(table: MetricsTable, forecast: Forecast, default_only: bool = True) -> MetricsTable:
    """A table with ``sampled_fisher``: the divergence that gradients predict of every sampled form, each layer alone."""
    places = [tuple((default_only and m.measure_at) or m.sampled_ranks) for m in table.layers]
    forecast.learn((m.name, m.form(r)) for m, own in zip(table.layers, places) for r in own)
    layers = tuple(_with_predictions(m, own, forecast) for m, own in zip(table.layers, places))
    return replace(table, layers=layers)


def _with_predictions(m: LayerMetrics, places: Sequence[int], forecast: Forecast) -> LayerMetrics:
    """The curve with what is known at these places: measured where it was, else predicted."""
    sampled = m.sampled_at(tuple(sorted({*m.sampled_ranks, *places})))
    known = set(places)
    values = [forecast.alone((m.name, m.form(r))) if r in known else None for r in sampled.sampled_ranks]
    return sampled.with_series("sampled_fisher", values)


def search_predicted(
    table: MetricsTable, options: SearchOptions, forecast: Forecast, time_of: Optional[TimeOf] = None
) -> Found:
    """The least sum of predicted divergences, and from there less divergence of the whole plan.

    With ``fisher+measured`` chosen forms whose prediction is above :data:`SMALL` are measured and the search is made again, until
    all of them are. The optimum of the sum is proven; that of the whole plan's divergence, cross terms included, is a local one
    that begins there.

    Parameters
    ----------
    table : MetricsTable
        Of :func:`predicted_metrics`.
    """
    found = search_plan(table, options, None, time_of)
    for _ in range(ROUNDS if options.metric == "fisher+measured" else 0):
        large = {
            (x.name, x.forms[r]): -float(np.log(max(x.metric[r], 1e-300)))
            for x, r in zip(found.problem.layers, found.result.ranks) if x.forms[r] != WHOLE
        }  # fmt: skip
        large = {p: v for p, v in large.items() if v > SMALL and p not in forecast.measured}
        if not large:
            break
        forecast.measure(large)
        table = _anew(table, large, forecast)
        found = search_plan(table, options, None, time_of)
    return _together(table, found, forecast)


def _places(m: LayerMetrics) -> list[int]:
    """Places that are known."""
    return [r for r, v in zip(m.sampled_ranks, m.series("sampled_fisher")) if v is not None]


def _place_of(m: LayerMetrics, form: Form) -> int:
    return m.ladder.index(form) + 1 if m.ladder else form.ranks[0]


def _anew(table: MetricsTable, values: Mapping[Pair, float], forecast: Forecast) -> MetricsTable:
    """The table with what was measured; a curve's predictions are multiplied by the ratio at what was, along its cost."""
    layers = []
    for m in table.layers:
        ratios = {
            _place_of(m, form): forecast.measured[name, form] / value
            for (name, form), value in values.items()
            if name == m.name and form.scheme == m.scheme and forecast.measured[name, form] > 0
        }
        layers.append(_corrected(m, ratios, forecast) if ratios else m)
    return replace(table, layers=tuple(layers))


def _corrected(m: LayerMetrics, ratios: Mapping[int, float], forecast: Forecast) -> LayerMetrics:
    sampled = m.sampled_at(tuple(sorted({*m.sampled_ranks, *ratios})))
    places = sampled.sampled_ranks
    scales = corrections(
        [float(m.axis[r]) for r in places], {i: ratios[r] for i, r in enumerate(places) if r in ratios}
    )
    values: list[Optional[float]] = []
    for place, value, scale in zip(places, sampled.series("sampled_fisher"), scales):
        own = (m.name, m.form(place))
        if own in forecast.measured:
            values.append(forecast.measured[own])
        else:
            # Small predictions are right as they are.
            values.append(value if value is None or value <= SMALL else value * float(scale))
    return sampled.with_series("sampled_fisher", values)


def _together(table: MetricsTable, found: Found, forecast: Forecast) -> Found:
    """The plan refined by what all layers change together."""
    problem, start, begun = found.problem, found.result.ranks, time.perf_counter()
    fixed = [p for p in problem.fixed.items() if p[1] != WHOLE]
    near = [_near(x, r) for x, r in zip(problem.layers, start)]

    def value_of(ranks: Sequence[int]) -> float:
        return forecast.together(SearchResult(tuple(ranks), 0.0).plan_forms(problem))

    ranks, rounds, first = start, 0, None
    for _ in range(WINDOWS):
        pairs = [(x.name, x.forms[p]) for x, own in zip(problem.layers, near) for p in own if x.forms[p] != WHOLE]
        forecast.learn([*fixed, *pairs])
        first = value_of(start) if first is None else first
        rest = sum((forecast.vector(p) for p in fixed), np.zeros(forecast.width, np.float32))
        layers = [
            Vectors(own, np.stack([forecast.vector((x.name, x.forms[p])) for p in own]))
            for x, own in zip(problem.layers, near)
        ]  # fmt: skip
        step = descend(problem, layers, ranks, value_of, rest)
        rounds, ranks = rounds + step.rounds, step.ranks
        wider = [np.union1d(own, _near(x, r)) for x, own, r in zip(problem.layers, near, ranks)]
        edges = sum(r in (own[0], own[-1]) and len(new) > len(own) for r, own, new in zip(ranks, near, wider))
        if edges <= EDGES * len(ranks):
            break
        near = wider
    words = (
        f"predicted divergence of the whole network {first:.6f} at the least sum over layers, which is proven, and "
        f"{value_of(ranks):.6f} at this plan: a local optimum of what all layers change together, {rounds} rounds from there"
    )
    return together_plan(table, found, ranks, words, time.perf_counter() - begun)


def _near(layer: SearchLayer, rank: int) -> np.ndarray:
    """Places beside a chosen one that the exact search may choose too."""
    at = int(np.searchsorted(layer.choices, rank))
    return layer.choices[max(0, at - NEAR) : at + NEAR + 1]
