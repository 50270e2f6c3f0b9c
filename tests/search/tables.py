"""Small networks and problems for the tests of the search, made of random but valid metrics."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from enc_caffe.decomposition import group_spectra, schemes
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, Layer
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchLayer, SearchProblem

VALUES = (0.0, 0.1, 0.25, 0.5, 0.9, 1.0, 1.05)


def entry(name: str, channels: int, side: int, seed: int) -> LayerMetrics:
    """A 3x3 layer with random, decreasing singular values and measured accuracies."""
    geometry = Convolution(channels, (3, 3), pad=(1, 1))
    shape = ((1, channels, side, side),)
    layer = Layer(name, "Convolution", bottom_shapes=shape, top_shapes=shape, convolution=geometry)
    rank = channels * 3 // 2
    rng = np.random.default_rng(seed)
    values = np.sort(rng.random(rank) + 0.01)[::-1]
    samples = sorted({max(1, rank // 10), max(1, rank // 4), max(1, rank // 2), rank})
    accuracy = np.sort(rng.random(len(samples)))
    accuracy[-1] = 1.0
    divergence = np.sort(rng.random(len(samples)))[::-1].tolist()
    divergence[-1] = 0.0
    return LayerMetrics(
        layer, "spatial", rank, (values,), tuple(samples), tuple(accuracy), None, (("sampled_divergence", divergence),)
    )


def curves(name: str, inputs: int, outputs: int, side: int, kernel: int, seed: int) -> tuple[LayerMetrics, ...]:
    """A layer with random weights in every scheme that takes it, each with a random falling divergence."""
    geometry = Convolution(outputs, (kernel, kernel), pad=(kernel // 2,) * 2)
    shapes = ((1, inputs, side, side),), ((1, outputs, side, side),)
    layer = Layer(name, "Convolution", bottom_shapes=shapes[0], top_shapes=shapes[1], convolution=geometry)
    rng = np.random.default_rng(seed)
    weights, found = rng.standard_normal((outputs, inputs, kernel, kernel)), []
    for scheme in schemes().values():
        if scheme.refuses(layer):
            continue
        spectra = tuple(group_spectra(scheme.matrices(layer, weights)))
        one = scheme.matrix_shape(layer) is not None
        forms = scheme.forms(layer, spectra)
        if not forms:
            continue
        places = tuple(sorted({1, (len(forms) + 1) // 2, len(forms)}))
        divergence = np.sort(rng.random(len(places)))[::-1] * rng.choice((0.1, 1.0))
        found.append(LayerMetrics(
            layer, scheme.name, len(forms), spectra, places, (None,) * len(places), None, (("sampled_divergence", divergence.tolist()),),
            () if one else forms, scheme.name == "spatial",
        ))  # fmt: skip
    return tuple(found)


@st.composite
def mixtures(draw: st.DrawFn) -> MetricsTable:
    """One to three small layers in every scheme that takes them."""
    made: list[LayerMetrics] = []
    for i in range(draw(st.integers(1, 3))):
        inputs, outputs = draw(st.integers(2, 4)), draw(st.integers(2, 4))
        made += curves(
            f"l{i}",
            inputs,
            outputs,
            draw(st.sampled_from((3, 6))),
            draw(st.sampled_from((1, 3, 3))),
            draw(st.integers(0, 1000)),
        )
    return MetricsTable("net", "", tuple(made), 1.0)


@st.composite
def tables(draw: st.DrawFn) -> MetricsTable:
    """Networks of two to five layers."""
    number = draw(st.integers(2, 5))
    return MetricsTable("net", "", tuple(
        entry(f"l{i}", draw(st.sampled_from((4, 8, 16))), draw(st.sampled_from((4, 8))), draw(st.integers(0, 1000)))
        for i in range(number)
    ), 0.9)  # fmt: skip


@st.composite
def problems(draw: st.DrawFn, metric: str = "pca", resources: int = 1) -> SearchProblem:
    """One to four layers with a few ranks each, any curves, any costs, any budgets."""
    names = ("macs", "parameters", "latency")[:resources]
    layers = []
    for i in range(draw(st.integers(1, 4))):
        high = draw(st.integers(1, 6))
        ranks = sorted(draw(st.sets(st.integers(1, high), min_size=1)))
        curves = [
            np.array([0.0, *draw(st.lists(st.sampled_from(VALUES), min_size=high, max_size=high))]) for _ in range(2)
        ]
        costs = {n: draw(st.integers(1, 9)) * np.arange(high + 1, dtype=np.int64) for n in ("macs", "parameters")}
        # Latency is any curve, not a line.
        costs["latency"] = np.array(
            [0, *draw(st.lists(st.integers(1, 30), min_size=high, max_size=high))], dtype=np.int64
        )
        energy = np.minimum(curves[1], 1.0)
        layers.append(SearchLayer(f"l{i}", np.array(ranks), high, costs, curves[0], lambda y: y, energy))
    budgets = {n: draw(st.integers(1, 60)) for n in names}
    targets = {"target_flops": 0.5, "target_params": 0.5 if resources > 1 else None, "target_latency": 0.5 if resources > 2 else None}  # fmt: skip
    options = SearchOptions(method="model", metric=metric, **targets)
    fixed = {n: draw(st.integers(0, 3)) for n in names}
    return SearchProblem(
        tuple(layers), dict.fromkeys(("macs", "parameters", "latency"), 60), budgets, options, {}, fixed
    )


def every_plan(problem: SearchProblem) -> list[tuple[float, tuple[int, ...]]]:
    """Log-objective and ranks of all plans within the budgets, best first."""
    plans = itertools.product(*(x.ranks.tolist() for x in problem.layers))
    scored = [(problem.score(p), p) for p in plans if problem.fits(p)]
    return sorted((s for s in scored if s[0] > -np.inf), reverse=True)


def options(**changes: Any) -> SearchOptions:
    """Options with the target that a test does not care for."""
    return replace(SearchOptions(target_flops=0.5), **changes)
