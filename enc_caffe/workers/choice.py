"""Where Caffe runs: processes on this machine, on its GPUs, or the workers of a scheduler."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import Any, Union

from enc_caffe.errors import UsageError
from enc_caffe.workers.cluster import ClusterExecutor
from enc_caffe.workers.defaults import LIMIT
from enc_caffe.workers.executor import CaffeExecutor


@dataclass(frozen=True)
class Workers:
    """Where Caffe runs: processes on this machine, on its GPUs, or the workers of a Dask scheduler.

    Attributes
    ----------
    number : int
        Processes on the CPU, with one BLAS thread each: sums by several threads differ in the last digits with their number.
    gpus : str
        ``0,1`` or ``all``: one process for each device.
    scheduler : str
        ``tcp://host:8786``.
    limit : float
        Seconds without any result after which this machine's workers are taken to hang; 0 for none.
    """

    number: int = 1
    gpus: str = ""
    scheduler: str = ""
    limit: float = LIMIT

    def executor(self) -> Any:
        """The executor, a context manager.

        Raises
        ------
        UsageError
            For numbers that make no sense, or where GPUs are asked for and none is there.
        EncError
            If the scheduler does not answer.
        """
        if self.scheduler:
            return ClusterExecutor(self.scheduler, self.limit)
        if self.gpus:
            return CaffeExecutor(gpus=devices(self.gpus), limit=self.limit)
        if self.number < 1:
            raise UsageError(f"--workers {self.number}: 1 or more are needed")
        return CaffeExecutor(self.number, limit=self.limit)

    def training_gpu(self) -> str:
        """The first of the GPUs, which ``caffe train`` takes; empty where workers run on the CPU. Several would want a Caffe with NCCL."""
        return str(devices(self.gpus)[0]) if self.gpus and not self.scheduler else ""


def workers_of(given: Union[int, Workers, None]) -> Workers:
    """What a caller says of workers: their number, or all of it; one process where nothing is said.

    Raises
    ------
    UsageError
        If it is neither.
    """
    if isinstance(given, Workers):
        return given
    if given is None:
        return Workers()
    if not isinstance(given, int) or isinstance(given, bool) or given < 1:
        raise UsageError(
            f"workers {given!r}: a number of processes of 1 or more is needed, or enc_caffe.workers.choice.Workers"
        )
    return Workers(given)


def devices(text: str) -> tuple[int, ...]:
    """Numbers of GPUs from ``0,1`` or ``all``."""
    if text == "all":
        try:
            done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            raise UsageError("--gpu all: nvidia-smi finds no GPU on this machine") from None
        return tuple(range(len(done.stdout.strip().splitlines())))
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0 or len(set(numbers)) != len(numbers):
        raise UsageError(f"--gpu {text}: device numbers such as 0,1 or all are needed")
    return numbers
