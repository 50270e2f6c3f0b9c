"""Workers on several machines through Dask distributed (extra ``cluster``): the executor's interface over a scheduler.

Workers need enc-caffe and Caffe installed, and see the caffemodel and the LMDB under the same paths. One thread a worker
process (``dask worker --nthreads 1``) is best: a net runs one pass at a time.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import os
import time
from concurrent.futures import Future
from typing import Any, Callable, Optional

from enc_caffe.errors import CaffeError, EncError, UsageError

#: Seconds to wait for the scheduler, and for a worker when there is none.
PATIENCE = 10
LOST = 30


def on_worker(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Run a function in a Dask worker, which first learns where its own Caffe is."""
    from enc_caffe.installation import find_caffe
    from enc_caffe.runtime.executor import add_pycaffe

    os.environ.setdefault("GLOG_minloglevel", "2")
    add_pycaffe(str(find_caffe().python_dir))
    return function(*arguments)


class ClusterExecutor:
    """Functions run by the workers of a Dask scheduler.

    Parameters
    ----------
    address : str
        For example ``tcp://host:8786``.

    Raises
    ------
    UsageError
        If Dask distributed is not installed.
    EncError
        If the scheduler does not answer, or has no worker.
    """

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError("--scheduler needs Dask: pip install 'enc-caffe[cluster]'") from None
        # Dask reports every failed connection by itself; the one line below is enough.
        for name in ("distributed", "distributed.client", "distributed.comm", "distributed.scheduler"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            self._client = Client(address, timeout=PATIENCE * 0.8, set_as_default=False)
        except (OSError, ValueError, TypeError) as exc:
            raise EncError(f"--scheduler {address}: does not answer ({str(exc).splitlines()[0]})") from None
        self._address = address
        self._alone: Optional[float] = None
        self.workers = self._count()
        if not self.workers:
            self.close()
            raise EncError(f"--scheduler {address}: has no worker; start some with dask worker {address} --nthreads 1")
        self._pool = self._client.get_executor(pure=False, retries=2)

    def _count(self) -> int:
        try:
            return sum(w["nthreads"] for w in self._client.scheduler_info(n_workers=-1)["workers"].values())
        except TypeError:
            return sum(w["nthreads"] for w in self._client.scheduler_info()["workers"].values())

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run a module-level function in a worker."""
        return self._pool.submit(on_worker, function, arguments)  # type: ignore[no-any-return]

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
