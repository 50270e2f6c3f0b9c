"""Processes that load Caffe. A failed CHECK aborts the whole process that Caffe runs in, so it runs in one of its own."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import tempfile
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Callable, Iterator, Optional, Protocol, Sequence

from enc_caffe.errors import CaffeError
from enc_caffe.extensions import load_extensions
from enc_caffe.installation import find_caffe
from enc_caffe.workers.blas import Arithmetic, arithmetic, blas_environment, environment
from enc_caffe.workers.defaults import LIMIT

#: Seconds between two looks beyond which this process itself was stopped; its workers may have been too.
PAUSE = 60.0
ADVICE = "; the same command goes on where it was (commands that measure wait longer with --task_limit MINUTES)"
#: Number of the GPU of this worker; without it the CPU computes.
DEVICE = "ENC_CAFFE_DEVICE"
#: In a worker: where it tells the time of its last sign of life, which all workers of a pool share.
_BEAT: Any = None
#: In a worker: where the workers of a pool wait for each other when they start.
_START: Any = None
_GLOG = re.compile(r"^[FE]\d{4,8} [\d:.]+\s+\d+ (\S+?:\d+)\] (.*)$")
#: What can be done about what Caffe says.
_REMEDIES = {
    "Cannot use GPU in CPU-only Caffe": "leave --gpu out, or build Caffe for GPUs: CPU_ONLY=OFF make install",
    "invalid device ordinal": "there is no such GPU; nvidia-smi lists them",
    "no CUDA-capable device": "there is no GPU; leave --gpu out",
}

#: What a program that is no Python says of an exception in a Python layer.
_PYTHON = "boost::python::error_already_set"


def last_words(log: str) -> str:
    """Caffe's own last line: a Python layer's exception, else the message of the last fatal glog line, else the last line; and what can be
    done, where that is known.
    """
    said = _last_line(log)
    return "; ".join([said, *(remedy for words, remedy in _REMEDIES.items() if words in said)])


def _last_line(log: str) -> str:
    # What glog says of a crash are addresses.
    lines = [x for x in log.splitlines() if x.strip() and not x.lstrip().startswith(("***", "PC: @", "@"))]
    for before, line in zip(lines, lines[1:]):
        # The exception of a Python layer stands before what C++ says of it.
        if _PYTHON in line:
            return before.strip()
    for line in reversed(lines):
        match = _GLOG.match(line)
        if match and line[0] == "F":
            return f"{match.group(2)} ({match.group(1)})"
    for line in reversed(lines):
        match = _GLOG.match(line)
        if match:
            return f"{match.group(2)} ({match.group(1)})"
    return lines[-1].strip() if lines else "no message"


def beat() -> None:
    """Tell whoever waits for this worker that it gets on; nothing in other processes."""
    if _BEAT is not None:
        _BEAT.value = time.monotonic()


def _meet() -> int:
    _START.wait()
    return os.getpid()


def _start(log: str, python_dir: str, quiet: bool, devices: Any, heart: Any, start: Any) -> None:
    global _BEAT, _START
    _BEAT, _START = heart, start
    # Caffe writes to descriptor 2 itself, so the descriptor is redirected, not sys.stderr.
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if quiet:
        os.environ["GLOG_MINLOGLEVEL"] = "2"
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if devices is not None:
        os.environ[DEVICE] = str(devices.get())
    add_pycaffe(python_dir)
    load_extensions()


def _end_with_parent() -> None:
    # A parent that is killed cannot stop its workers: without this they would wait for tasks for ever.
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def add_pycaffe(python_dir: str) -> None:
    """Let this process import pycaffe."""
    if python_dir not in sys.path:
        sys.path.insert(0, python_dir)


class Executor(Protocol):
    """Runs functions in processes that may load Caffe."""

    workers: int

    @property
    def arithmetic(self) -> Arithmetic:
        """What its processes compute with: part of what results depend on."""

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Start a function."""

    def result(self, future: Future[Any]) -> Any:
        """Its result, or an EncError that says why its process stopped."""


def alive(executor: Executor) -> list[Future[Any]]:
    """Nothing, or an EncError where the executor knows that no result will come any more."""
    check = getattr(executor, "check", None)
    if check is not None:
        check()
    return []


def run_all(
    executor: Executor, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], sizes: Sequence[int],
    progress: Callable[[int, int], None] = lambda done, all_: None, fold: Optional[Callable[[Any, Any], Any]] = None,
) -> list[Any]:  # fmt: skip
    """Results of a function for all jobs, in their order; progress counts sizes.

    With ``fold`` one result: theirs put together from the first to the last, each as soon as it can be, so that large ones
    are not all held at once.
    """
    results: list[Any] = [None] * len(jobs)
    total, done, todo, folded = sum(sizes), 0, list(range(len(jobs)))[::-1], 1
    arrived: set[int] = set()
    waiting: dict[Future[Any], int] = {}
    progress(0, total)
    try:
        while todo or waiting:
            while todo and len(waiting) < executor.workers:
                at = todo.pop()
                waiting[executor.submit(function, *jobs[at])] = at
            for future in wait(waiting, timeout=5, return_when=FIRST_COMPLETED).done or alive(executor):
                at = waiting.pop(future)
                results[at] = executor.result(future)
                arrived.add(at)
                done += sizes[at]
                progress(done, total)
            while fold is not None and 0 in arrived and folded in arrived:
                results[0], results[folded] = fold(results[0], results[folded]), None
                folded += 1
    finally:
        for future in waiting:
            future.cancel()
    return results[:1] if fold is not None else results


class CaffeExecutor:
    """A ``concurrent.futures`` pool whose workers may load Caffe; what kills a worker becomes a CaffeError.

    Parameters
    ----------
    workers : int
    threads : int
        BLAS threads of each worker. More than one makes sums that differ in the last digits with their number.
    gpus : sequence of int
        One worker for each of these devices, instead of ``workers`` on the CPU.
    limit : float
        Seconds without any result or other sign of life after which the workers are stopped; 0 for none.
    advice : str
        What to do then.
    kernel : str
        BLAS kernel of the workers; without it the user's choice, else the CPU's best.
    of_main : bool
        Whether functions of the program's own file will be run. Otherwise workers do not import it: a script that calls this package in its
        first lines, and not behind ``if __name__ == "__main__"``, would begin once more in each of them.
    """

    def __init__(
        self, workers: int = 1, threads: int = 1, gpus: Sequence[int] = (), limit: float = LIMIT, advice: str = ADVICE,
        kernel: str = "", of_main: bool = False,
    ) -> None:  # fmt: skip
        self.workers, self._device = len(gpus) or workers, "gpu" if gpus else "cpu"
        self._limit, self._advice, self._waiting, self._counting = LIMIT, advice, 0, threading.Lock()
        self._heard = self._looked = time.monotonic()
        self._folder = tempfile.TemporaryDirectory(prefix="enc-caffe-")
        self._log = Path(self._folder.name) / "caffe.log"
        with (
            environment({**blas_environment(threads, kernel), "GLOG_logtostderr": "1"}),
            _allowed_children(),
            _main_file(of_main),
        ):
            context = multiprocessing.get_context("spawn")
            devices = context.Queue() if gpus else None
            self._beat = context.Value("d", 0.0, lock=False)
            for gpu in gpus:
                devices.put(gpu)  # type: ignore[union-attr]
            self._pool = ProcessPoolExecutor(
                self.workers, context, _start, (str(self._log), str(find_caffe().python_dir), True, devices, self._beat, context.Barrier(self.workers)),
            )  # fmt: skip
            # A pool starts a worker when a task finds none idle; all must inherit this environment, so each waits for the others.
            for future in [self.submit(_meet) for _ in range(self.workers)]:
                self.result(future)
        # Starting may take longer than a task that gets on.
        self._limit = limit

    @functools.cached_property
    def arithmetic(self) -> Arithmetic:
        """What the workers compute with, by what one of them finds."""
        return self.result(self.submit(arithmetic, self._device))  # type: ignore[no-any-return]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a module-level function in a worker; :class:`CaffeError` where one died before."""
        if not self._waiting:
            self._heard = self._looked = time.monotonic()
        try:
            future = self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            # A worker died after the last result that was asked for.
            raise self._stopped() from None
        with self._counting:
            self._waiting += 1
        future.add_done_callback(self._hear)
        return future

    def _hear(self, future: Future[Any]) -> None:
        # In a thread of the pool.
        with self._counting:
            self._waiting -= 1
        self._heard = time.monotonic()

    def check(self) -> None:
        """Stop the workers, and raise :class:`CaffeError`, where nothing has come from them for too long."""
        now = time.monotonic()
        if now - self._looked > PAUSE:
            self._heard = now
        self._looked = now
        if not self._limit or not self._waiting or now - max(self._heard, self._beat.value) < self._limit:
            return
        for process in list(self._pool._processes.values()):
            process.kill()
        raise CaffeError(
            f"Caffe hangs: no sign of life for {self._limit / 60:g} minutes, so its {self.workers} worker(s) were stopped{self._advice}"
        )

    def result(self, future: Future[Any]) -> Any:
        """A future's result; :class:`CaffeError` with Caffe's last line if its process died, or where it hangs."""
        while self._limit and not wait([future], timeout=min(5.0, self._limit)).done:
            self.check()
        try:
            return future.result()
        except BrokenProcessPool:
            raise self._stopped() from None

    def _stopped(self) -> CaffeError:
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        return CaffeError(f"Caffe stopped: {last_words(log) if log.strip() else 'its process was killed'}")

    def close(self) -> None:
        """Stop the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._folder.cleanup()

    def __enter__(self) -> CaffeExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _main_file(imported: bool) -> Iterator[None]:
    """Processes that are started inside import the program's file, or not."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {}
    if not imported:
        # What multiprocessing finds the file by (``spawn.get_preparation_data``).
        kept = {name: main[name] for name in ("__spec__", "__file__") if name in main}
        main.update(dict.fromkeys(kept))
    try:
        yield
    finally:
        main.update(kept)


@contextlib.contextmanager
def _allowed_children() -> Iterator[None]:
    # Dask's nanny makes its workers daemonic, and such a process may have no children, since nobody would end them. Ours
    # end with their parent by themselves.
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    daemon = config.pop("daemon", None)
    try:
        yield
    finally:
        if daemon is not None:
            config["daemon"] = daemon
