"""Plans by the squared length of a sum of vectors, against all plans there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.search import exact
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchLayer, SearchProblem
from enc_caffe.search.together import Vectors, descend


def problem_of(rng: np.random.Generator, layers: int, places: int, width: int, shared: float):
    """Layers whose vectors grow as the cost falls; ``shared``: how much they point one way."""
    one = rng.normal(0, 1, width)
    vectors, found = [], []
    for i in range(layers):
        costs = np.concatenate([[0], np.sort(rng.integers(1, 40, places)) + np.arange(places)])
        own = rng.normal(0, 1, (places, width)) + shared * one
        own *= (np.linspace(1.0, 0.05, places) / np.linalg.norm(own, axis=1))[:, None]
        vectors.append(Vectors(np.arange(1, places + 1), own.astype(np.float32)))
        alone = 0.5 * np.sum(own**2, axis=1)
        metric = np.concatenate([[0.0], np.exp(-alone)])
        found.append(
            SearchLayer(f"l{i}", np.arange(1, places + 1), places, {"macs": costs}, metric, lambda y: y, metric)
        )
    whole = sum(int(x.costs["macs"][-1]) for x in found)
    options = SearchOptions("model", "fisher", 0.6)
    return SearchProblem(tuple(found), {"macs": whole}, {"macs": 0.6 * whole}, options), vectors


def value_in(vectors, rest):
    return lambda ranks: float(0.5 * np.sum((rest + sum(v.vectors[r - 1] for v, r in zip(vectors, ranks))) ** 2))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from((0.0, 0.5, 3.0)), st.booleans())
def test_it_ends_within_the_budget_never_worse_and_where_no_pair_is_better(
    seed: int, shared: float, fixed: bool
) -> None:
    rng = np.random.default_rng(seed)
    problem, vectors = problem_of(rng, 4, 5, 6, shared)
    rest = rng.normal(0, 0.3, 6).astype(np.float32) * fixed
    try:
        start = exact.plans(problem)[0][0][0]
    except Exception:
        return
    value_of = value_in(vectors, rest)
    found = descend(problem, vectors, start, value_of, rest)
    assert problem.fits(found.ranks) and found.before == value_of(start)
    assert found.after == value_of(found.ranks) <= found.before
    for i, j in product(range(4), repeat=2):
        for a, b in product(range(1, 6), repeat=2):
            other = list(found.ranks)
            other[i], other[j] = a, b
            if problem.fits(other):
                assert value_of(other) >= found.after * (1 - 2e-4), (other, found.ranks)


def test_errors_that_cancel_are_found() -> None:
    # Alone the first form is better in both layers; together the second ones cancel.
    down, up = np.array([0.3, 0.0]), np.array([0.0, 1.0])
    vectors = [Vectors(np.array([1, 2]), np.stack([down, up])), Vectors(np.array([1, 2]), np.stack([down, -up]))]
    vectors = [Vectors(v.places, v.vectors.astype(np.float32)) for v in vectors]
    metric = np.exp(-np.array([np.inf, 0.045, 0.5]))
    layers = tuple(
        SearchLayer(n, np.array([1, 2]), 2, {"macs": np.array([0, 5, 5])}, metric, lambda y: y, metric) for n in "ab"
    )
    problem = SearchProblem(layers, {"macs": 10}, {"macs": 10.0}, SearchOptions("model", "fisher", 1.0))
    found = descend(problem, vectors, (1, 1), value_in(vectors, np.zeros(2)))
    assert found.ranks == (2, 2) and found.after == pytest.approx(0.0, abs=1e-9) and found.before == pytest.approx(0.18)
