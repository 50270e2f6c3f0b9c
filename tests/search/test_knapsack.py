"""The knapsack against brute force, with one, two and three budgets, and where its tables are cut."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.search.knapsack import solve
from enc_caffe.search.multipliers import Stage


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Stage], np.ndarray]:
    """Up to five stages of up to six options; costs may be negative, as the lower end of a window is."""
    budgets = draw(st.integers(1, 3))
    stages = []
    for _ in range(draw(st.integers(1, 5))):
        n = draw(st.integers(1, 6))
        costs = draw(
            st.lists(st.lists(st.integers(-3, 12), min_size=budgets, max_size=budgets), min_size=n, max_size=n)
        )
        values = draw(st.lists(st.sampled_from((-2.5, -1.0, -0.3, 0.0, 0.05)), min_size=n, max_size=n))
        stages.append(Stage(np.array(costs, dtype=np.int64), np.array(values)))
    return stages, np.array(draw(st.lists(st.integers(-5, 45), min_size=budgets, max_size=budgets)), dtype=np.int64)


def all_values(stages: list[Stage], budget: np.ndarray) -> list[float]:
    found = []
    for picks in itertools.product(*(range(len(s.values)) for s in stages)):
        if np.all(sum(s.costs[p] for s, p in zip(stages, picks)) <= budget):
            found.append(float(sum(s.values[p] for s, p in zip(stages, picks))))
    return sorted(found, reverse=True)


@settings(max_examples=500, deadline=None)
@given(instances(), st.sampled_from((1, 2, 7, 40)))
def test_equal_to_brute_force(instance: tuple[list[Stage], np.ndarray], number: int) -> None:
    stages, budget = instance
    wanted = all_values(stages, budget)
    found = solve(stages, budget, number)
    assert [s.value for s in found] == pytest.approx(wanted[:number], abs=1e-9)
    assert len({s.picks for s in found}) == len(found)
    for s in found:
        assert np.all(sum(x.costs[p] for x, p in zip(stages, s.picks)) <= budget)
        assert s.value == pytest.approx(sum(x.values[p] for x, p in zip(stages, s.picks)), abs=1e-9)
        assert s.gap == 0
    # Solutions that are known before change what it takes, not what is found.
    again = solve(stages, budget, number, known=[s.picks for s in found[::2]])
    assert [s.value for s in again] == pytest.approx([s.value for s in found], abs=1e-9)


@settings(max_examples=300, deadline=None)
@given(instances(), st.integers(1, 6))
def test_the_gap_of_cut_tables_holds(instance: tuple[list[Stage], np.ndarray], states: int) -> None:
    stages, budget = instance
    wanted = all_values(stages, budget)
    found = solve(stages, budget, 1, max_states=states)
    if found:
        assert found[0].value <= wanted[0] + 1e-9 <= found[0].value + found[0].gap + 2e-9
        assert np.all(sum(x.costs[p] for x, p in zip(stages, found[0].picks)) <= budget)
    else:
        # Nothing found is no proof that there is nothing, and the bound says so.
        assert not wanted or found.dropped >= wanted[0] - 1e-9


def test_ties_and_many_layers() -> None:
    # 60 equal layers: plans that differ in the order of layers alone are equally good, which is what slows branch and bound down.
    stage = Stage(np.arange(1, 33, dtype=np.int64)[:, None] * 7, np.log(np.arange(1, 33) / 32))
    found = solve([stage] * 60, np.array([60 * 16 * 7 + 3]), 5)
    # The logarithm is concave: all at 16 of 32 is best, then one at 17 and another at 15 (60 x 59 such plans), before one at 15.
    even = 60 * np.log(0.5)
    assert [s.value for s in found] == pytest.approx([even, *[even + np.log(17 * 15 / 16**2)] * 4], abs=1e-9)
    assert [s.gap for s in found] == [0] * 5 and sorted(set(found[0].picks)) == [15]
    for s in found[1:]:
        assert sorted(s.picks) == [14, *[15] * 58, 16]
    assert len({s.picks for s in found}) == 5


def test_many_equally_good_plans_are_listed_without_end() -> None:
    # A metric that has come to its end: 40 layers of 30 ranks, of which 15 are equally good, and a budget that does not bind.
    stage = Stage(np.arange(1, 31, dtype=np.int64)[:, None], np.minimum(np.arange(1, 31), 15) / 15 - 1)
    found = solve([stage] * 40, np.array([40 * 29]), 64)
    assert len({s.picks for s in found}) == 64 and {round(s.value, 9) for s in found} == {0.0}
