"""The contract of all search methods, and what each promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.form import WHOLE
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import enc_map, exact, random_search, uniform
from enc_caffe.search.build import build_problem
from enc_caffe.search.methods import METHODS, method_for, run
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import PRUNING, UNBUDGETED
from enc_caffe.search.problem import SearchLayer, SearchProblem
from tests.search.tables import entry, options, tables


def by_score(problem):
    """An accuracy that is known: what the product predicts."""
    return lambda ranks: float(np.exp(problem.score(ranks)))


@settings(max_examples=150, deadline=None)
@given(
    tables(), st.sampled_from(sorted(set(METHODS) - set(UNBUDGETED) - set(PRUNING))), st.sampled_from(("pca", "measured", "combined", "divergence")),
    st.floats(0.05, 1), st.one_of(st.none(), st.floats(0.1, 1)), st.sampled_from(("keep", "half", "search")),
    st.sampled_from((1, 2)),
)  # fmt: skip
def test_contract(table, method, metric, target, parameters, first, multiple) -> None:
    problem = build_problem(
        table, options(method=method, metric=metric, target_flops=target, target_params=parameters, first_layer=first,
                       multiple_of=multiple, candidates=4, **({"episodes": 4} if method == "adc" else {}))
    )  # fmt: skip
    try:
        result = METHODS[method](problem, by_score(problem))
    except InfeasibleError as exc:
        assert "target" in str(exc) or "raise" in str(exc)
        lowest = [x.low for x in problem.layers]
        # Costs rise with the ranks here, so that the lowest ranks meet every budget if any plan does.
        assert not problem.fits(lowest) or problem.score(lowest) == -np.inf
        return
    assert len(result.ranks) == len(problem.layers)
    assert all(isinstance(r, int) and r in x.ranks for r, x in zip(result.ranks, problem.layers))
    assert problem.fits(result.ranks)
    assert result.log_objective == pytest.approx(problem.score(result.ranks))
    if result.log_objective > -np.inf:
        assert result.log_objective <= exact.plans(problem)[0][0][1] + 1e-9
    ranks = result.plan_forms(problem)
    names = {m.name for m in table.layers}
    assert set(ranks) == (names - {"l0"} if first == "keep" else names)


@settings(max_examples=40, deadline=None)
@given(tables(), st.floats(0.2, 0.9))
def test_enc_map_takes_the_highest_common_value_within_the_budget(table: MetricsTable, target: float) -> None:
    problem = build_problem(table, options(target_flops=target, first_layer="search"))
    try:
        result = enc_map.search(problem)
    except InfeasibleError:
        return
    assert enc_map.ranks_at(problem, result.level) == result.ranks
    higher = enc_map.ranks_at(problem, min(1.0, result.level + 1e-6))
    assert higher == result.ranks or problem.macs(higher) > problem.budgets["macs"] or result.level >= 1


@pytest.mark.parametrize("metric", ["pca", "measured"])
def test_presets_of_enc_map(shared_data: Path, metric: str) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    whole = {}
    for preset in ("budget", "paper", "published"):
        problem = build_problem(table, options(metric=metric, target_flops=0.3, first_layer="half", preset=preset))
        whole[preset] = problem.ratio("macs", enc_map.search(problem).ranks)
    assert whole["budget"] <= 0.3
    # Rounding moves a rank by a half at most: the costs stay near the target, and no step is as near as published's.
    assert abs(whole["paper"] - 0.3) < 0.003 and abs(whole["published"] - 0.3) <= abs(whole["budget"] - 0.3)


@pytest.mark.parametrize(
    ("network", "run_", "metric", "target", "first", "exact_layers"),
    [("res56", "table1-res56-flop_0.5_enc_map", "pca", 0.5065, "keep", 50),
     ("vgg16", "table1-vgg16-flop_0.25_enc_map", "measured", 0.2523, "half", 11)],
)  # fmt: skip
def test_published_enc_map(shared_data: Path, network, run_, metric, target, first, exact_layers) -> None:
    table = read_metrics(shared_data / "metrics" / f"{network}.json")
    wanted = {p["id"]: p["ranks"] for p in json.loads((shared_data / "published_ranks.json").read_text())}[run_]
    problem = build_problem(
        table, SearchOptions("map", metric, target, first_layer=first, preset="published")
    )  # fmt: skip
    forms = enc_map.search(problem).plan_forms(problem)
    off = [abs(f.ranks[0] - wanted[n]) for n, f in forms.items()]
    assert max(off) <= 1 and off.count(0) >= exact_layers


def test_the_three_mappings_agree(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    problem = build_problem(table, SearchOptions("map", "measured", 0.3, first_layer="half"))
    accuracies = enc_map.complexity_to_accuracy(problem, [0.2, 0.3, 0.4, 0.6])
    assert accuracies == sorted(accuracies) and 0.5 < accuracies[0] < accuracies[-1] <= 1.01
    back = run(
        replace(problem, options=replace(problem.options, target_accuracy=accuracies[1], target_flops=None), budgets={})
    )
    # f_A-C(f_C-A(0.3)) is not above 0.3, and nothing clearly cheaper reaches that accuracy.
    assert 0.295 < problem.ratio("macs", back.ranks) <= 0.3 and back.accuracy >= accuracies[1]


def test_least_macs_for_an_accuracy_is_least(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    problem = build_problem(table, SearchOptions("model", "measured", target_accuracy=0.97, first_layer="half"))
    found = run(problem)
    assert enc_map.predicted_accuracy(problem, found.ranks) == found.accuracy >= 0.97
    unit = min(x.unit()[0] for x in problem.layers)
    less = replace(problem, budgets={"macs": problem.macs(found.ranks) - unit})
    assert enc_map.predicted_accuracy(problem, exact.plans(less)[0][0][0]) < 0.97


def test_accuracy_targets_that_cannot_be() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 0.9)
    with pytest.raises(InfeasibleError, match=r"predicted accuracy is 0\.\d+ at 0.3000 of the MACs"):
        run(build_problem(table, SearchOptions("model", "measured", 0.3, target_accuracy=0.99, first_layer="search")))
    with pytest.raises(UsageError, match="predicts no accuracy"):
        run(build_problem(table, SearchOptions("model", "pca", target_accuracy=0.5)))


def test_uniform_is_the_largest_common_part() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 1.0)
    for target in (0.3, 0.5, 0.77, 1.0):
        problem = build_problem(table, options(target_flops=target, first_layer="search"))
        ranks = uniform.search(problem).ranks
        every = {uniform.ranks_at(problem, p) for p in np.linspace(0, 1, 5001)}
        assert problem.macs(ranks) == max(problem.macs(r) for r in every if problem.fits(r))


def test_vbmf_keeps_the_proportions_of_its_ranks(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "res56.json")
    problem = build_problem(table, options(method="vbmf"))
    result = METHODS["vbmf"](problem, None)
    for layer, rank in zip(problem.layers, result.ranks):
        assert layer.low <= rank <= layer.high
        assert rank in (layer.low, layer.high) or abs(rank - result.level * layer.vbmf_rank) <= 0.5


def test_energy_takes_the_least_loss_per_cost_first() -> None:
    table = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 8, 8, 1)), 1.0)
    problem = build_problem(table, options(first_layer="search", target_flops=0.95))
    ranks = METHODS["energy"](problem, None).ranks
    # Both layers cost the same: at each step the smaller relative loss went, so no single exchange of a rank is better.
    for i, j in ((0, 1), (1, 0)):
        other = list(ranks)
        other[i], other[j] = other[i] + 1, other[j] - 1
        if other[i] <= 12:
            assert problem.score(other) <= problem.score(ranks) + 1e-12


def by_hand(units: Sequence[int], metrics: Sequence[np.ndarray], target: float, **changes: Any) -> SearchProblem:
    """Layers whose ranks 1 to r_max cost so many MACs each; y is y_p too."""
    layers = tuple(
        SearchLayer(f"l{i}", np.arange(1, len(y)), len(y) - 1, {"macs": unit * np.arange(len(y))}, y, lambda v: v, y)
        for i, (unit, y) in enumerate(zip(units, metrics))
    )
    whole = sum(u * (len(y) - 1) for u, y in zip(units, metrics))
    return SearchProblem(layers, {"macs": whole}, {"macs": target * whole}, options(target_flops=target, **changes))


def test_energy_divides_by_what_a_rank_saves() -> None:
    # A rank of the first layer loses twice the energy of one of the second, and saves ten times the MACs.
    first, second = np.array([0, 0.92, 0.94, 0.96, 0.98, 1.0]), np.array([0, 0.96, 0.97, 0.98, 0.99, 1.0])
    problem = by_hand((10, 1), (first, second), 35 / 55)
    assert METHODS["energy"](problem, None).ranks == (3, 5)
    # Where both save the same, the second goes first.
    assert METHODS["energy"](by_hand((1, 1), (first, second), 0.8), None).ranks == (5, 3)


def falling_loss() -> tuple[np.ndarray, np.ndarray]:
    """Of 40 ranks each: a layer that hardly loses anything, and one that does."""
    ranks = np.arange(41.0)
    return np.exp(-1e-6 * (40 - ranks)), np.exp(-0.01 * (40 - ranks))


def test_ars_lets_a_layer_lose_15_percent_of_its_ranks_a_step() -> None:
    # Of 40 ranks that is 6. A step of 5% of 120 MACs is 6 too, and the first layer, which hardly loses anything, pays for it.
    def ranks_of(units: tuple[int, int], target: float) -> tuple[int, ...]:
        return METHODS["ars"](by_hand(units, falling_loss(), target, method="ars"), None).ranks

    assert ranks_of((1, 2), 0.95) == (34, 40)
    # Of 280 MACs it is 14, 7 ranks of the first layer. Without a boundary it would pay alone.
    assert exact.plans(by_hand((2, 5), falling_loss(), 0.95))[0][0][0] == (33, 40)
    assert ranks_of((2, 5), 0.95) == (35, 39)
    # From there another step.
    assert ranks_of((1, 3), 0.95) == (35, 39) and ranks_of((1, 3), 0.9) == (30, 38)


def test_ars_goes_down_by_a_twentieth_of_the_whole_a_step() -> None:
    problem = by_hand((1, 3), falling_loss(), 0.5, method="ars")
    result = METHODS["ars"](problem, by_score(problem))
    # Three plans a step are evaluated, and the first, which has the best prediction, is taken.
    costs = [problem.macs(ranks) for ranks, _ in result.evaluated[::3]]
    drops = [160 - costs[0], *(a - b for a, b in zip(costs, costs[1:]))]
    # One rank of the second layer is 3 MACs: no step overshoots by more.
    assert all(8 <= drop < 8 + 3 for drop in drops[:-1]) and costs[-1] <= 80 < costs[-2]
    assert len(result.evaluated) == 3 * len(costs) and 8 <= len(costs) <= 10


def test_random_plans_are_seeded_and_full() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 1.0)
    problem = build_problem(table, options(method="random", first_layer="search"))
    first, second = (random_search.search(problem).best for _ in range(2))
    assert first == second and len(first) > 10
    for ranks, _ in first:
        unit = min(x.unit()[0] for x in problem.layers)
        assert problem.budgets["macs"] - unit < problem.macs(ranks) <= problem.budgets["macs"]


def test_enc_inf_takes_the_most_accurate_candidate_and_never_a_worse_one_than_enc_model() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 1.0)
    for solver in ("exact", "space"):
        problem = build_problem(
            table,
            options(
                method="inf", first_layer="search", candidates=6, solver=solver, complexity_margin=0.1, density=1.0
            ),
        )
        asked = []

        def accuracy(ranks, asked=asked):
            asked.append(tuple(ranks))
            return (sum(ranks) * 7919 % 13) / 13

        result = METHODS["inf"](problem, accuracy)
        model = METHODS["model"](problem, None)
        assert asked[0] == model.ranks and len(asked) == len(set(asked)) <= 6
        assert result.accuracy == max(accuracy(r) for r in set(asked)) >= accuracy(model.ranks)
    with pytest.raises(UsageError, match="--model, --weights and --lmdb"):
        METHODS["inf"](problem, None)


def test_unknown_method() -> None:
    with pytest.raises(UsageError, match="--method magic: known are map"):
        method_for("magic")


def test_a_budget_that_comes_after_another_bounds_the_combined_metric(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    only = build_problem(table, SearchOptions("model", "combined", target_params=0.4, first_layer="half"))
    later = only.with_budget("macs", 0.3)
    first = build_problem(table, SearchOptions("model", "combined", 0.3, 0.4, first_layer="half"))
    one, two = exact.plans(later), exact.plans(first)
    assert one[1] == two[1] == 0 and one[0][0][1] == pytest.approx(two[0][0][1])


def test_fixed_ranks_count_for_the_predicted_accuracy() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 0.9)
    base = SearchOptions("model", "measured", 1.0, first_layer="search")
    free = build_problem(table, replace(base, bounds={"l1": (2, 3)}))
    fixed = build_problem(table, replace(base, bounds={"l1": (2, 2)}))
    tops = [x.high for x in free.layers]
    at_two = enc_map.predicted_accuracy(free, [tops[0], 2, tops[2]])
    assert enc_map.predicted_accuracy(fixed, [tops[0], tops[2]]) == pytest.approx(at_two) and at_two < 0.9


def test_an_accuracy_within_a_latency_that_falls_with_the_rank() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(2)), 1.0)
    falling = np.linspace(900, 500, table.layers[0].max_rank + 1).astype(np.int64)

    def time_of(layer, form):
        return 1000 if form == WHOLE else int(falling[form.ranks[0]])

    wanted = SearchOptions("model", "measured", target_latency=0.65, target_accuracy=0.5, first_layer="search")
    problem = build_problem(table, wanted, time_of)
    found = run(problem)
    assert found.accuracy >= 0.5 and problem.cost("latency", found.ranks) <= 0.65 * 2000
    forms = found.plan_forms(problem)
    assert sum(time_of(m.layer, forms.get(m.name, WHOLE)) for m in table.layers) == problem.cost("latency", found.ranks)


def test_the_space_above_what_the_highest_ranks_cost_is_their_plan() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 16, 8, i) for i in range(3)), 1.0)
    bounds = {f"l{i}": (1, 8) for i in range(3)}
    for preset in ("budget", "paper", "published"):
        wanted = SearchOptions("model", "pca", 0.9, first_layer="search", solver="space", preset=preset, bounds=bounds)
        assert METHODS["model"](build_problem(table, wanted), None).ranks == (8, 8, 8)
