"""Measure which OpenBLAS kernels are fastest on this CPU, and keep the answer beside Caffe's installation.

Usage: measure_blas.py PREFIX. Every core type runs in a process of its own, since OpenBLAS chooses once.
"""

import os
import subprocess
import sys
from pathlib import Path

# A core type must win by this factor before it replaces the library's own choice: timings on shared machines differ
# from run to run by a few percent.
MARGIN = 1.15

TIMER = """
import ctypes, sys, time
lib = ctypes.CDLL(sys.argv[1])
size = [64, 64, 576]
buffers = [(ctypes.c_float * (576 * 576))(*([0.5] * (576 * 576))) for _ in range(3)]
def run(m, n, k):
    lib.cblas_sgemm(101, 111, 111, m, n, k, ctypes.c_float(1), buffers[0], k, buffers[1], n, ctypes.c_float(0),
                    buffers[2], n)
best = 0
for _ in range(15):
    run(*size)
    start = time.perf_counter()
    for _ in range(200):
        run(*size)
    best = max(best, 2e-9 * 200 * 64 * 64 * 576 / (time.perf_counter() - start))
print(best)
"""


def gflops(library: str, core: str) -> float:
    """GFLOP/s of a 64x64x576 product on one core; 0 where the core type crashes on this CPU."""
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    env.pop("OPENBLAS_CORETYPE", None)
    if core:
        env["OPENBLAS_CORETYPE"] = core
    done = subprocess.run(
        [sys.executable, "-c", TIMER, library], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    return float(done.stdout) if done.returncode == 0 else 0.0


def blas_in(listing: str) -> str:
    """The BLAS of the CPU in what ``ldd`` prints (a Caffe for GPUs is linked with cuBLAS too); empty: there is none."""
    for line in listing.splitlines():
        name, _, rest = line.strip().partition(" => ")
        if ("blas" in name or "mkl_rt" in name) and not name.startswith("libcublas") and rest.startswith("/"):
            return rest.split(" ")[0]
    return ""


def blas_library(prefix: Path) -> str:
    """The BLAS that libcaffe.so is linked with, as the loader finds it."""
    listing = subprocess.run(["ldd", str(prefix / "lib" / "libcaffe.so")], stdout=subprocess.PIPE, check=True)
    found = blas_in(listing.stdout.decode())
    if found:
        return found
    raise SystemExit(f"{prefix}/lib/libcaffe.so is linked with no BLAS that is known here")


def main() -> None:
    prefix = Path(sys.argv[1])
    library = blas_library(prefix)
    if "openblas" not in os.path.realpath(library) and "blas" not in library:
        return
    flags = Path("/proc/cpuinfo").read_text() if os.path.exists("/proc/cpuinfo") else ""
    candidates = [c for c, f in (("SkylakeX", "avx512bw"), ("Haswell", "avx2")) if f in flags]
    own = gflops(library, "")
    speeds = {core: gflops(library, core) for core in candidates}
    best = max(speeds, key=speeds.__getitem__, default="")
    choice = best if best and speeds[best] > MARGIN * own else ""
    identity = subprocess.run([str(prefix / "bin" / "blas-kernel"), "--id"], stdout=subprocess.PIPE, check=True)
    folder = prefix / "share" / "enc-caffe" / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / identity.stdout.decode().strip()).write_text(choice + "\n" if choice else "")
    shown = ", ".join(f"{core} {speed:.0f}" for core, speed in speeds.items())
    print(f"BLAS kernels: own choice {own:.0f} GFLOP/s, {shown}; using {choice or 'its own choice'}")


if __name__ == "__main__":
    main()
