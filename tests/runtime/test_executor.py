"""Jobs in worker processes."""

from __future__ import annotations

import time

import pytest

from enc_caffe.runtime.executor import CaffeExecutor, run_all

pytestmark = pytest.mark.caffe


def late(number: int, seconds: float) -> list[int]:
    """A result that comes later (in a worker)."""
    time.sleep(seconds)
    return [number]


def test_results_are_folded_in_the_order_of_the_jobs() -> None:
    # The first is the last to arrive.
    jobs = [(i, 0.4 if i == 0 else 0.0) for i in range(6)]
    seen: list[tuple[int, int]] = []
    with CaffeExecutor(2, 1) as executor:
        assert run_all(executor, late, jobs, [1] * 6) == [[i] for i in range(6)]
        folded = run_all(executor, late, jobs, [1] * 6, lambda d, a: seen.append((d, a)), fold=lambda a, b: a + b)
        assert folded == [[0, 1, 2, 3, 4, 5]]
        assert run_all(executor, late, jobs[:1], [1], fold=lambda a, b: a + b) == [[0]]
    assert seen[-1] == (6, 6)
