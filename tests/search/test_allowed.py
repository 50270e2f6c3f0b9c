"""Ranks that the options let a layer have, and those of its curves that the metric has values of."""

from __future__ import annotations

import numpy as np

from enc_caffe.form import Form
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search.allowed import allowed_places, has_values, with_values
from enc_caffe.search.build import build_problem
from tests.search.tables import entry, options

TABLE = MetricsTable("net", "", (entry("a", 8, 8, 0), entry("b", 16, 4, 1)), 1.0)


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
    # Half of 12 is no multiple of 4; as near as 8 is 4.
    half = build_problem(TABLE, options(first_layer="half", multiple_of=4))
    assert half.fixed == {"a": Form("spatial", (4,))}
    # A bound of one rank fixes it; bounds on the first layer overrule what is said of first layers.
    fixed = build_problem(TABLE, options(bounds={"a": (5, 5)}))
    assert fixed.fixed == {"a": Form("spatial", (5,))}
    assert len(build_problem(TABLE, options(bounds={"a": (2, 5)})).layers) == 2
    assert [x.name for x in build_problem(TABLE, options(first_layer="search", whole=frozenset({"b"}))).layers] == ["a"]


def test_what_was_not_measured_is_left_out_unless_nothing_was() -> None:
    measured, not_ = TABLE.layers[0], TABLE.layers[1].with_series("sampled_divergence", [])
    measured = measured.with_series("sampled_divergence", [0.1] * len(measured.sampled_ranks))
    wanted = options(metric="divergence")
    places = [allowed_places(m, wanted) for m in (measured, not_)]
    assert [has_values(m, "divergence") for m in (measured, not_)] == [True, False] and has_values(not_, "pca")
    assert with_values([measured, not_], places, wanted)[0] == [measured]
    able, own = with_values([not_], places[1:], wanted)
    assert able == [not_] and np.array_equal(own[0], places[1])
