"""Asymmetric 3-D's greedy ranks: against the rule written out, and along forms of several ranks."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import group_spectra, scheme_for
from enc_caffe.errors import InfeasibleError
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.search import asym
from enc_caffe.search.build import build_problem
from tests.search.tables import curves, options


def by_hand(problem) -> tuple[int, ...]:
    """The rule, one step at a time over all layers."""
    at = [len(x.ranks) - 1 for x in problem.layers]
    while problem.macs([x.ranks[i] for x, i in zip(problem.layers, at)]) > problem.budgets["macs"]:
        rated = []
        for n, (x, i) in enumerate(zip(problem.layers, at)):
            if i:
                now, then = x.ranks[i], x.ranks[i - 1]
                lost = (x.metric[now] - x.metric[then]) / x.metric[now]
                rated.append((lost / (x.costs["macs"][now] - x.costs["macs"][then]), n))
        at[min(rated)[1]] -= 1
    return tuple(int(x.ranks[i]) for x, i in zip(problem.layers, at))


@settings(max_examples=25)
@given(st.integers(0, 500), st.floats(0.2, 0.9), st.sampled_from(("asym3d", "spatial", "tucker2")))
def test_the_greedy_rule(seed: int, target: float, scheme: str) -> None:
    made = [m for i, size in enumerate((4, 6)) for m in curves(f"l{i}", size, size, 4, 3, seed + i)]
    if scheme == "asym3d":
        made = [m for i, size in enumerate((4, 6)) for m in three_stages(f"l{i}", size, seed + i)]
    table = MetricsTable("net", "", tuple(made), 1.0)
    problem = build_problem(
        table, options(method="asym", metric="divergence", target_flops=target, schemes=(scheme,), count="paper")
    )
    try:
        found = asym.search(problem)
    except InfeasibleError:
        assert not problem.fits([x.low for x in problem.layers])
        return
    assert problem.fits(found.ranks) and problem.score(found.ranks) > -np.inf
    assert found.ranks == by_hand(problem)


def three_stages(name: str, size: int, seed: int):
    """A layer's curve in the form of asymmetric 3-D."""
    layer = curves(name, size, size, 4, 3, seed)[0].layer
    scheme, rng = scheme_for("asym3d"), np.random.default_rng(seed)
    spectra = tuple(group_spectra(scheme.matrices(layer, rng.standard_normal((size, size, 3, 3)))))
    ladder = scheme.forms(layer, spectra)
    places = tuple(range(1, len(ladder) + 1))
    lost = np.sort(rng.random(len(places)))[::-1].tolist()
    none = (None,) * len(places)
    return (
        LayerMetrics(
            layer, "asym3d", len(ladder), spectra, places, none, None, (("sampled_divergence", lost),), ladder, False
        ),
    )
