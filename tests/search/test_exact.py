"""The exact solver against brute force, the published plans, and the known optima."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.errors import InfeasibleError
from enc_caffe.metrics.files import read_metrics
from enc_caffe.search import exact
from enc_caffe.search.build import build_problem
from enc_caffe.search.methods import METHODS
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchProblem
from tests.search.tables import every_plan, problems

KINDS = st.sampled_from(("pca", "combined")).flatmap(
    lambda metric: st.integers(1, 3).flatmap(lambda n: problems(metric, n))
)


@settings(max_examples=600, deadline=None)
@given(KINDS, st.sampled_from((1, 3, 20)))
def test_the_best_plans_equal_brute_force(problem: SearchProblem, number: int) -> None:
    wanted = every_plan(problem)
    try:
        found, gap = exact.plans(problem, number)
    except InfeasibleError as exc:
        assert not wanted
        assert str(exc)
        return
    assert all(problem.fits(r) and all(k in x.ranks for k, x in zip(r, problem.layers)) for r, _ in found)
    assert len({r for r, _ in found}) == len(found) == min(number, len(wanted))
    assert [s for _, s in found] == pytest.approx([s for s, _ in wanted[:number]], abs=1e-9)
    assert gap == pytest.approx(0, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(problems("pca", 2))
def test_budgets_that_exclude_each_other_are_named(problem: SearchProblem) -> None:
    single = [min(problem.cost(n, [x.low for x in problem.layers]), 10**9) for n in problem.budgets]
    try:
        exact.plans(problem)
    except InfeasibleError as exc:
        text = str(exc)
        assert "cannot be reached" in text or "together" in text or "metric is 0" in text
        assert "raise" in text
        return
    assert all(c <= b for c, b in zip(single, problem.budgets.values()))


def test_which_of_two_budgets_binds() -> None:
    from enc_caffe.search.problem import SearchLayer

    flat = np.array([0.0, 0.5, 1.0])
    # Few MACs need the first layer small and the second large; few parameters the reverse.
    costs = [{"macs": np.array([0, 1, 20]), "parameters": np.array([0, 20, 1])}] * 2
    layers = tuple(SearchLayer(f"l{i}", np.array([1, 2]), 2, c, flat, lambda y: y, flat) for i, c in enumerate(costs))
    options = SearchOptions(target_flops=0.1, target_params=0.1)
    problem = SearchProblem(layers, {"macs": 40, "parameters": 40}, {"macs": 4.0, "parameters": 4.0}, options)
    with pytest.raises(InfeasibleError, match=r"together: within the others, macs cannot fall below 1\.0000.*0\.9000"):
        exact.plans(problem)


def test_resnet56_optimum_at_the_published_cost(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "res56.json")
    # METHOD gives the published plan's MACs as 0.50416; unrounded they are 0.504162.
    options = SearchOptions(method="model", target_flops=0.504162)
    problem = build_problem(table, options)
    plans, gap = exact.plans(problem, 20)
    assert gap == 0
    # METHOD section 8: A_p 7.327e-7 at the published ENC-Model's MACs.
    assert np.exp(plans[0][1]) == pytest.approx(7.327e-7, rel=1e-3)
    assert np.exp(plans[0][1]) > 6.329e-7
    for name in ("map", "uniform", "vbmf", "energy", "iterative", "random"):
        same = build_problem(table, SearchOptions(method=name, target_flops=0.504162))
        assert METHODS[name](same, None).log_objective <= plans[0][1] + 1e-12, name


def test_vgg16_optimum_beats_the_published_plan(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    runs = {p["id"]: p["ranks"] for p in json.loads((shared_data / "published_ranks.json").read_text())}
    problem = build_problem(table, SearchOptions("model", "measured", 0.25165, first_layer="half"))
    plans, gap = exact.plans(problem)
    assert gap == 0 and np.exp(plans[0][1]) >= 0.9636
    published = [runs["table1-vgg16-flop_0.25_enc_model"][x.name] for x in problem.layers]
    assert problem.fits(published)
    assert np.exp(problem.score(published)) == pytest.approx(0.9572, abs=5e-4)


def test_combined_optimum_of_vgg16_is_proven(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    base = SearchOptions("model", "combined", 0.25165, first_layer="half")
    problem = build_problem(table, base)
    plans, gap = exact.plans(problem, 5)
    assert gap == 0
    # A plan that is best by either half alone is not better by A_c.
    for metric in ("pca", "measured"):
        other = build_problem(table, SearchOptions("model", metric, 0.25165, first_layer="half"))
        assert problem.score(exact.plans(other)[0][0][0]) <= plans[0][1]


def test_two_budgets_on_vgg16(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    loose = build_problem(table, SearchOptions("model", "measured", 0.25, first_layer="half"))
    tight = build_problem(table, SearchOptions("model", "measured", 0.25, 0.25, first_layer="half"))
    (first, _), (second, gap) = exact.plans(loose), exact.plans(tight)
    assert tight.fits(second[0][0]) and not tight.fits(first[0][0])
    assert second[0][1] < first[0][1] and gap == 0
    # Neither budget is left unused by much.
    assert tight.ratio("parameters", second[0][0]) > 0.249 and tight.ratio("macs", second[0][0]) > 0.245
