"""What a search by evaluation costs, also where the store knew some of its results before."""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from pathlib import Path
from typing import Callable, Mapping

from enc_caffe.errors import OutputError
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.form import Form
from enc_caffe.measuring.store import digest_of

FORMAT = "enc-caffe-seconds/1"


def cpu_seconds() -> float:
    """Processor time of this process and of its workers that live: what else the machine does is no part of it.

    Where the system does not tell the workers', it is the time of the clock.
    """
    total, tick = time.process_time(), os.sysconf("SC_CLK_TCK")
    try:
        tasks = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    except OSError:
        return time.perf_counter()
    for pid in {pid for children in tasks for pid in children}:
        # It may have ended meanwhile.
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


class Timed:
    """An accuracy of plans that keeps the processor time of each evaluation, in a file that outlives an interruption.

    What comes from the store and was timed by nobody counts as the median of what was timed, so that a method does not
    seem fast because another one evaluated its plans.

    Parameters
    ----------
    accuracy : callable of a plan's forms
        Whoever makes it calls :meth:`measuring` while images are run.
    path : Path
    """

    def __init__(self, accuracy: Callable[[Mapping[str, Form]], float], path: Path) -> None:
        self._accuracy, self._path = accuracy, path
        self._known: dict[str, float] = {}
        if path.is_file():
            try:
                self._known = dict(read_json(path, FORMAT, OutputError)["seconds"])
            except (OutputError, KeyError, TypeError):
                self._known = {}
        self._asked: dict[str, None] = {}
        self._inside, self._started = 0.0, cpu_seconds()
        self._real = False

    def begin(self) -> None:
        """Another search begins."""
        self._asked, self._inside, self._started = {}, 0.0, cpu_seconds()

    def measuring(self) -> None:
        """Images are run: the present answer does not come from the store."""
        self._real = True

    def __call__(self, forms: Mapping[str, Form]) -> float:
        """The accuracy."""
        start, self._real = cpu_seconds(), False
        value = self._accuracy(forms)
        took = cpu_seconds() - start
        self._inside += took
        name = digest_of({n: str(f) for n, f in forms.items()})
        self._asked[name] = None
        if self._real and name not in self._known:
            self._known[name] = took
            write_json(self._path, {"format": FORMAT, "seconds": self._known})
        return value

    def ended(self) -> tuple[int, float]:
        """Networks that the search evaluated, and the processor time that all of it takes where nothing is known before."""
        own = cpu_seconds() - self._started - self._inside
        usual = statistics.median(self._known.values()) if self._known else 0.0
        return len(self._asked), own + sum(self._known.get(name, usual) for name in self._asked)
