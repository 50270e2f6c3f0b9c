"""Curves over the rank and their inverses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.metrics.curves import inverse_of_curve, rank_over_metric, surrogate_over

STEPS = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(STEPS)
def test_the_inverse_of_a_curve_gives_the_lowest_rank_that_reaches_a_value(steps: list[float]) -> None:
    curve = np.concatenate([[0.0], np.cumsum(steps)])
    rank_of = inverse_of_curve(curve, np.arange(len(curve)))
    for value in curve:
        assert abs(float(rank_of(value)) - int(np.argmax(curve >= value))) < 1e-6 or value == 0
    assert np.all(np.diff(rank_of(np.linspace(0, curve[-1] + 1, 50))) >= 0)


def test_a_point_after_the_first_value_of_one_is_dropped() -> None:
    rank_of = rank_over_metric(np.array([2, 4, 8, 16]), np.array([0.5, 0.9, 1.01, 1.0]))
    assert float(rank_of(np.array(1.01))) == 8 and float(rank_of(np.array(5.0))) == 8


@given(st.lists(st.floats(0, 5), min_size=1, max_size=8), st.integers(0, 5))
def test_a_surrogate_lies_between_zero_and_one_and_passes_its_samples(divergences: list[float], start: int) -> None:
    ranks = np.arange(1, len(divergences) + 1) * 3 + start
    d = np.sort(np.array(divergences))[::-1]
    curve = surrogate_over(ranks, d, np.arange(ranks[-1] + 3))
    assert curve.shape == (ranks[-1] + 3,) and np.all((curve >= 0) & (curve <= 1))
    np.testing.assert_allclose(curve[ranks], np.exp(-d), atol=1e-4)
    assert np.all(np.diff(curve) >= -1e-12)


def test_below_its_lowest_sample_a_surrogate_falls_at_least_as_fast_as_one_over_the_rank_there() -> None:
    # log d grows by 1/5 for each rank below 5, whether there is one sample or the first two are nearly equal.
    for points, divergences in (([5], [0.3]), ([5, 10], [0.3, 0.3 * np.exp(-0.5)])):
        curve = surrogate_over(np.array(points), np.array(divergences), np.arange(11.0))
        np.testing.assert_allclose(curve[[2, 4, 5]], np.exp(-0.3 * np.exp([0.6, 0.2, 0.0])), rtol=1e-12)
    # A steeper first slope goes on: here a half a rank, and 1/4 would be less.
    steep = surrogate_over(np.array([4, 6]), np.array([1.0, np.exp(-1)]), np.arange(7.0))
    np.testing.assert_allclose(steep[[1, 3]], np.exp(-np.exp([1.5, 0.5])), rtol=1e-12)
    # On an axis of MACs it is the same in units of MACs.
    macs = surrogate_over(np.array([500.0]), np.array([0.3]), np.array([0.0, 200.0, 400.0, 500.0]))
    np.testing.assert_allclose(macs[1:], np.exp(-0.3 * np.exp([0.6, 0.2, 0.0])), rtol=1e-12)
    assert macs[0] <= macs[1]
