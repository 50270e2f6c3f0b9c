"""Coupled layers as items of the search: against every combination of forms, and what is counted of them."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import form_cost, group_spectra, pruning, scheme_for
from enc_caffe.decomposition.prune import narrowed
from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from tests.search.tables import curves

SCHEMES = ("spatial", "channel", "prune")


def pruned(layer_curves: tuple[LayerMetrics, ...], before: Before, seed: int) -> LayerMetrics:
    """A layer's curve of fewer channels, with a random falling divergence."""
    layer, rng, scheme = layer_curves[0].layer, np.random.default_rng(seed), pruning()["prune"]
    weights = rng.standard_normal((layer.out_channels, layer.in_channels, *layer.kernel))
    spectra = tuple(group_spectra(scheme.matrices(layer, weights)))
    ladder = scheme.forms(layer, spectra)
    places = tuple(range(1, len(ladder) + 1))
    divergence = np.sort(rng.random(len(places)))[::-1] * rng.choice((0.02, 0.3))
    return LayerMetrics(
        layer, "prune", len(ladder), spectra, places, (None,) * len(places), None, (("sampled_divergence", divergence.tolist()),), ladder,
        False, places, before,
    )  # fmt: skip


def table_of(seed: int, listed: bool = True, extra: int = 0) -> MetricsTable:
    """Two layers that are coupled and one that is not; ``listed``: the maker has curves of its own."""
    rng = np.random.default_rng(seed)
    a, b = int(rng.integers(2, 5)), int(rng.integers(3, 6))
    first = [m for m in curves("first", a, b, 6, 3, seed) if m.scheme in SCHEMES]
    second = [m for m in curves("second", b, 3, 6, 3, seed + 1) if m.scheme in SCHEMES]
    third = [m for m in curves("third", 3, 4, 3, 3, seed + 2) if m.scheme in SCHEMES]
    unlisted = form_cost(first[0].layer, WHOLE, outputs=1)
    before = Before(("first",), extra * 36, extra) if listed else Before((), *unlisted)
    found = [*(first if listed else []), *second, pruned(tuple(second), before, seed + 3), *third]
    return MetricsTable("net", "", tuple(found), 1.0)


def every(table: MetricsTable) -> list[tuple[dict[str, Form], float]]:
    """All combinations of forms, also of those inside of pruned ones, with their sums of divergences by the curves."""
    options: dict[str, list[tuple[Form, float]]] = {}
    for layer, own in table.by_layer():
        plain = [(WHOLE, 0.0)]
        for m in (m for m in own if m.before is None):
            plain += [(m.form(p), -math.log(m.surrogate("divergence")[p])) for p in range(1, m.max_rank + 1)]
        forms = list(plain)
        for m in (m for m in own if m.before is not None):
            for p in range(1, m.max_rank + 1):
                outer, value = m.form(p), -math.log(m.surrogate("divergence")[p])
                forms.append((outer, value))
                small = narrowed(layer, outer.ranks[0])
                for form, more in plain[1:]:
                    limits = scheme_for(form.scheme).limits(small)
                    if all(r <= n for r, n in zip(form.ranks, limits)):
                        forms.append((replace(outer, inside=(form,)), value + more))
        options[layer.name] = forms
    return [
        ({n: f for n, (f, _) in zip(options, picks)}, sum(v for _, v in picks))
        for picks in itertools.product(*options.values())
    ]


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.booleans(),
    st.sampled_from((0, 3)),
    st.sampled_from(("target_flops", "target_params", "both")),
)
def test_the_search_finds_the_best_of_all_combinations(seed: int, listed: bool, extra: int, what: str) -> None:
    table = table_of(seed, listed, extra)
    whole = table.cost({})
    for part in (0.35, 0.6):
        targets = {"target_flops": part, "target_params": part} if what == "both" else {what: part}
        options = SearchOptions(
            method="model",
            metric="divergence",
            schemes=SCHEMES,
            floor=0.0,
            count="paper",
            convention="exact",
            **targets,
        )
        fit = [
            (forms, value) for forms, value in every(table)
            if all(
                cost <= math.floor(part * all_) for cost, all_, flag in zip(table.cost(forms), whole, ("target_flops", "target_params"))
                if flag in targets
            )
        ]  # fmt: skip
        try:
            found = search_plan(table, options)
        except InfeasibleError:
            assert not fit
            continue
        best = min(value for _, value in fit)
        assert -found.result.log_objective == pytest.approx(best, abs=1e-9) and found.plan.about.proven_optimal
        macs, parameters = table.cost(found.plan.forms)
        assert found.plan.about.flops_ratio == pytest.approx(macs / whole[0])
        assert found.plan.about.params_ratio == pytest.approx(parameters / whole[1])


def test_layers_that_share_one_are_not_both_groups() -> None:
    first, second = curves("a", 3, 4, 6, 3, 0), curves("b", 4, 4, 6, 3, 1)
    third = curves("c", 4, 3, 6, 3, 2)
    table = MetricsTable("net", "", (
        *first, *second, pruned(second, Before(("a",)), 1), *third, pruned(third, Before(("b",)), 2),
    ), 1.0)  # fmt: skip
    options = SearchOptions(
        method="model", metric="divergence", schemes=("spatial", "prune"), target_flops=0.5, target_params=0.5
    )
    problem = build_problem(table, options)
    assert [x.name for x in problem.layers] == ["a+b", "c"]
    assert any(f.scheme == "prune" for place in problem.layers[0].together for _, f in place)
    assert not any(f.scheme == "prune" for f in problem.layers[1].forms)
    # A layer that must stay whole keeps its channels, and so do those around it.
    kept = build_problem(table, replace(options, whole=frozenset({"a"})))
    assert not any(n == "b" and f.scheme == "prune" for place in kept.layers[-1].together for n, f in place)
    assert [x.name for x in kept.layers] == ["b+c"]


def test_three_layers_behind_each_other_are_one_item_and_a_fourth_is_not() -> None:
    names, made = "abcd", []
    for i, name in enumerate(names):
        own = curves(name, 4, 4, 6, 3, i)
        made += [*own, *([pruned(own, Before((names[i - 1],)), i)] if i else [])]
    table = MetricsTable("net", "", tuple(made), 1.0)
    options = SearchOptions(method="model", metric="divergence", schemes=("spatial", "prune"), target_flops=0.5)
    assert [x.name for x in build_problem(table, options).layers] == ["a+b+c", "d"]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from((0.2, 0.35, 0.6)))
def test_the_best_of_three_coupled_layers_is_found(seed: int, part: float) -> None:
    first, second, third = (
        [m for m in curves(name, i, o, 6, 1 if name == "second" else 3, seed + at) if m.scheme == "channel"]
        for at, (name, i, o) in enumerate((("first", 3, 4), ("second", 4, 3), ("third", 3, 4)))
    )
    table = MetricsTable("net", "", (
        *first, *second, pruned(tuple(second), Before(("first",)), seed), *third, pruned(tuple(third), Before(("second",), 36, 1), seed + 1),
    ), 1.0)  # fmt: skip
    options = SearchOptions(
        method="model", metric="divergence", schemes=("channel", "prune"), floor=0.0, count="paper", convention="exact", target_flops=part
    )  # fmt: skip
    limit = math.floor(part * table.cost({})[0])
    fit = [value for forms, value in every(table) if table.cost(forms)[0] <= limit]
    try:
        found = search_plan(table, options)
    except InfeasibleError:
        assert not fit
        return
    assert [x.name for x in found.problem.layers] == ["first+second+third"]
    assert -found.result.log_objective == pytest.approx(min(fit), abs=1e-9)
    assert table.cost(found.plan.forms)[0] <= limit


def test_no_policy_prunes_unless_asked_to() -> None:
    table = table_of(1)
    for schemes in ("all", ("spatial", "channel")):
        problem = build_problem(
            table, SearchOptions(method="model", metric="divergence", schemes=schemes, target_flops=0.5)
        )
        assert [x.name for x in problem.layers] == ["first", "second", "third"]


def test_a_budget_of_latency_does_not_know_fewer_channels() -> None:
    options = SearchOptions(method="model", metric="divergence", schemes=SCHEMES, target_latency=0.5)
    with pytest.raises(UsageError, match="nothing says how long layers with fewer channels take"):
        build_problem(table_of(1), options, lambda layer, form: 1)


def test_a_budget_that_cannot_be_met_says_how_far_it_gets() -> None:
    options = SearchOptions(method="model", metric="divergence", schemes=("prune",), target_flops=0.01, count="paper")
    with pytest.raises(InfeasibleError, match="target 0.0100 of the MACs cannot be reached: 0\\.[0-9]+ to 1.0000"):
        search_plan(table_of(1), options)


def test_metrics_keep_what_lies_before_a_pruned_layer(tmp_path) -> None:  # noqa: ANN001
    table = table_of(4, extra=2)
    write_metrics(tmp_path / "m.json", table)
    again = read_metrics(tmp_path / "m.json")
    assert [m.before for m in again.layers] == [m.before for m in table.layers]
    forms = {"second": Form("prune", (2,), (Form("spatial", (1,)),)), "first": Form("spatial", (2,))}
    assert again.cost(forms) == table.cost(forms) != table.cost({"first": Form("spatial", (2,))})
