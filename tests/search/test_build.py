"""From metrics and options to a problem: costs by hand, constraints, and bad input."""

from __future__ import annotations

import pytest

from enc_caffe.errors import InfeasibleError, MetricsError, UsageError
from enc_caffe.form import Form
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import exact
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchResult
from tests.search.tables import entry, options

TABLE = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 16, 4, 1)), 1.0)


def test_costs_by_hand() -> None:
    problem = build_problem(TABLE, options(first_layer="search", target_params=0.5))
    assert problem.originals == {"macs": 64 * 9 * 64 + 16 * 9 * 256, "parameters": 9 * 64 + 9 * 256}
    assert [x.unit() for x in problem.layers] == [(64 * 3 * 16, 3 * 16), (16 * 3 * 32, 3 * 32)]
    assert problem.macs([2, 3]) == 2 * 64 * 48 + 3 * 16 * 96
    assert problem.cost("parameters", [2, 3]) == 2 * 48 + 3 * 96
    half = build_problem(TABLE, options(first_layer="half"))
    assert half.fixed == {"a": Form("spatial", (6,))} and half.fixed_costs == {
        "macs": 6 * 64 * 48,
        "parameters": 6 * 48,
    }
    keep = build_problem(TABLE, options(first_layer="keep"))
    assert keep.fixed == {} and keep.fixed_costs == {"macs": 64 * 9 * 64, "parameters": 9 * 64}


def test_the_first_layer_is_the_one_that_reads_the_data() -> None:
    elsewhere = MetricsTable("net", "", TABLE.layers, 1.0, (("first_layer", "conv0"),))
    assert len(build_problem(elsewhere, options(first_layer="keep")).layers) == 2


def test_allowed_ranks() -> None:
    problem = build_problem(
        TABLE, options(first_layer="search", multiple_of=4, bounds={"b": (None, 18)}, target_flops=0.9)
    )
    assert problem.layers[0].ranks.tolist() == [4, 8, 12]
    assert problem.layers[1].ranks.tolist() == [4, 8, 12, 16]
    assert [problem.layers[0].allowed(r) for r in (0, 5.9, 6, 7, 10.1, 40)] == [4, 4, 8, 8, 12, 12]
    # No multiple of 16 up to r_max 12: the layer stays whole.
    larger = MetricsTable("net", "", (*TABLE.layers, entry("c", 32, 4, 2)), 1.0)
    whole = build_problem(larger, options(first_layer="search", multiple_of=16, target_flops=0.9))
    assert [x.name for x in whole.layers] == ["c"] and whole.fixed == {"b": Form("spatial", (16,))}
    assert whole.fixed_costs["macs"] == 64 * 9 * 64 + 16 * 3 * 32 * 16
    # A bound of one rank fixes it; bounds on the first layer overrule what is said of first layers.
    fixed = build_problem(TABLE, options(bounds={"a": (5, 5)}))
    assert fixed.fixed == {"a": Form("spatial", (5,))}
    assert len(build_problem(TABLE, options(bounds={"a": (2, 5)})).layers) == 2
    assert [x.name for x in build_problem(TABLE, options(first_layer="search", whole=frozenset({"b"}))).layers] == ["a"]


def times(*names: str, highest: int = 0) -> LatencyTable:
    """A table of layers that take 150 ns at rank 1 and 50 more for each further rank, and 1000 whole."""
    entries = [m for m in TABLE.layers if m.name in names]
    ends = [highest or m.max_rank for m in entries]
    return LatencyTable(
        "net", tuple(LayerLatency(m.name, n, 1000, (1, n), (150, 100 + 50 * n)) for m, n in zip(entries, ends)), {}
    )


def test_latency_is_a_cost_like_any_other() -> None:
    wanted = options(target_flops=None, target_latency=0.4, first_layer="search")
    problem = build_problem(TABLE, wanted, times("a", "b").time_of)
    result = SearchResult(exact.plans(problem)[0][0][0], 0.0)
    ranks = [f.ranks[0] for f in result.plan_forms(problem).values()]
    assert len(ranks) == 2
    assert problem.cost("latency", result.ranks) == 200 + 50 * sum(ranks) <= 0.4 * 2000
    with pytest.raises(UsageError, match="--target_latency needs --latency"):
        build_problem(TABLE, wanted)
    with pytest.raises(MetricsError, match="layer 'b': the latency table has no such layer"):
        build_problem(TABLE, wanted, times("a").time_of)
    with pytest.raises(MetricsError, match="layer 'a': the latency table ends at rank 3, but r_max is at least 4"):
        build_problem(TABLE, wanted, times("a", "b", highest=3).time_of)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bounds": {"a": (9, 3)}}, r"--bounds a=9:3: 1 <= lowest <= highest <= r_max = 12"),
     ({"bounds": {"a": (0, 3)}}, "--bounds a=0:3"), ({"bounds": {"a": (None, 99)}}, "--bounds a=1:99"),
     ({"bounds": {"z": (1, 2)}}, "--bounds z: the metrics of 'net' have no such layer"),
     ({"whole": frozenset({"z"})}, "--whole z"),
     ({"whole": frozenset({"b"}), "bounds": {"b": (1, 2)}}, "layer 'b' stands in --bounds and in --whole"),
     ({"metric": "loss"}, "layer 'b': field 'sampled_cross_entropy' has no measured value"),
     ({"whole": frozenset({"a", "b"})}, "no layer is left to search")],
)  # fmt: skip
def test_contradictions(changes: dict, message: str) -> None:
    with pytest.raises((UsageError, MetricsError), match=message):
        build_problem(TABLE, options(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"metric": "luck"}, "--metric luck: known are pca"), ({"first_layer": "last"}, "--first_layer last"),
     ({"floor": 1.5}, "--floor 1.5"), ({"target_flops": 1.2}, "--target_flops 1.2"),
     ({"target_flops": None}, "no target"), ({"preset": "mine"}, "--preset mine"), ({"solver": "luck"}, "--solver luck"),
     ({"multiple_of": 0}, "--multiple_of 0"), ({"candidates": 0}, "--candidates 0"), ({"density": 2.0}, "--density 2.0"),
     ({"target_accuracy": 90.0}, "--target_accuracy 90"), ({"target_flops": float("nan")}, "--target_flops nan")],
)  # fmt: skip
def test_options_that_make_no_sense(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchOptions(**{"target_flops": 0.5, **changes})


def test_an_infeasible_budget_says_by_how_much() -> None:
    problem = build_problem(TABLE, options(target_flops=0.05, first_layer="search", floor=0.5))
    low = problem.ratio("macs", [x.low for x in problem.layers])
    with pytest.raises(
        InfeasibleError, match=f"target 0.0500 of the MACs cannot be reached: {low:.4f} to .* {low - 0.05:.4f}"
    ):
        exact.plans(problem)
