"""The contract of all search methods, and what each promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, Layer
from enc_caffe.search import enc_map, uniform
from enc_caffe.search.methods import METHODS, method_for
from enc_caffe.search.problem import build_problem


def entry(name: str, channels: int, side: int, seed: int) -> LayerMetrics:
    """A 3x3 layer with random, decreasing singular values and measured accuracies."""
    geometry = Convolution(channels, (3, 3), pad=(1, 1))
    layer = Layer(
        name,
        "Convolution",
        bottom_shapes=((1, channels, side, side),),
        top_shapes=((1, channels, side, side),),
        convolution=geometry,
    )
    rank = channels * 3 // 2
    rng = np.random.default_rng(seed)
    values = np.sort(rng.random(rank) + 0.01)[::-1]
    samples = sorted({max(1, rank // 10), max(1, rank // 4), max(1, rank // 2), rank})
    accuracy = np.sort(rng.random(len(samples)))
    accuracy[-1] = 1.0
    return LayerMetrics(layer, "spatial", rank, (values,), tuple(samples), tuple(accuracy))


@st.composite
def tables(draw: st.DrawFn) -> MetricsTable:
    """Networks of two to five layers."""
    number = draw(st.integers(2, 5))
    return MetricsTable("net", "", tuple(
        entry(f"l{i}", draw(st.sampled_from((4, 8, 16))), draw(st.sampled_from((4, 8))), draw(st.integers(0, 1000)))
        for i in range(number)
    ), 1.0)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    tables(),
    st.sampled_from(sorted(METHODS)),
    st.sampled_from(("pca", "measured")),
    st.floats(0.05, 1),
    st.sampled_from(("keep", "half", "search")),
)
def test_contract(table: MetricsTable, method: str, metric: str, target: float, first: str) -> None:
    problem = build_problem(table, metric, target, first)
    try:
        result = METHODS[method](problem)
    except InfeasibleError as exc:
        lowest = problem.macs([x.low for x in problem.layers])
        assert lowest > problem.budget
        assert f"{lowest / problem.original_macs:.4f} to" in str(exc)
        return
    assert len(result.ranks) == len(problem.layers)
    assert all(isinstance(r, int) and x.low <= r <= x.high for r, x in zip(result.ranks, problem.layers))
    assert problem.macs(result.ranks) <= problem.budget
    ranks = result.plan_ranks(problem)
    assert set(ranks) == {m.name for m in table.layers} - ({"l0"} if first == "keep" else set())
    with np.errstate(divide="ignore"):
        wanted = sum(np.log(max(x.metric[r], 0.0)) for r, x in zip(result.ranks, problem.layers))
    assert result.log_objective == pytest.approx(wanted) or result.log_objective == wanted


@settings(max_examples=40, deadline=None)
@given(tables(), st.floats(0.2, 0.9))
def test_enc_map_takes_the_highest_common_value_within_the_budget(table: MetricsTable, target: float) -> None:
    problem = build_problem(table, "pca", target, "search")
    try:
        result = enc_map.search(problem)
    except InfeasibleError:
        return
    assert enc_map.ranks_at(problem, result.level) == result.ranks
    higher = enc_map.ranks_at(problem, min(1.0, result.level + 1e-6))
    assert higher == result.ranks or problem.macs(higher) > problem.budget or result.level >= 1


def test_uniform_is_the_largest_common_part() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(3)), 1.0)
    for target in (0.3, 0.5, 0.77, 1.0):
        problem = build_problem(table, "pca", target, "search")
        ranks = uniform.search(problem).ranks
        every = {uniform.ranks_at(problem, p) for p in np.linspace(0, 1, 5001)}
        fitting = [r for r in every if problem.macs(r) <= problem.budget]
        assert problem.macs(ranks) == max(problem.macs(r) for r in fitting)


def test_costs_by_hand() -> None:
    table = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 16, 4, 1)), 1.0)
    problem = build_problem(table, "pca", 0.5, "search")
    assert problem.original_macs == 64 * 9 * 64 + 16 * 9 * 256
    assert [x.macs for x in problem.layers] == [64 * 3 * 16, 16 * 3 * 32]
    assert problem.macs([2, 3]) == 2 * 64 * 48 + 3 * 16 * 96
    assert problem.parameters([2, 3]) == 2 * 48 + 3 * 96
    half = build_problem(table, "pca", 0.5, "half")
    assert half.fixed == {"a": 6} and half.fixed_macs == 6 * 64 * 48
    keep = build_problem(table, "pca", 0.5, "keep")
    assert keep.fixed == {} and keep.fixed_macs == 64 * 9 * 64


def test_the_first_layer_is_the_one_that_reads_the_data() -> None:
    layers = (entry("a", 8, 8, 0), entry("b", 16, 4, 1))
    elsewhere = MetricsTable("net", "", layers, 1.0, (("first_layer", "conv0"),))
    assert len(build_problem(elsewhere, "pca", 0.5, "keep").layers) == 2


def test_unknown_words() -> None:
    table = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 8, 8, 1)), 1.0)
    with pytest.raises(UsageError, match="--method magic: known are map"):
        method_for("magic")
    for wrong in ({"metric": "luck"}, {"first_layer": "last"}, {"floor": 1.5}):
        with pytest.raises(UsageError):
            build_problem(table, **{"metric": "pca", "target_flops": 0.5, **wrong})


def test_published_vgg16_enc_map_is_close(shared_data) -> None:
    import json

    from enc_caffe.metrics.table import read_metrics

    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    runs = {p["id"]: p["ranks"] for p in json.loads((shared_data / "published_ranks.json").read_text())}
    wanted = runs["table1-vgg16-flop_0.25_enc_map"]
    # The published ranks cost 0.25227 of the convolutions.
    problem = build_problem(table, "measured", 0.2523, "half")
    ranks = enc_map.search(problem).plan_ranks(problem)
    off = [abs(ranks[n] - wanted[n]) for n in wanted]
    assert max(off) <= 1 and sum(d == 0 for d in off) >= 10


def test_brute_force_on_a_tiny_network_finds_nothing_cheaper_at_the_same_level() -> None:
    table = MetricsTable("net", "", (entry("a", 4, 4, 0), entry("b", 4, 4, 1)), 1.0)
    problem = build_problem(table, "pca", 0.6, "search")
    result = enc_map.search(problem)
    levels = [np.interp(r, np.arange(len(x.metric)), x.metric) for r, x in zip(result.ranks, problem.layers)]
    for ranks in itertools.product(*(range(x.low, x.high + 1) for x in problem.layers)):
        if problem.macs(ranks) > problem.budget:
            continue
        others = [x.metric[r] for r, x in zip(ranks, problem.layers)]
        # Rounding moves each rank by half a step at most, so no plan within the budget is better in every layer by more.
        assert not all(o > lv + max(np.diff(x.metric)) for o, lv, x in zip(others, levels, problem.layers))
