"""From metrics and options to a problem: costs by hand, constraints, and bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enc_caffe.errors import InfeasibleError, MetricsError, UsageError
from enc_caffe.form import Form
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import exact
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import EVERYTHING, LISTED, SearchResult
from tests.decomposition.layers import conv
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


def runtime(**whole: int) -> LatencyTable:
    """A runtime's table: at ranks 4, 8 and 12 (of b 8, 16, 24) 100, 90 and 600 ns; layers whole as is said, 1000 the network."""
    entries = [m for m in TABLE.layers if m.name in whole]
    ranks = {"a": (4, 8, 12), "b": (8, 16, 24)}
    made = [
        LayerLatency(m.name, m.max_rank, whole[m.name], ranks[m.name], (100, 90, 600), "spatial", (), (1,) * 4)
        for m in entries
    ]
    return LatencyTable("net", tuple(made), {"runtime": "mnn", "network_ns": 1000})


def test_time_is_the_whole_networks_and_of_measured_forms_alone() -> None:
    wanted = options(target_flops=None, target_latency=0.6, first_layer="search")
    problem = build_problem(TABLE, wanted, runtime(a=500, b=300))
    assert problem.originals["latency"] == 1000 and problem.fixed_costs["latency"] == 200
    # Rank 4 is slower than rank 8 and worse, rank 12 slower than the layer whole.
    assert [[str(x.forms[p]) for p in x.choices] for x in problem.layers] == [
        ["spatial:8", "whole"],
        ["spatial:16", "whole"],
    ]
    plans, gap = exact.plans(problem, 4)
    best = SearchResult(plans[0][0], 0.0)
    # a in two halves: 200 + 90 + 300 of 1000; with b alone in halves 790 are too many.
    assert (
        gap == 0
        and best.plan_forms(problem) == {"a": Form("spatial", (8,))}
        and problem.cost("latency", best.ranks) == 590
    )
    assert len(plans) == 2


def test_a_table_of_another_network_is_refused() -> None:
    table = runtime(a=500, b=300)
    other = LatencyTable("squeezenet", tuple(replace(x, name=f"fire/{x.name}") for x in table.layers), table.about)
    wanted = options(target_flops=None, target_latency=0.6, first_layer="search")
    with pytest.raises(
        UsageError,
        match=f"its table is of 'squeezenet', the metrics of '{TABLE.network}': they have no layer in common",
    ):
        build_problem(TABLE, wanted, other)


def test_a_layer_that_no_form_makes_faster_stays_whole_whatever_the_target() -> None:
    # Beside both layers the network takes 420.
    wanted = options(target_flops=None, target_latency=0.6, first_layer="search")
    problem = build_problem(TABLE, wanted, runtime(a=500, b=80))
    assert [x.name for x in problem.layers] == ["a"]
    assert SearchResult(exact.plans(problem)[0][0][0], 0.0).plan_forms(problem) == {"a": Form("spatial", (8,))}
    with pytest.raises(InfeasibleError, match="0.5900 to 1.0000 of the latency can"):
        exact.plans(build_problem(TABLE, replace(wanted, target_latency=0.5), runtime(a=500, b=80)))


def test_time_and_macs_and_parameters_together() -> None:
    wanted = options(target_flops=0.8, target_params=0.8, target_latency=0.6, first_layer="search")
    problem = build_problem(TABLE, wanted, runtime(a=500, b=300))
    ranks = exact.plans(problem)[0][0][0]
    # The parameters are b's for the most part, so both are in halves.
    assert SearchResult(ranks, 0.0).plan_forms(problem) == {"a": Form("spatial", (8,)), "b": Form("spatial", (16,))}
    assert problem.fits(ranks) and problem.cost("latency", ranks) == 380


def test_a_layer_that_the_runtime_did_not_take_stays_whole() -> None:
    wanted = options(target_flops=None, target_latency=0.6, first_layer="search")
    problem = build_problem(TABLE, wanted, runtime(a=500))
    assert [x.name for x in problem.layers] == ["a"] and problem.fixed == {}
    assert problem.originals["latency"] == 1000 and problem.fixed_costs["latency"] == 500
    # Without a budget of time every rank may be chosen, and the plan's time is known all the same.
    free = build_problem(TABLE, options(first_layer="search"), runtime(a=500, b=300))
    assert free.layers[0].ranks.tolist() == list(range(1, 13)) and free.cost("latency", [4, 8]) == 200 + 100 + 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"bounds": {"a": (9, 3)}}, r"--bounds a=9:3: 1 <= lowest <= highest <= r_max = 12"),
     ({"bounds": {"a": (0, 3)}}, "--bounds a=0:3"), ({"bounds": {"a": (None, 99)}}, "--bounds a=1:99"),
     ({"bounds": {"z": (1, 2)}}, "--bounds z: the metrics of 'net' have no such layer; enc-caffe inspect"),
     ({"whole": frozenset({"z"})}, "--whole z"), ({"whole": frozenset({"aa"})}, r"no such layer \(did you mean a\?\); enc-caffe"),
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
     ({"target_accuracy": 90.0}, "--target_accuracy 90"), ({"target_flops": float("nan")}, "--target_flops nan"),
     ({"seed": -1}, "--seed -1: a whole number of 0 or more")],
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


#: What the whole network costs, of which the table lists two layers.
WHOLE_NETWORK = (("network_macs", 200_000), ("network_parameters", 10_000))
LISTED_MACS, LISTED_PARAMETERS = 64 * 9 * 64 + 16 * 9 * 256, 9 * 64 + 9 * 256


def of_network(extra: tuple = WHOLE_NETWORK) -> MetricsTable:
    """The table with what the whole network costs."""
    return MetricsTable("net", "", TABLE.layers, 1.0, extra)


def test_targets_are_parts_of_the_whole_network_where_its_costs_are_known() -> None:
    problem = build_problem(of_network(), options(first_layer="search", target_flops=0.8, target_params=0.9))
    assert problem.counted == EVERYTHING and problem.convention == "exact"
    assert problem.originals == {"macs": 200_000, "parameters": 10_000}
    # What is not listed stays whole, and is paid.
    assert problem.fixed_costs == {"macs": 200_000 - LISTED_MACS, "parameters": 10_000 - LISTED_PARAMETERS}
    assert problem.budgets == pytest.approx({"macs": 160_000, "parameters": 9_000})
    assert problem.ratio("macs", [2, 3]) == (200_000 - LISTED_MACS + 2 * 64 * 48 + 3 * 16 * 96) / 200_000
    ranks = exact.plans(problem)[0][0][0]
    assert problem.ratio("macs", ranks) <= 0.8 and problem.ratio("parameters", ranks) <= 0.9
    # A layer that is kept or fixed counts as what it costs then.
    half = build_problem(of_network(), options(first_layer="half", target_flops=0.9))
    assert half.fixed_costs["macs"] == 200_000 - LISTED_MACS + 6 * 64 * 48


@pytest.mark.parametrize(
    ("changes", "everything", "convention"),
    [({}, True, "exact"), ({"count": "all"}, True, "exact"), ({"count": "paper"}, False, "paper"),
     ({"preset": "paper"}, False, "paper"), ({"preset": "published"}, False, "paper"), ({"preset": "published", "count": "all"}, True, "exact"),
     ({"convention": "paper"}, True, "paper"), ({"count": "paper", "convention": "exact"}, False, "exact")],
)  # fmt: skip
def test_what_decides_what_is_counted(changes: dict, everything: bool, convention: str) -> None:
    wanted = options(first_layer="search", target_flops=0.9, **changes)
    problem = build_problem(of_network(), wanted)
    assert problem.counted == (EVERYTHING if everything else LISTED) and problem.convention == convention
    assert problem.originals["macs"] == (200_000 if everything else LISTED_MACS)
    # Metrics that do not know the network count what they list, whatever is asked for.
    assert (
        build_problem(TABLE, wanted).originals["macs"] == LISTED_MACS and build_problem(TABLE, wanted).counted == LISTED
    )


def test_conventions_differ_where_a_stride_is() -> None:
    layer = conv(8, 8, (3, 3), stride=(2, 2), size=(8, 8))
    one = MetricsTable("net", "", (replace(TABLE.layers[0], layer=replace(layer, name="a")), TABLE.layers[1]), 1.0)
    found = {
        c: build_problem(one, options(first_layer="search", convention=c)).layers[0].costs["macs"][1]
        for c in ("paper", "exact")
    }
    # 3x1 from 8 to 1 channel at 4 x 8 (by Eq. 9 at 4 x 4), and 1x3 from 1 to 8 at 4 x 4.
    assert found == {"paper": 24 * 16 + 24 * 16, "exact": 24 * 32 + 24 * 16}


def test_a_whole_network_of_less_than_its_layers_is_refused() -> None:
    for key, word in (("network_macs", "MACs"), ("network_parameters", "parameters")):
        table = of_network(tuple((k, 100 if k == key else v) for k, v in WHOLE_NETWORK))
        with pytest.raises(MetricsError, match=f"have [0-9]+ {word}, but field '{key}' says 100 in all"):
            build_problem(table, options(first_layer="search"))
    for wrong in (None, "200000", 0, -5, 2.5, True, [1]):
        table = of_network((("network_macs", wrong), WHOLE_NETWORK[1]))
        try:
            assert build_problem(table, options(first_layer="search")).counted == LISTED
        except MetricsError as exc:
            assert "network_macs" in str(exc)


def test_the_span_that_can_be_reached_says_what_it_is_of() -> None:
    problem = build_problem(of_network(), options(first_layer="search", target_flops=0.5))
    low = problem.ratio("macs", [x.low for x in problem.layers])
    with pytest.raises(
        InfeasibleError,
        match=rf"target 0.5000 of the MACs cannot be reached: {low:.4f} to 1.0000 .*exact convention, of all convolutions and fully connected layers",
    ):
        exact.plans(problem)
    fewer = build_problem(of_network(), options(first_layer="search", target_flops=0.1, count="paper"))
    with pytest.raises(InfeasibleError, match="paper convention, of the layers that the metrics list"):
        exact.plans(replace(fewer, budgets={"macs": 1.0}))


def test_unknown_words_of_counting() -> None:
    with pytest.raises(UsageError, match="--count some: known are all, paper"):
        options(count="some")
    with pytest.raises(UsageError, match="--convention mine: known are paper, exact"):
        options(convention="mine")
