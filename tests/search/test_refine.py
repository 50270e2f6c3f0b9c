"""Refinement by evaluations of whole plans, on problems whose whole-network value is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.errors import UsageError
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import exact
from enc_caffe.search.build import build_problem
from enc_caffe.search.problem import SearchProblem
from enc_caffe.search.refine import _parts, refine
from tests.search.tables import entry, options


def problem(seed: int = 0) -> SearchProblem:
    """Six layers in three runs of equal cost, at half of the MACs."""
    sizes = ((8, 16), (8, 16), (16, 8), (16, 8), (32, 4), (32, 4))
    table = MetricsTable("net", "", tuple(entry(f"l{i}", c, s, seed + i) for i, (c, s) in enumerate(sizes)), 0.9)
    return build_problem(table, options(method="model", metric="divergence", first_layer="search"), None)


def weighted(p: SearchProblem, weights: list[float]):
    """A whole network in which some layers count more than the sum over layers says."""

    def value(ranks) -> float:
        return -sum(w * float(np.log(x.metric[r])) for w, x, r in zip(weights, p.layers, ranks))

    return value


def test_it_finds_what_the_sum_over_layers_leaves_out() -> None:
    p = problem()
    start = exact.plans(p)[0][0][0]
    value = weighted(p, [6, 6, 1, 1, 1, 1])
    found = refine(p, start, value, 12)
    assert found.value < value(start) and found.value == value(found.ranks) and p.fits(found.ranks)
    # The best that can be had: the exact optimum of the true weights.
    true = replace(p, layers=tuple(replace(x, metric=x.metric**w) for x, w in zip(p.layers, [6, 6, 1, 1, 1, 1])))
    best = value(exact.plans(true)[0][0][0])
    assert (found.value - best) < 0.5 * (value(start) - best)


def test_it_stays_where_nothing_is_better() -> None:
    p = problem(3)
    start = exact.plans(p)[0][0][0]
    found = refine(p, start, weighted(p, [1] * 6), 8)
    assert found.ranks == start and found.evaluated[0] == (start, found.value)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 500), st.integers(1, 9), st.lists(st.floats(0.1, 10), min_size=6, max_size=6))
def test_never_over_budget_nor_over_the_number(seed: int, number: int, weights: list[float]) -> None:
    p = problem(seed)
    start = exact.plans(p)[0][0][0]
    calls = []
    value = weighted(p, weights)

    def counted(ranks) -> float:
        calls.append(tuple(ranks))
        return value(ranks)

    found = refine(p, start, counted, number)
    assert len(calls) <= number and len(set(calls)) == len(calls)
    assert all(p.fits(ranks) for ranks in calls)
    assert found.value == min(v for _, v in found.evaluated) <= value(start)


def test_no_evaluation_is_too_few() -> None:
    with pytest.raises(UsageError, match="--refine 0"):
        refine(problem(), (1,) * 6, lambda ranks: 0.0, 0)


@pytest.mark.parametrize("runs", (1, 2, 3, 7, 24))
def test_parts_of_the_network_reach_every_weighting_of_its_runs(runs: int) -> None:
    parts = _parts(runs)
    assert len(parts) == runs - 1 and all(abs(np.unique(p[p != 0]).sum()) == 0 for p in parts)
    # With a common factor, which changes no plan, they span all weights.
    assert np.linalg.matrix_rank(np.stack([*parts, np.ones(runs)])) == runs


def test_the_halves_of_a_network_come_first() -> None:
    sizes = [(4 + 4 * i, 8) for i in range(8)]
    table = MetricsTable("net", "", tuple(entry(f"l{i}", c, s, i) for i, (c, s) in enumerate(sizes)), 0.9)
    p = build_problem(table, options(method="model", metric="divergence", first_layer="search"), None)
    start = exact.plans(p)[0][0][0]
    # Layers behind make up for most of what the first half loses.
    value = weighted(p, [0.2] * 4 + [1.0] * 4)
    found = refine(p, start, value, 3)
    assert found.value < 0.97 * value(start)
