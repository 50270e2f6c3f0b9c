"""Times of networks in a runtime: medians over interleaved rounds, with intervals."""

from __future__ import annotations

import math
import platform
from pathlib import Path
from typing import Mapping, NamedTuple, Sequence

import numpy as np

from enc_caffe.errors import RuntimeRefusal
from enc_caffe.runtimes.process import Model, RuntimeProcess

#: Seconds of one network's turn in a round.
SECONDS = 0.003
#: Half the interval, as a part of the time, at which enough rounds were measured; and how often as many more are.
ENOUGH, BLOCKS = 0.02, 3


class Timing(NamedTuple):
    """Nanoseconds of a pass: the median of the rounds, and half its 95% interval."""

    nanoseconds: float
    half: float

    def words(self) -> str:
        """For a person."""
        return f"{self.nanoseconds / 1e6:.3f} ms, give or take {self.half / 1e6:.3f}"


Timings = dict[str, Timing]


def median(samples: Sequence[float]) -> Timing:
    """Median and half of its 95% interval, by order statistics: no distribution is assumed.

    The number of samples below the true median is binomial; source: David, Nagaraja (2003), Order Statistics, 7.1.
    """
    values, n = np.sort(np.asarray(samples, dtype=float)), len(samples)
    below, chance = 0, 0.5**n
    while below < n // 2 and chance <= 0.025:
        below += 1
        chance += math.comb(n, below) * 0.5**n
    low, high = values[max(0, below - 1)], values[n - max(1, below)]
    return Timing(float(np.median(values)), float(high - low) / 2)


def difference(first: Timing, second: Timing) -> Timing:
    """What the first takes more; at least a nanosecond."""
    return Timing(max(1.0, first.nanoseconds - second.nanoseconds), math.hypot(first.half, second.half))


def time_models(
    process: RuntimeProcess, models: Mapping[str, Model], rounds: int, sweep: int = 0, enough: float = ENOUGH
) -> tuple[Timings, dict[str, str]]:
    """Times of networks in turns, and why the runtime refuses others.

    Parameters
    ----------
    rounds : int
        Of all networks; as many more, up to :data:`BLOCKS` times, while an interval is wider than ``enough``.
    sweep : int
        Bytes that are read before every pass.
    """
    refused: dict[str, str] = {}
    loaded: list[str] = []
    for name, model in models.items():
        try:
            process.load(name, model)
            loaded.append(name)
        except RuntimeRefusal as exc:
            refused[name] = str(exc)
    if not loaded:
        return {}, refused
    samples = process.time(loaded, rounds, SECONDS, sweep)
    for _ in range(BLOCKS - 1):
        if all(t.half <= enough * t.nanoseconds for t in map(median, samples)):
            break
        samples = np.hstack([samples, process.time(loaded, rounds, SECONDS, sweep)])
    process.drop(loaded)
    return {name: median(row) for name, row in zip(loaded, samples)}, refused


def machine() -> str:
    """The processor of this machine, and how many cores it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
