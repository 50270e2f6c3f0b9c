"""The environment that makes Caffe's BLAS use the CPU's best kernels and the wanted number of threads."""

from __future__ import annotations

import functools
import os
import subprocess
from typing import Optional

from enc_caffe.installation import find_caffe

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@functools.cache
def best_kernel() -> str:
    """OPENBLAS_CORETYPE for this CPU, or an empty string where the library's own choice is best or unknown."""
    tool = find_caffe().kernel_tool
    if tool is None:
        return ""
    done = subprocess.run([str(tool)], stdout=subprocess.PIPE, check=False)
    return done.stdout.decode().strip()


def blas_environment(threads: Optional[int] = None) -> dict[str, str]:
    """Variables to add when a process that loads Caffe is started; what the user has set stays.

    Parameters
    ----------
    threads : int, optional
        BLAS threads of that process; without it the library decides.
    """
    env = {}
    if "OPENBLAS_CORETYPE" not in os.environ and best_kernel():
        env["OPENBLAS_CORETYPE"] = best_kernel()
    if threads is not None:
        env.update({name: str(threads) for name in _THREADS})
    return env
