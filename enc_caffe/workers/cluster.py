"""Workers on several machines through Dask distributed (extra ``cluster``): the executor's interface over a scheduler.

Workers need enc-caffe and Caffe installed, and see the caffemodel and the LMDB under the same paths. A Dask worker computes
nothing itself: for each of its threads it starts a process whose BLAS has the kernel and the one thread that workers of this
machine have, so that a result does not depend on who computed it, nor on how ``dask worker`` was started.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import platform
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from enc_caffe.errors import CaffeError, EncError, UsageError
from enc_caffe.workers.blas import (
    CONV,
    OPENBLAS_KERNEL,
    OWN_CODE,
    Arithmetic,
    best_kernel,
    environment,
    kernel_variable,
    wanted_kernel,
)
from enc_caffe.workers.defaults import LIMIT
from enc_caffe.workers.executor import CaffeExecutor

#: Seconds to wait for a scheduler that is there, and for a worker when there is none.
PATIENCE = 60
LOST = 30


@dataclass(frozen=True)
class Wish:
    """What the processes of a Dask worker shall compute with.

    Attributes
    ----------
    kernel : str
        BLAS kernel; empty: the worker's own CPU decides.
    found : Arithmetic, optional
        What the first worker's processes really have: all others must have the same.
    limit : float
        Seconds after which they are taken to hang.
    conv : str
        As ``ENC_CAFFE_CONV`` says it; empty: what the worker's Caffe has.
    """

    kernel: str
    limit: float
    conv: str = ""
    found: Optional[Arithmetic] = None


#: Of a Dask worker: its processes by what they compute with.
_POOLS: dict[tuple[str, float, str], CaffeExecutor] = {}
_LOCK = threading.Lock()


def _pool(wish: Wish) -> CaffeExecutor:
    from distributed import get_worker

    with _LOCK:
        key = (wish.kernel, wish.limit, wish.conv)
        if key not in _POOLS:
            kernel = wish.kernel or best_kernel()
            # Whatever this worker was started with: the command's wish holds, else what the CPU does best.
            with environment({kernel_variable(): kernel or None, CONV: wish.conv or None}):
                _POOLS[key] = CaffeExecutor(get_worker().state.nthreads, limit=wish.limit, kernel=kernel)
        pool = _POOLS[key]
        if wish.found is not None and pool.arithmetic != wish.found:
            raise UsageError(
                f"the Dask worker on {platform.node()} computes by {pool.arithmetic.words()}, others by {wish.found.words()}, and "
                f"results would depend on who computed them; start the command with {kernel_variable()}= a kernel that all their CPUs have"
                + (f", and with {CONV}={OWN_CODE}" if pool.arithmetic.layers != wish.found.layers else "")
            )
        return pool


def on_worker(wish: Wish, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run a function in a process of a Dask worker, which finds its own Caffe."""
    pool = _pool(wish)
    try:
        return pool.result(pool.submit(function, *arguments))
    except CaffeError:
        # Its processes are gone, or hang: the next task gets new ones.
        with _LOCK:
            if _POOLS.get((wish.kernel, wish.limit, wish.conv)) is pool:
                del _POOLS[wish.kernel, wish.limit, wish.conv]
        raise


def arithmetic_of(wish: Wish) -> Arithmetic:
    """What the processes of a Dask worker compute with (in the Dask worker)."""
    return _pool(wish).arithmetic


class ClusterExecutor:
    """Functions run by the workers of a Dask scheduler.

    Parameters
    ----------
    address : str
        For example ``tcp://host:8786``.
    limit : float
        As of :class:`enc_caffe.workers.executor.CaffeExecutor`, for the processes of each Dask worker.

    Raises
    ------
    UsageError
        If Dask distributed is not installed.
    EncError
        If the scheduler does not answer, or has no worker.
    """

    def __init__(self, address: str, limit: float = LIMIT) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError("--scheduler needs Dask: pip install 'enc-caffe[cluster]'") from None
        # Dask reports every failed connection by itself; the one line below is enough.
        for name in ("distributed", "distributed.client", "distributed.comm", "distributed.scheduler"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            _knock(address)
            self._client = Client(address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError) as exc:
            raise EncError(f"--scheduler {address}: does not answer ({str(exc).splitlines()[0]})") from None
        self._address = address
        self._alone: Optional[float] = None
        # Whoever starts workers and then a command should not have to wait in between.
        with contextlib.suppress(TimeoutError, concurrent.futures.TimeoutError):
            self._client.wait_for_workers(1, timeout=PATIENCE)
        self.workers = self._count()
        if not self.workers:
            self.close()
            raise EncError(f"--scheduler {address}: has no worker; start some with dask worker {address} --nthreads 1")
        self._pool = self._client.get_executor(pure=False, retries=2)
        self._wish = Wish(wanted_kernel(), limit, os.environ.get(CONV, ""))
        try:
            self.arithmetic: Arithmetic = self.result(self._pool.submit(arithmetic_of, self._wish))
        except BaseException:
            self.close()
            raise
        # Where the first worker has Caffe's own code only, the others use theirs.
        conv = OWN_CODE if self.arithmetic.layers == OWN_CODE else self._wish.conv
        # A branch that is asked of MKL computes otherwise than the same one by its own choice.
        first = self.arithmetic.kernel if kernel_variable() == OPENBLAS_KERNEL else ""
        self._wish = replace(self._wish, kernel=self._wish.kernel or first, conv=conv, found=self.arithmetic)

    def _count(self) -> int:
        try:
            return sum(w["nthreads"] for w in self._client.scheduler_info(n_workers=-1)["workers"].values())
        except TypeError:
            return sum(w["nthreads"] for w in self._client.scheduler_info()["workers"].values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a module-level function in a worker."""
        return self._pool.submit(on_worker, self._wish, function, arguments)  # type: ignore[no-any-return]

    def result(self, future: Future[Any]) -> Any:
        """A future's result; :class:`CaffeError` where its workers died of it."""
        while not future.done():
            self.check()
            with contextlib.suppress(concurrent.futures.TimeoutError):
                future.exception(timeout=5)
        try:
            return future.result()
        except EncError:
            raise
        except Exception as exc:
            raise CaffeError(
                f"a worker of {self._address} failed: {type(exc).__name__}: {str(exc).splitlines()[0] if str(exc) else ''}"
            ) from None

    def check(self) -> None:
        """Raise :class:`CaffeError` where the scheduler or all of its workers have been gone for a while."""
        if self._client.status == "running" and self._count():
            self._alone = None
            return
        self._alone = self._alone or time.monotonic()
        if time.monotonic() - self._alone > LOST:
            raise CaffeError(
                f"{self._address}: no worker is left; start some, and the same command goes on where it was"
            )

    def close(self) -> None:
        """Leave the scheduler; its workers stay."""
        with contextlib.suppress(Exception):
            self._client.close(timeout=5)

    def __enter__(self) -> ClusterExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens: Dask would try again until its time is over."""
    from distributed.comm import get_address_host_port

    if address.startswith(("tcp://", "tls://")):
        with socket.create_connection(get_address_host_port(address), PATIENCE):
            pass
