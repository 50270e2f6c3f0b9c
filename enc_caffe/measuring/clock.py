"""Times of networks in a runtime: medians over interleaved rounds, with intervals."""

from __future__ import annotations

import math
import platform
import tempfile
from pathlib import Path
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.errors import NetworkError, RuntimeRefusal
from enc_caffe.measuring.contexts import random_model
from enc_caffe.measuring.store import ResultStore, digest_of
from enc_caffe.runtimes.process import Model, RuntimeProcess

#: Turns of every network, at least.
ROUNDS = 15
#: Seconds of one network's turn in a round.
SECONDS = 0.003
#: Half the interval, as a part of the time, at which enough rounds were measured; and how often as many more are.
ENOUGH, BLOCKS = 0.02, 3
#: How often networks are loaded, where the weights of all of them take no more bytes: the same ResNet-56 takes 5% more or less (a standard
#: deviation) from one load to the next, as its memory lies, and a layer's context 7%. No number of rounds says so.
LOADS, LIGHT = 3, 1 << 25


class Timing(NamedTuple):
    """Nanoseconds of a pass: the median of the rounds, and half its 95% interval."""

    nanoseconds: float
    half: float

    def words(self) -> str:
        """For a person."""
        return f"{self.nanoseconds / 1e6:.4g} ms, give or take {self.half / 1e6:.2g}"


Timings = dict[str, Timing]


def median(samples: Sequence[float] | np.ndarray) -> Timing:
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


def difference(first: Timing, second: Timing, copies: int = 1) -> Timing:
    """What the first takes more, for each of so many; at least a nanosecond."""
    more, half = first.nanoseconds - second.nanoseconds, math.hypot(first.half, second.half)
    return Timing(max(1.0, more / copies), half / copies)


def time_models(
    process: RuntimeProcess,
    models: Mapping[str, Model],
    rounds: int,
    sweep: int = 0,
    enough: float = ENOUGH,
    what: str = "the network",
    loads: int = 1,
) -> tuple[Timings, dict[str, str]]:
    """Times of networks in turns, and why the runtime refuses others.

    Parameters
    ----------
    rounds : int
        Of all networks; as many more, up to :data:`BLOCKS` times, while an interval is wider than ``enough``.
    sweep : int
        Bytes that are read before every pass.
    what : str
        What the networks are of, for a person who waits.
    loads : int
        How often networks are loaded that have :data:`LIGHT` bytes of weights at most together; their rounds count together.
    """
    process.subject = what
    refused = process.load_all(models)
    loaded = [name for name in models if name not in refused]
    owners = list(loaded)
    light = sum(models[name].caffemodel.stat().st_size for name in loaded) <= LIGHT
    for at in range(2, loads + 1 if light else 2):
        # All of them in their order: what was converted together is loaded together.
        again = {f"{name} {at}": name for name in models if name not in refused}
        failed = process.load_all({n: models[name] for n, name in again.items()})
        loaded += [n for n in again if n not in failed]
        owners += [name for n, name in again.items() if n not in failed]
    if not loaded:
        return {}, refused

    def together() -> Timings:
        return {
            n: median(np.concatenate([row for o, row in zip(owners, samples) if o == n])) for n in dict.fromkeys(owners)
        }

    try:
        samples = process.time(loaded, rounds, SECONDS, sweep)
        for _ in range(BLOCKS - 1):
            if all(t.half <= enough * t.nanoseconds for t in together().values()):
                break
            samples = np.hstack([samples, process.time(loaded, rounds, SECONDS, sweep)])
    finally:
        # Their files may be gone when a process that ended is started again.
        process.drop(loaded)
    return together(), refused


class Timer:
    """Times networks of random weights in a runtime's process, and remembers them.

    Parameters
    ----------
    process : RuntimeProcess
    batch : int
    store : ResultStore, optional
        Keeps what was measured, so that the same command goes on where it was.
    rounds : int
        Turns of every network, at least.
    notice : callable of a line that a person should read
        Hears of what the runtime refuses.
    again : bool
        Measure what is in the store too.
    enough : float
        Half the interval, as a part of the time, at which no more rounds are measured.
    """

    def __init__(
        self, process: RuntimeProcess, batch: int = 1, store: Optional[ResultStore] = None, rounds: int = ROUNDS,
        notice: Callable[[str], None] = lambda line: None, again: bool = False, enough: float = ENOUGH,
    ) -> None:  # fmt: skip
        self._process, self._store, self._rounds, self._notice = process, store, rounds, notice
        self._enough = enough
        self.runtime, self._again = process.runtime, again
        self.about: dict[str, Any] = {
            "runtime": process.runtime.name, "version": process.version, "machine": machine(), "threads": process.threads,
        }  # fmt: skip
        words = {"network": f"times in {process.runtime.name} {process.version}", "metric": "latency"}
        key = {"latency": 2, **self.about, "batch": batch, "rounds": rounds, "enough": enough}
        self._context = store.context(words, key) if store is not None else ""

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> Timings:
        """Times by name; of what the runtime refuses there is none, and it is said."""
        # A network without a sweep is a whole one. Of many layers the rounds are shared by the loads.
        loads = LOADS if self.runtime.reloads or not sweep else 1
        rounds = -(-self._rounds // loads) if sweep else self._rounds
        key = digest_of([{n: to_text(p) for n, p in nets.items()}, sweep, loads])
        if self._store is not None and not self._again:
            stored = self._store.known(self._context).get((key, 0, 0))
            if stored is not None:
                return {n: Timing(*v) for n, v in stored.items()}
        with tempfile.TemporaryDirectory(prefix="enc-caffe-nets-") as folder:
            models, refused = {}, {}
            for at, (name, param) in enumerate(nets.items()):
                try:
                    models[name] = random_model(param, Path(folder), f"net{at}")
                except NetworkError as exc:
                    refused[name] = str(exc)
            try:
                found, more = time_models(self._process, models, rounds, sweep, self._enough, what, loads)
            except RuntimeRefusal as exc:
                # Not kept: the next run may have more luck.
                self._notice(f"{what} is left out: {exc}")
                return {}
        why = {**refused, **more}
        for reason in dict.fromkeys(why.values()):
            names = ", ".join(name for name, own in why.items() if own == reason)
            self._notice(f"{self._process.runtime.name} does not take {what} as {names}, which is left out: {reason}")
        if self._store is not None:
            self._store.put(self._context, 0, 0, {key: {n: list(t) for n, t in found.items()}})
        return found


def machine() -> str:
    """The processor of this machine, and how many cores it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()
