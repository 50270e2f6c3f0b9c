"""Curves over the rank and their inverses."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.metrics.curves import inverse_of_curve, rank_over_metric, surrogate_at_every_rank

STEPS = st.lists(st.floats(0, 1), min_size=2, max_size=30)


@given(STEPS)
def test_the_inverse_of_a_curve_gives_the_lowest_rank_that_reaches_a_value(steps: list[float]) -> None:
    curve = np.concatenate([[0.0], np.cumsum(steps)])
    rank_of = inverse_of_curve(curve)
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
    curve = surrogate_at_every_rank(ranks, d, int(ranks[-1]) + 2)
    assert curve.shape == (ranks[-1] + 3,) and np.all((curve >= 0) & (curve <= 1))
    np.testing.assert_allclose(curve[ranks], np.exp(-d), atol=1e-4)
    assert np.all(np.diff(curve) >= -1e-12)
