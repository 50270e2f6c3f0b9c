"""The lists that enclose A_c: weights far enough apart that two of them always meet in a corner."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.search.choices import NEAR, _Enclosure


class Asked(_Enclosure):
    """Takes a list's last value from a function, where a search would solve a knapsack for it."""

    def __init__(self, value) -> None:
        super().__init__(SimpleNamespace(originals={"macs": 1.0}), [], np.array([1]), 1.0)  # type: ignore[arg-type]
        self.value = value

    def ask(self, weight: float, number: int) -> None:
        assert all(abs(weight - w) >= NEAR / 4 for w in self.limits), (weight, self.limits)
        self.limits[weight], self.lengths[weight] = self.value(weight), number


@settings(max_examples=300, deadline=None)
@given(st.floats(0.01, 0.99), st.floats(-5, 0), st.integers(-3, 3), st.floats(-1e-12, 1e-12))
def test_a_corner_whose_slope_is_a_list_s_own_weight_is_cut_between(
    second: float, v: float, ulps: int, shift: float
) -> None:
    # The objective's slope at the corner of 0 and ``second`` is ``second``, but for rounding: a list there would be the same again.
    u = v + math.log(second / (1 - second)) + shift + ulps * np.spacing(v)
    enclosure = Asked(lambda w: w * u + (1 - w) * v)
    for weight in (0.0, second, 1.0):
        enclosure.limits[weight], enclosure.lengths[weight] = enclosure.value(weight), 3
    assert enclosure.narrow(0.0, second, 3)
    assert all(np.isfinite(bound) for bound, _, _ in enclosure.corners())
    assert len(enclosure.limits) == 4
