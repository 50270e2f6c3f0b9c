"""The ReLU in the target: every half turn lowers what it is to lower, and full rank is the original."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition.rectified import (
    SCHEDULE,
    Turn,
    between,
    linear_fit,
    penalised,
    rectified_error,
    rectified_fit,
    turns,
)


def responses(seed: int, outputs: int, rank: int, columns: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Wanted responses, and those on inputs that are wrong by a little."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((outputs, rank)) * np.geomspace(2, 0.2, rank)
    wanted = mix @ rng.standard_normal((rank, columns)) + rng.normal(-0.5, 0.5, (outputs, 1))
    return wanted, wanted + 0.2 * rng.standard_normal(wanted.shape)


@settings(max_examples=60)
@given(
    st.floats(-3, 3), st.floats(-3, 3), st.sampled_from((0.01, 0.3, 1.0, 20.0)),
)  # fmt: skip
def test_a_response_between_is_the_best_of_all(wanted: float, given_: float, penalty: float) -> None:
    def cost(z: np.ndarray) -> np.ndarray:
        return (max(wanted, 0.0) - np.maximum(z, 0.0)) ** 2 + penalty * (z - given_) ** 2

    found = between(np.array([[wanted]]), np.array([[given_]]), penalty)
    assert cost(found)[0, 0] <= cost(np.linspace(-6, 6, 4001)).min() + 1e-12


@settings(max_examples=12)
@given(st.integers(0, 10_000), st.integers(2, 8))
def test_every_half_turn_lowers_the_objective(seed: int, outputs: int) -> None:
    wanted, inputs = responses(seed, outputs, outputs + 2)
    rank = max(1, outputs // 2)
    passed = list(turns(wanted, inputs, rank))
    assert len(passed) == 1 + sum(n for _, n in SCHEDULE)
    for before, after in zip(passed, passed[1:]):
        start = penalised(wanted, inputs, Turn(after.penalty, before.responses, before.matrix, before.constant))
        half = penalised(wanted, inputs, Turn(after.penalty, after.responses, before.matrix, before.constant))
        end = penalised(wanted, inputs, after)
        assert half <= start * (1 + 1e-9) and end <= half * (1 + 1e-9)
    assert all(np.linalg.matrix_rank(t.matrix, tol=1e-8) <= rank for t in passed)


def test_the_relu_in_the_target_is_worth_something() -> None:
    gains = []
    for seed in range(5):
        wanted, inputs = responses(seed, 12, 12)
        matrix, constant = linear_fit(inputs, wanted, 4)
        linear, best = rectified_fit(wanted, inputs, 4)
        assert linear.matrix == pytest.approx(matrix) and linear.constant == pytest.approx(constant)
        gains.append(rectified_error(wanted, best.given(inputs)) / rectified_error(wanted, linear.given(inputs)))
    assert max(gains) < 1.0 and np.mean(gains) < 0.95


def test_full_rank_is_the_original() -> None:
    wanted, _ = responses(3, 6, 9)
    for turn in turns(wanted, wanted, 6):
        assert turn.matrix == pytest.approx(np.eye(6), abs=1e-8) and turn.constant == pytest.approx(0, abs=1e-8)


def test_dead_and_constant_responses() -> None:
    wanted = np.concatenate([np.zeros((2, 50)), np.full((1, 50), -1.0), responses(1, 3, 3, 50)[0]])
    last = list(turns(wanted, wanted, 6))[-1]
    assert np.isfinite(last.matrix).all() and rectified_error(wanted, last.given(wanted)) == pytest.approx(0, abs=1e-12)
    nothing = np.zeros((3, 20))
    assert rectified_fit(nothing, nothing, 2)[1].given(nothing) == pytest.approx(nothing)
