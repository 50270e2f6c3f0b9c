"""Searches by what gradients predict: the least sum over layers, measurements where they decide, then whole plans."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Mapping, Optional, Sequence

import numpy as np

from enc_caffe.calibration.forecast import Forecast, corrections
from enc_caffe.complexity import layer_macs
from enc_caffe.decomposition import form_cost
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.gradients import WIDTH
from enc_caffe.measuring.layers import Pair
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.pipeline.planning import Found, PlanAccuracy, search_plan, together_plan
from enc_caffe.search import exact
from enc_caffe.search.build import TimeOf
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchLayer, SearchResult
from enc_caffe.search.together import Vectors, descend

#: Predictions up to this are taken as they are (docs/metrics.md: within a few percent of what is measured).
SMALL = 1e-3
#: Searches in a row at most, each by what the one before had measured.
ROUNDS = 6
#: Places of a layer's axis on either side of the chosen one that whole plans are looked for among.
NEAR = 5
#: What cross terms are multiplied by, to choose among, and images of a half at least. They are of a few images, those whose
#: divergence is large, more than what single layers do is.
TRUSTS, FOLD = (0.1, 0.3, 1.0), 50
#: Metrics that are predicted.
PREDICTED = ("fisher", "fisher+measured")


@dataclass(frozen=True)
class Predictor:
    """Searches by predictions: a callable of a table."""

    options: SearchOptions
    forecast: Forecast
    time_of: Optional[TimeOf] = None
    value_of: Optional[PlanAccuracy] = None

    def __call__(self, table: MetricsTable) -> Found:
        """:func:`search_predicted`."""
        return search_predicted(table, self.options, self.forecast, self.time_of, self.value_of)

    def completed(self, table: MetricsTable) -> MetricsTable:
        """A table of :func:`predicted_metrics` with all that searches learnt."""
        known = list(self.forecast.known())
        layers = []
        for m in table.layers:
            places = {_place_of(m, f) for n, f in known if n == m.name and f.scheme == m.scheme and not f.inside}
            layers.append(_with_predictions(m, sorted(places | set(_places(m))), self.forecast))
        return replace(table, layers=tuple(layers))


def predicted_metrics(table: MetricsTable, forecast: Forecast, default_only: bool = True) -> MetricsTable:
    """A table with ``sampled_fisher``: the divergence that gradients predict of every sampled form, each layer alone."""
    places = [tuple((default_only and m.measure_at) or m.sampled_ranks) for m in table.layers]
    if default_only:
        places = _filled(table.layers, places)
    forecast.learn((m.name, m.form(r)) for m, own in zip(table.layers, places) for r in own)
    layers = tuple(_with_predictions(m, own, forecast) for m, own in zip(table.layers, places))
    made, kind = forecast.decomposer.made, forecast.decomposer.factors_kind
    extra = {**dict(table.extra), "decomposition": kind, "images": made.look.images, "lmdb": made.lmdb.name}
    return replace(table, layers=layers, extra=tuple(extra.items()))


def _filled(curves: Sequence[LayerMetrics], places: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """More places for every layer's curves, as many as are multiplied at once anyway: each in the middle of the widest gap in cost."""
    found = [sorted(own) for own in places]
    by_layer: dict[str, list[int]] = {}
    for i, m in enumerate(curves):
        if m.layer.convolution is not None:
            by_layer.setdefault(m.name, []).append(i)
    for own in by_layer.values():
        costs = {i: np.array([1.0, *(form_cost(curves[i].layer, f)[0] for f in curves[i].forms)]) for i in own}
        whole = float(layer_macs(curves[own[0]].layer))
        while sum(len(found[i]) for i in own) < WIDTH:
            gaps = [
                (float(np.log(costs[i][b] / costs[i][a])), i, a, b)
                for i in own for a, b in zip(found[i], found[i][1:]) if b > a + 1 and costs[i][a] < whole
            ]  # fmt: skip
            if not gaps:
                break
            _, i, a, b = max(gaps)
            middle = a + int(np.searchsorted(costs[i][a : b + 1], np.sqrt(costs[i][a] * min(costs[i][b], whole))))
            found[i] = sorted({*found[i], min(max(middle, a + 1), b - 1)})
    return [tuple(own) for own in found]


def _with_predictions(m: LayerMetrics, places: Sequence[int], forecast: Forecast) -> LayerMetrics:
    """The curve with what is known at these places: measured where it was, else predicted."""
    sampled = m.sampled_at(tuple(sorted({*m.sampled_ranks, *places})))
    known = set(places)
    values = [forecast.alone((m.name, m.form(r))) if r in known else None for r in sampled.sampled_ranks]
    return sampled.with_series("sampled_fisher", values)


def search_predicted(
    table: MetricsTable, options: SearchOptions, forecast: Forecast, time_of: Optional[TimeOf] = None,
    value_of: Optional[PlanAccuracy] = None,
) -> Found:  # fmt: skip
    """The least sum of predicted divergences, and from there less divergence of the whole plan.

    The second step is of the method ``model`` alone, and of factors that are solved each by itself. With ``fisher+measured`` chosen forms whose prediction is above :data:`SMALL` are measured and the search is made again, until
    all of them are. The optimum of the sum is proven; that of the whole plan's divergence, cross terms included, is a local one
    that begins there.

    Parameters
    ----------
    table : MetricsTable
        Of :func:`predicted_metrics`.
    value_of : callable of the plan's forms, optional
        Measured divergence of a whole network. Where it is to be had it decides whether the second step is taken: where divergences
        are large, predictions of cross terms may be far off.
    """
    if options.metric == "fisher+measured":
        # What an earlier search measured holds for this one.
        values = {p: forecast.predicted(p) for p in forecast.measured}
        table = _anew(table, {p: v for p, v in values.items() if v > SMALL}, forecast)
    found = search_plan(table, options, None, time_of)
    for _ in range(ROUNDS if options.metric == "fisher+measured" else 0):
        large = {
            pair: value for x, r in zip(found.problem.layers, found.result.ranks) for pair, value in _values(x, r, forecast)
        }  # fmt: skip
        large = {p: v for p, v in large.items() if v > SMALL and p not in forecast.measured}
        if not large:
            break
        forecast.measure(large)
        table = _anew(table, large, forecast)
        found = search_plan(table, options, None, time_of)
    # Other methods have plans of their own, which no optimum takes the place of. Where layers make up for the ones before them, changes
    # of the scores do not add up as those of the factors do: of eleven plans of ResNet-56 cross terms bettered one.
    if options.method != "model" or forecast.decomposer.how.asymmetric:
        return found
    return _together(table, found, forecast, value_of)


def _values(layer: SearchLayer, place: int, forecast: Forecast) -> list[tuple[Pair, float]]:
    """Layers and forms of a place and what is thought of each: what the search had, or of several layers the predictions themselves."""
    pairs = layer.pairs(place)
    if len(pairs) == 1:
        return [(pairs[0], -float(np.log(max(layer.metric[place], 1e-300))))]
    forecast.learn(pairs)
    return [(p, forecast.alone(p)) for p in pairs]


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
            if name == m.name and form.scheme == m.scheme and not form.inside and forecast.measured[name, form] > 0
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


def _together(table: MetricsTable, found: Found, forecast: Forecast, value_of: Optional[PlanAccuracy] = None) -> Found:
    """The plan refined by what all layers change together, as far as images that did not choose, and whole networks, say that this helps."""
    begun = time.perf_counter()
    whole = _Whole(found, forecast)
    trust, words = whole.trust()
    ranks = whole.descend(whole.everything, trust) if trust > 0 else whole.start
    if value_of is not None and ranks != whole.start:
        before, after = (value_of(whole.forms(r)) for r in (whole.start, ranks))
        words += f"; measured {before:.6f} and {after:.6f}"
        if after > before:
            ranks, words = whole.start, f"{words}, so that the least sum is kept"
    note = (
        f"predicted divergence of the whole network {whole.value(whole.start):.6f} at the least sum over layers, proven among the forms near it, "
        f"and {whole.value(ranks):.6f} at this plan: {words}"
    )
    return together_plan(table, found, ranks, note, time.perf_counter() - begun)


class _Whole:
    """A search's plans as whole networks, by prediction."""

    def __init__(self, found: Found, forecast: Forecast) -> None:
        self.problem, self.start, self.forecast = found.problem, found.result.ranks, forecast
        self.near = [_near(x, r) for x, r in zip(self.problem.layers, self.start)]
        self.fixed = [p for p in self.problem.fixed.items() if p[1] != WHOLE]
        pairs = [pair for x, own in zip(self.problem.layers, self.near) for p in own for pair in x.pairs(p)]
        forecast.learn([*self.fixed, *pairs])
        self.alone = [
            {int(p): sum(map(forecast.alone, x.pairs(p)), 0.0) for p in own}
            for x, own in zip(self.problem.layers, self.near)
        ]
        self.start = self._least_sum()
        self.everything = np.ones(forecast.decomposer.made.look.images, bool)

    def _least_sum(self) -> tuple[int, ...]:
        """The least sum among the forms near the chosen ones, which are known exactly now."""
        layers = []
        for layer, own, alone in zip(self.problem.layers, self.near, self.alone):
            metric = layer.metric.copy()
            metric[own] = [np.exp(-alone[int(p)]) for p in own]
            layers.append(replace(layer, ranks=own, others=None, metric=metric))
        return exact.plans(replace(self.problem, layers=tuple(layers)))[0][0][0]

    def each(self, ranks: Sequence[int]) -> np.ndarray:
        """Predicted divergence of every image."""
        return self.forecast.each(self.forms(ranks))

    def forms(self, ranks: Sequence[int]) -> dict[str, Form]:
        """A plan's forms by layer."""
        return dict(SearchResult(tuple(ranks), 0.0).plan_forms(self.problem))

    def value(self, ranks: Sequence[int]) -> float:
        """Their mean."""
        return float(np.mean(self.each(ranks)))

    def descend(self, images: np.ndarray, trust: float) -> tuple[int, ...]:
        """A plan of less divergence on some images, cross terms multiplied by ``trust``."""
        scale = np.float32(1.0 / np.sqrt(images.sum()))

        none = np.zeros(int(images.sum()) * self.forecast.width, np.float32)

        def vector(*pairs: Pair) -> np.ndarray:
            return sum(((self.forecast.vector(p)[images] * scale).reshape(-1) for p in pairs), none)

        def value_of(ranks: Sequence[int]) -> float:
            alone = sum(own[r] for own, r in zip(self.alone, ranks))
            return trust * float(np.mean(self.each(ranks)[images])) + (1.0 - trust) * alone

        rest = vector(*self.fixed)
        layers = [
            Vectors(own, np.stack([vector(*x.pairs(p)) for p in own]))
            for x, own in zip(self.problem.layers, self.near)
        ]  # fmt: skip
        return descend(self.problem, layers, self.start, value_of, rest, trust).ranks

    def trust(self) -> tuple[float, str]:
        """How far cross terms are to be trusted, by both halves of the images in turn: one chooses, the other says what it is worth.

        What gains less than its standard error over the least sum is chance.
        """
        if len(self.everything) < 2 * FOLD:
            return 0.0, f"too few images to know cross terms by (at least {2 * FOLD})"
        odd = np.arange(len(self.everything)) % 2 == 1
        before = self.each(self.start)
        gains: dict[float, np.ndarray] = {}
        for trust in TRUSTS:
            after = np.zeros(len(odd))
            for half in (odd, ~odd):
                after[~half] = self.each(self.descend(half, trust))[~half]
            gains[trust] = before - after
        best = max(TRUSTS, key=lambda t: float(gains[t].mean()))
        gain, error = float(gains[best].mean()), float(gains[best].std() / np.sqrt(len(odd)))
        if gain <= error:
            return 0.0, (
                f"halves of the images do not agree that cross terms lead to a better one (gain {gain:.2g}, standard error {error:.2g})"
            )
        return best, (
            f"a local optimum of what all layers change together, cross terms weighed {best:g} (on the other half of the images "
            f"{gain:.2g} less, standard error {error:.2g})"
        )


def _near(layer: SearchLayer, rank: int) -> np.ndarray:
    """Places beside a chosen one that the exact search may choose too."""
    at = int(np.searchsorted(layer.choices, rank))
    return layer.choices[max(0, at - NEAR) : at + NEAR + 1]
