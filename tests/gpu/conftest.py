"""One process that computes on the GPU and one that computes on the CPU; skips where there is no GPU.

`make gpu-test` runs the files check_*.py of this folder, which the other tests' names leave out.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

import pytest

from enc_caffe.installation import find_caffe
from enc_caffe.workers.executor import CaffeExecutor


@pytest.fixture(scope="session")
def gpu() -> int:
    """The number of the first GPU."""
    if find_caffe().about.get("cpu_only", False):
        pytest.skip("this Caffe was built for the CPU (CPU_ONLY=OFF make install builds it for GPUs)")
    program = shutil.which("nvidia-smi")
    if (
        program is None
        or subprocess.run([program, "-L"], stdout=subprocess.PIPE, check=False).stdout.count(b"GPU") == 0
    ):
        pytest.skip("nvidia-smi finds no GPU on this machine")
    return 0


@pytest.fixture(scope="session")
def workers(gpu: int) -> Iterator[tuple[CaffeExecutor, CaffeExecutor]]:
    """A process on the GPU, and one on the CPU."""
    with CaffeExecutor(gpus=(gpu,)) as fast, CaffeExecutor(1) as reference:
        yield fast, reference
