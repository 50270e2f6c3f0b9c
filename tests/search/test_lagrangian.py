"""One price for all layers: it finds the hull's plans, never more than the budget, and hardly less than the optimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from enc_caffe.errors import InfeasibleError
from enc_caffe.search import exact, lagrangian
from enc_caffe.search.problem import SearchLayer, SearchProblem
from tests.search.tables import every_plan, options, problems


@settings(max_examples=150, deadline=None)
@given(problems())
def test_no_plan_of_that_cost_is_better(problem: SearchProblem) -> None:
    try:
        found = lagrangian.search(problem)
    except InfeasibleError:
        return
    assert problem.fits(found.ranks)
    if found.log_objective == -np.inf:
        return
    # What a price finds is optimal among all plans that cost no more.
    spent = problem.macs(found.ranks)
    for score, ranks in every_plan(problem):
        if problem.macs(ranks) <= spent:
            assert score <= found.log_objective + 1e-9


def concave(gain: float) -> np.ndarray:
    return np.array([0.0, *np.exp(-gain / np.arange(1, 9))])


def test_where_the_hull_leaves_a_gap_the_exact_search_has_none() -> None:
    # A jump at the last rank: no price takes a rank between.
    jump = np.array([0.0, 0.5, 0.5, 0.5, 0.9])
    layers = tuple(
        SearchLayer(f"l{i}", np.arange(1, 5), 4, {"macs": np.arange(5)}, jump, lambda v: v, jump) for i in range(2)
    )
    problem = SearchProblem(layers, {"macs": 8}, {"macs": 7}, options(method="lagrangian"))
    assert lagrangian.search(problem).ranks == (1, 1) and exact.plans(problem)[0][0][0] in ((1, 4), (4, 1))
    enough = SearchProblem(layers, {"macs": 8}, {"macs": 8}, options(method="lagrangian"))
    assert lagrangian.search(enough).ranks == (4, 4) and lagrangian.search(enough).level == 0.0


def test_the_same_slope_everywhere() -> None:
    layers = tuple(
        SearchLayer(f"l{i}", np.arange(1, 9), 8, {"macs": np.arange(9)}, concave(g), lambda v: v, concave(g))
        for i, g in enumerate((1.0, 4.0))
    )
    problem = SearchProblem(layers, {"macs": 16}, {"macs": 9}, options(method="lagrangian"))
    ranks = lagrangian.search(problem).ranks
    assert sum(ranks) == pytest.approx(9, abs=1) and ranks[1] > ranks[0]
