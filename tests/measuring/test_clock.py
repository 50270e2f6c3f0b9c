"""Medians and their intervals, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.errors import RuntimeRefusal
from enc_caffe.measuring.clock import Timer, Timing, difference, median, time_models
from enc_caffe.measuring.contexts import empty, random_model
from enc_caffe.measuring.store import ResultStore
from enc_caffe.runtimes.known import RUNTIMES


def test_the_interval_is_of_order_statistics() -> None:
    # Of 15 samples: P(at most 3 below) = 0.0176, of 4 below 0.059, so the interval goes from the 4th to the 12th.
    assert median(range(15, 0, -1)) == Timing(8.0, 4.0)
    # Of 5 the chance of none below is 0.031: no interval is certain enough, so all of them count.
    assert median([5, 1, 2, 3, 90]) == Timing(3.0, 44.5)


def test_the_interval_holds_the_median_in_95_of_100() -> None:
    rng = np.random.default_rng(0)
    held = [abs(median(rng.exponential(1.0, 21)).nanoseconds - np.log(2)) for _ in range(5)]
    assert max(held) < 1.0
    inside = 0
    for _ in range(2000):
        values = np.sort(rng.uniform(0, 1, 15))
        inside += values[3] <= 0.5 <= values[11]
    # 1 - 2 x 0.0176 = 0.965, give or take 3 standard errors of 2000.
    assert inside / 2000 == pytest.approx(0.9648, abs=0.0124)


def test_differences_are_no_less_than_a_nanosecond() -> None:
    assert difference(Timing(10.0, 3.0), Timing(4.0, 4.0)) == Timing(6.0, 5.0)
    assert difference(Timing(4.0, 0.0), Timing(9.0, 0.0)) == Timing(1.0, 0.0)
    # Of three layers one.
    assert difference(Timing(40.0, 3.0), Timing(10.0, 4.0), 3) == Timing(10.0, 5.0 / 3)


def test_a_process_that_ends_while_timing_forgets_its_networks_and_is_not_remembered(tmp_path: Path) -> None:
    dropped: list[list[str]] = []

    class Ending:
        runtime, version, threads = RUNTIMES["mnn"], "1", 1

        def load_all(self, models: dict[str, object]) -> dict[str, str]:
            return {}

        def time(self, names: list[str], rounds: int, seconds: float, sweep: int = 0) -> np.ndarray:
            raise RuntimeRefusal("its process ended by signal 9")

        def drop(self, names: list[str]) -> None:
            dropped.append(list(names))

    lines: list[str] = []
    with ResultStore(tmp_path / "s.sqlite") as store:
        timer = Timer(Ending(), 1, store, notice=lines.append)  # type: ignore[arg-type]
        for _ in range(2):
            assert timer.times({"whole": empty((1, 4, 6, 6), 1)}, "layer 'a'") == {}
    # It is small, so it was loaded three times.
    assert dropped == [["whole", "whole 2", "whole 3"]] * 2
    assert lines == ["layer 'a' is left out: its process ended by signal 9"] * 2


def test_what_is_refused_for_one_reason_is_said_once() -> None:
    class Refusing:
        runtime, version, threads = RUNTIMES["mnn"], "1", 1

        def load_all(self, models: dict[str, object]) -> dict[str, str]:
            return {name: "no such layer" if name != "c" else "too large" for name in models}

    lines: list[str] = []
    nets = {name: empty((1, 4, 6, 6), 1) for name in "abc"}
    assert Timer(Refusing(), notice=lines.append).times(nets, "the network") == {}  # type: ignore[arg-type]
    said = "mnn does not take the network as {}, which is left out: {}"
    assert lines == [said.format("a, b", "no such layer"), said.format("c", "too large")]


def test_rounds_of_all_loads_of_a_network_count_together(tmp_path: Path) -> None:
    class Loading:
        runtime, version, threads, subject = RUNTIMES["mnn"], "1", 1, ""

        def load_all(self, models: dict[str, object]) -> dict[str, str]:
            return {n: "too many" for n in models if n.startswith("b ")}

        def time(self, names: list[str], rounds: int, seconds: float, sweep: int = 0) -> np.ndarray:
            assert names == ["a", "b", "a 2", "a 3"]
            return np.array([[10.0] * 5, [7.0] * 5, [20.0] * 5, [30.0] * 5])

        def drop(self, names: list[str]) -> None:
            pass

    model = random_model(empty((1, 4, 6, 6), 1), tmp_path, "net")
    times, refused = time_models(Loading(), {"a": model, "b": model}, 5, loads=3)  # type: ignore[arg-type]
    assert refused == {} and {n: t.nanoseconds for n, t in times.items()} == {"a": 20.0, "b": 7.0}
