"""How Caffe computes: with which kernels and how many threads; sums of floating-point numbers differ by both.

OpenBLAS reads the environment when it is loaded, so both are set before a process that loads Caffe is started.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
from dataclasses import asdict, dataclass
from typing import Any, Iterator, Mapping, Optional

from enc_caffe.installation import CaffeInstallation, find_caffe

OPENBLAS_KERNEL = "OPENBLAS_CORETYPE"
#: MKL's own: the branch of its code that computes on every CPU that has it.
MKL_KERNEL = "MKL_CBWR"
#: ``caffe``: layers by Caffe's own code, whatever else was built in.
CONV = "ENC_CAFFE_CONV"
OWN_CODE = "caffe"
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Arithmetic:
    """What the last digits of a result depend on beside the network and its images.

    Attributes
    ----------
    kernel : str
        OpenBLAS's name of the kernels that compute, MKL's version and the branch of its code, or ``unknown``.
    threads : int
        BLAS threads of one process.
    device : {'cpu', 'gpu'}
    layers : str
        What computes convolutions and large fully connected layers: ``caffe`` (Caffe's own code, and BLAS), or oneDNN with its version
        and the instructions that it uses; on a GPU cuDNN with its version.
    """

    kernel: str
    threads: int
    device: str = "cpu"
    layers: str = OWN_CODE

    def key(self) -> dict[str, Any]:
        """For the store; Caffe's own code is not named, as in results of before there was another."""
        return {k: v for k, v in asdict(self).items() if k != "layers" or v != OWN_CODE}

    def words(self) -> str:
        """For a person."""
        number = f"{self.threads} BLAS thread{'s' if self.threads != 1 else ''}"
        layers = "" if self.layers == OWN_CODE else f"layers by {self.layers}, "
        return f"{self.device.upper()}, {layers}BLAS kernel {self.kernel}, {number} a process"


def kernel_variable() -> str:
    """The variable that names the kernels of the BLAS that Caffe was built with."""
    return MKL_KERNEL if find_caffe().about.get("blas") == "mkl" else OPENBLAS_KERNEL


@functools.cache
def best_kernel() -> str:
    """OPENBLAS_CORETYPE for this CPU, or an empty string where the library's own choice is best or unknown, as MKL's is."""
    tool = find_caffe().kernel_tool
    if tool is None:
        return ""
    done = subprocess.run([str(tool)], stdout=subprocess.PIPE, check=False)
    return done.stdout.decode().strip()


def wanted_kernel() -> str:
    """The kernel that processes are started with: the user's, else the best one; empty: the library chooses."""
    return os.environ.get(kernel_variable()) or best_kernel()


def blas_environment(threads: Optional[int] = None, kernel: str = "") -> dict[str, str]:
    """Variables to add when a process that loads Caffe is started; what the user has set stays.

    Parameters
    ----------
    threads : int, optional
        BLAS threads of that process; without it the library decides.
    kernel : str
        Its kernel, whatever the user has set; without it the user's, else :func:`best_kernel`.
    """
    env, variable = {}, kernel_variable()
    if kernel:
        env[variable] = kernel
    elif variable not in os.environ and best_kernel():
        env[variable] = best_kernel()
    if threads is not None:
        env.update({name: str(threads) for name in _THREADS})
    return env


@contextlib.contextmanager
def environment(values: Mapping[str, Optional[str]]) -> Iterator[None]:
    """These variables (None: without them), and afterwards those of before."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, Optional[str]]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def blas_library(caffe: CaffeInstallation) -> Optional[str]:
    """Path of the BLAS that Caffe is linked with."""
    modules = sorted((caffe.python_dir / "caffe").glob("_caffe*.so"))
    if not modules:
        return None
    listing = subprocess.run(["ldd", str(modules[0])], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return blas_in(listing.stdout.decode())


def blas_in(listing: str) -> Optional[str]:
    """The BLAS of the CPU in what ``ldd`` prints; a Caffe for GPUs is linked with cuBLAS too."""
    for line in listing.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if ("blas" in name or "mkl_rt" in name) and not name.startswith("libcublas") and rest.startswith("/"):
            return rest.split(" ")[0]
    return None


def arithmetic(device: str = "cpu") -> Arithmetic:
    """What Caffe really computes with in this process, asked of the libraries themselves (in a worker)."""
    from enc_caffe.workers.pycaffe import layer_kernels

    layers = layer_kernels(device)
    threads = int(os.environ.get(_THREADS[0]) or 0)
    path = blas_library(find_caffe())
    if path is None:
        return Arithmetic("unknown", threads, device, layers)
    try:
        library = ctypes.CDLL(path)
        if "mkl" in path:
            return Arithmetic(mkl_kernel(library), int(library.MKL_Get_Max_Threads()), device, layers)
        library.openblas_get_corename.restype = ctypes.c_char_p
        kernel, threads = library.openblas_get_corename().decode(), int(library.openblas_get_num_threads())
    except (OSError, AttributeError):
        kernel = "unknown"
    return Arithmetic(kernel, threads, device, layers)


class _MklVersion(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int) for n in ("major", "minor", "update")] + [
        (n, ctypes.c_char_p) for n in ("status", "build", "processor", "platform")
    ]


#: What MKL calls the branches of its code, by their numbers in its headers.
_BRANCHES = {
    3: "COMPATIBLE", 4: "SSE2", 6: "SSSE3", 7: "SSE4_1", 8: "SSE4_2", 9: "AVX", 10: "AVX2", 11: "AVX512_MIC", 12: "AVX512",
    13: "AVX512_MIC_E1", 14: "AVX512_E1", 15: "AVX10",
}  # fmt: skip


def mkl_kernel(library: Any) -> str:
    """Version and branch of MKL's code; ``fixed`` where MKL_CBWR names the branch, which sums in an order of its own."""
    version, everything = _MklVersion(), -1
    library.MKL_Get_Version(ctypes.byref(version))
    fixed, own = int(library.MKL_CBWR_Get(everything)), int(library.MKL_CBWR_Get_Auto_Branch())
    # The low half is the branch, the bit above says that even the ends of arrays are summed alike; 1 is none, 2 the CPU's own.
    asked, strict = fixed & 0xFFFF, " strict" if fixed >> 16 else ""
    branch = asked if asked > 2 else own
    name = _BRANCHES.get(branch, f"branch {branch}")
    words = f"mkl {version.major}.{version.minor}.{version.update} {name}"
    return f"{words} fixed{strict}" if asked > 1 else words
