"""Where more ranks are measured."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.metrics.bends import bent_ranks, floor_of


def test_a_straight_logarithm_has_no_bend() -> None:
    ranks = [1, 4, 8, 20, 40]
    assert bent_ranks((ranks, [math.exp(-0.2 * r) for r in ranks]), 1e-9) == []


def test_both_sides_of_a_step_are_measured() -> None:
    # The step is between 8 and 20: the samples on its two sides are missed by their neighbours.
    found = bent_ranks(([1, 4, 8, 20, 40], [1.0, 0.9, 0.8, 1e-3, 9e-4]), 1e-9)
    assert 14 in found and set(found) <= {6, 14, 30}


def test_what_is_below_the_floor_is_no_bend() -> None:
    curves = [([2, 4, 8, 16], [1e-2, 1e-7, 1e-9, 1e-12]), ([2, 4, 8, 16], [2e-2, 1e-3, 1e-5, 1e-5])]
    floor = floor_of(curves)
    assert floor == 0.01 * 1.5e-2
    # Below the floor the second half of both is one value: only the fall to it is a bend.
    assert all(r < 8 for curve in curves for r in bent_ranks(curve, floor))
    assert bent_ranks(([2, 4, 8, 16], [1e-5, 1e-7, 1e-6, 1e-9]), floor) == []


def test_few_points_and_neighbours_give_nothing() -> None:
    assert bent_ranks(([5], [1.0]), 1e-9) == [] and bent_ranks(([5, 9], [1.0, 0.1]), 1e-9) == []
    assert bent_ranks(([1, 2, 3], [1.0, 1e-6, 1e-7]), 1e-9) == []
    assert floor_of([]) > 0


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 100)), min_size=1, max_size=12, unique_by=lambda p: p[0]))
def test_new_ranks_lie_between_the_samples(points: list[tuple[int, float]]) -> None:
    points.sort()
    ranks, values = [r for r, _ in points], [v for _, v in points]
    found = bent_ranks((ranks, values), 1e-6)
    assert found == sorted(set(found)) and not set(found) & set(ranks)
    assert not found or ranks[0] < found[0] <= found[-1] < ranks[-1]
    # At most one for each interval.
    intervals = np.searchsorted(ranks, found)
    assert len(set(intervals)) == len(found)
