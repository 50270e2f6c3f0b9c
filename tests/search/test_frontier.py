"""The axis of a layer of several schemes: undominated forms in order of cost, and the methods on it."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import form_cost
from enc_caffe.errors import InfeasibleError, MetricsError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.network import Layer
from enc_caffe.search import enc_map, exact, space, uniform
from enc_caffe.search.build import build_problem
from enc_caffe.search.frontier import frontier_layer
from enc_caffe.search.methods import METHODS
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchProblem
from tests.search.tables import curves, entry, mixtures, options

Drawn = tuple[list[Form], dict[str, np.ndarray], np.ndarray]


@st.composite
def drawn_forms(draw: st.DrawFn) -> Drawn:
    """Forms with any costs in one to three resources and any values; equals among them."""
    number, resources = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    forms = [Form("spatial", (i + 1,)) for i in range(number)]
    costs = {
        n: np.array(draw(st.lists(st.integers(1, 6), min_size=number, max_size=number)), dtype=np.int64)
        for n in ("macs", "parameters", "latency")[:resources]
    }
    return forms, costs, np.array(draw(st.lists(st.sampled_from((0.1, 0.3, 0.5, 0.8, 1.0)), min_size=number, max_size=number)))  # fmt: skip


def dominated(i: int, costs: dict[str, np.ndarray], values: np.ndarray) -> bool:
    """Whether another form is as good in everything and better in something."""
    return any(
        all(c[j] <= c[i] for c in costs.values()) and values[j] >= values[i]
        and (any(c[j] < c[i] for c in costs.values()) or values[j] > values[i])
        for j in range(len(values))
    )  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(drawn_forms(), st.data())
def test_the_undominated_equal_brute_force(drawn: Drawn, data: st.DataObject) -> None:
    forms, every, values = drawn
    # The resources with budgets, in any order; the first one orders the axis.
    limited = data.draw(st.lists(st.sampled_from(list(every)), min_size=1, unique=True))
    layer = frontier_layer("l", forms, every, values, limited, values / 2)
    costs, main = {n: every[n] for n in limited}, limited[0]
    wanted = {
        (*(int(c[i]) for c in costs.values()), float(values[i]))
        for i in range(len(forms))
        if not dominated(i, costs, values)
    }
    found = [(*(int(layer.costs[n][p]) for n in costs), float(layer.metric[p])) for p in layer.choices]
    # Of equal forms one is enough.
    assert set(found) == wanted and len(found) == len(wanted)
    for place in layer.choices:
        at = forms.index(layer.forms[place])
        assert all(layer.costs[n][place] == c[at] for n, c in every.items())
        assert layer.metric[place] == values[at] and layer.energy[place] == values[at] / 2
    # The axis is in order of the main cost, and the metric rises along the places on it.
    assert layer.points[0] == 0 and np.all(np.diff(layer.points) >= 0)
    np.testing.assert_array_equal(layer.points[1:], layer.costs[main][1:])
    assert np.all(np.diff(layer.metric[layer.ranks]) > 0) and np.all(np.diff(layer.points[layer.ranks]) > 0)
    # Whatever was left off the axis lies behind a cheaper place that is as good.
    off = [] if layer.others is None else layer.others.tolist()
    assert sorted([*layer.ranks.tolist(), *off]) == list(range(1, layer.max_rank + 1))
    for place in off:
        before = layer.ranks[layer.ranks < place]
        assert layer.metric[before].max() >= layer.metric[place]
    if len(costs) == 1:
        assert layer.others is None


def test_by_hand() -> None:
    forms = [WHOLE, *(Form("channel", (r,)) for r in (1, 2, 3, 4))]
    costs = {"macs": np.array([10, 2, 4, 4, 7]), "parameters": np.array([10, 9, 4, 3, 8])}
    values = np.array([1.0, 0.2, 0.5, 0.4, 0.3])
    layer = frontier_layer("l", forms, costs, values, ["macs", "parameters"], values)
    # Rank 4 costs more than rank 2 in both, and is worse; rank 3 is worse than rank 2 at the same MACs, but has fewer parameters.
    assert [str(f) for f in layer.forms[1:]] == ["channel:1", "channel:2", "channel:3", "whole"]
    assert layer.ranks.tolist() == [1, 2, 4] and layer.others.tolist() == [3]
    assert layer.points.tolist() == [0, 2, 4, 4, 10] and layer.metric.tolist() == [0, 0.2, 0.5, 0.4, 1.0]
    # Where parameters have no budget, they do not count.
    only = frontier_layer("l", forms, costs, values, ["macs"], values)
    assert [str(f) for f in only.forms[1:]] == ["channel:1", "channel:2", "whole"] and only.others is None
    assert only.costs["parameters"].tolist() == [0, 9, 4, 10]
    # Between two places the metric is a line, and its inverse a point of the axis.
    assert float(layer.rank_of(np.array(0.75))) == pytest.approx(7.0) and float(layer.rank_of(np.array(0.2))) == 2
    # The nearest place, the higher of two that are equally near; never one off the axis.
    assert [layer.allowed(x) for x in (0.0, 2.9, 3.0, 6.9, 7.0, 99.0)] == [1, 1, 2, 2, 4, 4]


def everything(table: MetricsTable, problem: SearchProblem) -> Iterator[tuple[float, dict[str, int]]]:
    """Log-objective and costs of every combination of forms, dominated ones too."""
    layers = []
    for layer, own in table.by_layer():
        forms = [(0.0, WHOLE)]
        for m in own:
            curve = m.surrogate("divergence")
            forms += [(math.log(curve[p]), m.form(p)) for p in range(1, m.max_rank + 1)]
        layers.append([
            (value, dict(zip(("macs", "parameters"), form_cost(layer, form, problem.convention)))) for value, form in forms
        ])  # fmt: skip
    for plan in itertools.product(*layers):
        yield sum(v for v, _ in plan), {n: sum(c[n] for _, c in plan) for n in ("macs", "parameters")}


def mixed(**changes: Any) -> SearchOptions:
    """Options of a search among all schemes."""
    return options(method="model", metric="divergence", schemes="all", floor=0.0, **changes)


@settings(max_examples=80, deadline=None)
@given(mixtures(), st.floats(0.2, 1.0), st.one_of(st.none(), st.floats(0.2, 1.0)), st.sampled_from(("paper", "exact")))
def test_the_exact_search_over_mixtures_equals_brute_force(table, target, parameters, convention) -> None:
    wanted = mixed(target_flops=target, target_params=parameters, convention=convention)
    try:
        problem = build_problem(table, wanted)
    except MetricsError:
        return
    if math.prod(1 + sum(m.max_rank for m in own) for _, own in table.by_layer()) > 60_000:
        return
    fitting = [v for v, c in everything(table, problem) if all(c[n] <= b for n, b in problem.budgets.items())]
    try:
        plans, gap = exact.plans(problem)
    except InfeasibleError:
        assert not fitting
        return
    assert gap == 0
    # Layers of one form alone are decided before the search, at the value that they then have.
    fixed = 0.0
    for name, form in problem.fixed.items():
        m = next(m for m in table.layers if m.name == name and m.scheme == form.scheme)
        fixed += math.log(m.surrogate("divergence")[m.forms.index(form) + 1])
    assert plans[0][1] + fixed == pytest.approx(max(fitting), abs=1e-9)
    assert problem.fits(plans[0][0])


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.floats(0.3, 1.0), st.one_of(st.none(), st.floats(0.3, 1.0)),
       st.sampled_from(("map", "uniform", "model", "iterative", "random")), st.sampled_from(("exact", "space")))  # fmt: skip
def test_methods_stay_within_the_budgets_and_are_no_better_than_the_optimum(
    table, target, parameters, method, solver
) -> None:
    wanted = mixed(target_flops=target, target_params=parameters, solver=solver, complexity_margin=0.3, density=1.0)
    try:
        problem = build_problem(table, wanted)
        best = exact.plans(problem)[0][0][1]
        result = METHODS[method](problem, None)
    except (MetricsError, InfeasibleError):
        return
    assert problem.fits(result.ranks) and result.log_objective == pytest.approx(problem.score(result.ranks))
    assert result.log_objective <= best + 1e-9
    if method != "model" or solver == "space":
        assert all(place in x.ranks for place, x in zip(result.ranks, problem.layers))
    forms = result.plan_forms(problem)
    spent = [
        sum(form_cost(layer, forms.get(layer.name, WHOLE), problem.convention)[i] for layer, _ in table.by_layer())
        for i in (0, 1)
    ]
    assert spent == [problem.cost("macs", result.ranks), problem.cost("parameters", result.ranks)]


@pytest.fixture(scope="module")
def several() -> SearchProblem:
    """Three layers of some size in every scheme, at half of the MACs."""
    table = MetricsTable(
        "net", "", (*curves("l0", 12, 16, 8, 3, 0), *curves("l1", 16, 16, 8, 3, 1), *curves("l2", 16, 24, 4, 1, 2)), 1.0
    )
    return build_problem(table, mixed())


def test_several_schemes_are_on_the_axes(several: SearchProblem) -> None:
    assert [len({f.scheme for f in x.forms[1:]}) > 2 for x in several.layers] == [True, True, False]
    for x in several.layers:
        assert x.forms[x.high] == WHOLE and x.metric[x.high] == 1.0 and x.vbmf_rank is None and x.unit() is None


def test_enc_map_walks_the_frontier_at_one_value_of_the_metric(several: SearchProblem) -> None:
    result = enc_map.search(several)
    assert several.fits(result.ranks) and enc_map.ranks_at(several, result.level) == result.ranks
    above = enc_map.ranks_at(several, min(1.0, result.level + 1e-6))
    assert above == result.ranks or not several.fits(above)
    for x, place in zip(several.layers, result.ranks):
        # The nearest place to where the metric has the common value.
        at = float(np.interp(result.level, x.metric[x.ranks], x.points[x.ranks]))
        assert abs(x.points[place] - at) == min(abs(x.points[x.ranks] - at))


def test_uniform_takes_the_same_part_of_every_layers_macs(several: SearchProblem) -> None:
    result = uniform.search(several)
    every = {uniform.ranks_at(several, p) for p in np.linspace(0, 1, 3001)}
    assert several.macs(result.ranks) == max(several.macs(r) for r in every if several.fits(r))
    assert uniform.ranks_at(several, result.level) == result.ranks


def test_the_papers_space_lies_on_the_frontier(several: SearchProblem) -> None:
    wide = replace(several, options=replace(several.options, solver="space", complexity_margin=0.05, density=1.0))
    found = space.search(wide, 5)
    bounds = space.make_space(wide)
    for ranks, score in found.best:
        assert wide.fits(ranks) and bounds.holds(wide, ranks) and score == pytest.approx(wide.score(ranks))
        assert all(low <= r <= high for r, low, high in zip(ranks, bounds.lowest, bounds.highest))
    lattice = [bounds.candidates_of(wide, i).tolist() for i in range(3)]
    best = max(wide.score(p) for p in itertools.product(*lattice) if bounds.holds(wide, p))
    assert found.log_objective == pytest.approx(best)


def test_the_mixture_is_no_worse_than_any_scheme_alone(several: SearchProblem) -> None:
    table = MetricsTable(
        "net", "", (*curves("l0", 12, 16, 8, 3, 0), *curves("l1", 16, 16, 8, 3, 1), *curves("l2", 16, 24, 4, 1, 2)), 1.0
    )
    best, single = exact.plans(several)[0][0][1], []
    for scheme in ("spatial", "spatial_t", "channel", "tucker2"):
        try:
            single.append(exact.plans(build_problem(table, replace(mixed(), schemes=(scheme,))))[0][0][1])
        except InfeasibleError:
            # Alone it cannot reach half of the MACs: the 1x1 layer stays whole.
            continue
    assert len(single) > 1 and max(single) <= best + 1e-12 and min(single) < best - 1e-3


def test_one_scheme_of_the_paper_is_the_ranks_themselves() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 1.0)
    problem = build_problem(table, options(first_layer="search"))
    for x in problem.layers:
        assert x.axis is None and x.others is None and x.forms[5] == Form("spatial", (5,)) and x.forms[0] == WHOLE
        assert x.points.tolist() == list(range(13))


def test_targets_of_latency_order_the_axis_by_time() -> None:
    table = MetricsTable("net", "", curves("l0", 12, 16, 8, 3, 0), 1.0)

    def time_of(layer: Layer, form: Form) -> int:
        # One scheme is as fast as its MACs are few, another is twice as slow.
        return form_cost(layer, form)[0] * (2 if form.scheme == "tucker2" else 1)

    (x,) = build_problem(table, mixed(target_flops=None, target_latency=0.5), time_of).layers
    np.testing.assert_array_equal(x.points[1:], x.costs["latency"][1:])
    for place in x.choices:
        assert x.costs["latency"][place] == time_of(table.layers[0].layer, x.forms[place])


@pytest.mark.parametrize("metric", ["pca", "combined"])
def test_pca_energy_compares_no_schemes(metric: str) -> None:
    table = MetricsTable("net", "", curves("l0", 12, 16, 8, 3, 0), 1.0)
    with pytest.raises(
        UsageError,
        match=f"--metric {metric}: layer 'l0' may have spatial, spatial_t, channel, tucker2, and PCA energy is not comparable",
    ):
        build_problem(table, options(metric=metric, schemes="all"))
    # One scheme alone it compares.
    if metric == "pca":
        assert len(build_problem(table, options(metric=metric, schemes=("tucker2",))).layers) == 1


@pytest.mark.parametrize("method", ["energy", "vbmf"])
def test_rules_of_one_matrix_refuse_mixtures(method: str) -> None:
    table = MetricsTable("net", "", curves("l0", 12, 16, 8, 3, 0), 1.0)
    for schemes in ("all", ("tucker2",)):
        with pytest.raises(
            UsageError, match=f"--method {method}: layer 'l0' may have .*knows ranks of one matrix alone"
        ):
            build_problem(table, options(method=method, metric="divergence", schemes=schemes))


def test_half_of_the_first_layer_needs_one_scheme_of_one_rank() -> None:
    table = MetricsTable("net", "", (*curves("l0", 12, 16, 8, 3, 0), *curves("l1", 16, 16, 8, 3, 1)), 1.0)
    for schemes in ("all", ("tucker2",)):
        with pytest.raises(
            UsageError, match="--first_layer half: layer 'l0' may have .*; half of r_max needs one scheme of one rank"
        ):
            build_problem(table, options(metric="divergence", schemes=schemes, first_layer="half"))
    kept = build_problem(table, mixed(first_layer="keep"))
    assert [x.name for x in kept.layers] == ["l1"]
    assert [x.name for x in build_problem(table, mixed()).layers] == ["l0", "l1"]


def test_schemes_that_the_metrics_do_not_have() -> None:
    table = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 8, 8, 1)), 1.0)
    with pytest.raises(
        UsageError,
        match="--schemes channel: the metrics of 'net' have spatial alone; compute them with enc-caffe metrics --schemes",
    ):
        build_problem(table, options(schemes=("channel",)))
    with pytest.raises(UsageError, match=r"--schemes spatail: unknown scheme 'spatail' \(did you mean spatial\?\)"):
        build_problem(table, options(schemes=("spatail",)))


def test_multiples_bounds_and_the_floor_of_forms() -> None:
    table = MetricsTable("net", "", curves("l0", 16, 16, 8, 3, 0), 1.0)

    def ranks(**changes: Any) -> list[tuple[int, ...]]:
        (x,) = build_problem(table, options(metric="divergence", schemes=("tucker2",), **changes)).layers
        return [x.forms[p].ranks for p in x.choices if x.forms[p] != WHOLE]

    assert all(r % 4 == 0 for own in ranks(multiple_of=4) for r in own) and len(ranks(multiple_of=4)) > 1
    assert set(ranks(bounds={"l0": (2, 3)})) == {(2, 2), (2, 3)}
    layer = table.layers[0].layer
    least = min(form_cost(layer, Form("tucker2", own))[0] for own in ranks(floor=0.3))
    assert (
        least
        >= 0.3 * form_cost(layer, WHOLE)[0]
        > min(form_cost(layer, Form("tucker2", own))[0] for own in ranks(floor=0.0))
    )
