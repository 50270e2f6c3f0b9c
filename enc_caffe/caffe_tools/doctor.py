"""What is installed and how fast it is, as plain findings."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Mapping

from enc_caffe import __version__
from enc_caffe.errors import EncError
from enc_caffe.installation import CaffeInstallation, find_caffe
from enc_caffe.workers.blas import OWN_CODE, best_kernel, blas_environment, blas_library
from enc_caffe.workers.kernels import conv_speed

# A core with AVX2 does more than this with good kernels; SSE3 kernels stay below.
SLOW_GFLOPS = 40.0

_TIMER = """
import ctypes, sys, time
lib = ctypes.CDLL(sys.argv[1])
def name():
    try:
        lib.openblas_get_corename.restype = ctypes.c_char_p
        return lib.openblas_get_corename().decode()
    except AttributeError:
        return "chosen by the library"
def speed(m, n, k):
    a, b, c = ((ctypes.c_float * s)(*([0.5] * s)) for s in (m * k, k * n, m * n))
    repeat, best = max(1, int(2e8 / (m * n * k))), 0
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(repeat):
            lib.cblas_sgemm(101, 111, 111, m, n, k, ctypes.c_float(1), a, k, b, n, ctypes.c_float(0), c, n)
        best = max(best, 2e-9 * repeat * m * n * k / (time.perf_counter() - start))
    return best
print(name(), round(speed(64, 64, 576), 1), round(speed(512, 512, 512), 1), sep="|")
"""


@dataclass(frozen=True)
class Finding:
    """One line of the report; status is ok, slow or missing."""

    status: str
    what: str
    found: str
    advice: str = ""


def collect() -> list[Finding]:
    """All findings; never raises for something that is missing."""
    found = [
        Finding("ok", "enc-caffe", __version__),
        Finding("ok", "Python", f"{platform.python_version()} ({sys.executable})"),
    ]
    for package in ("numpy", "scipy", "protobuf", "lmdb", "opencv-python-headless", "rich"):
        try:
            found.append(Finding("ok", package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding("missing", package, "not installed", f"pip install {package}"))
    try:
        caffe = find_caffe()
    except EncError as exc:
        found.append(Finding("missing", "Caffe", "not found", str(exc)))
    else:
        found += _caffe(caffe)
    found.append(_gpus())
    cache = Path(
        os.environ.get("ENC_CAFFE_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enc-caffe"
    )
    place = cache if cache.exists() else Path.home()
    free = shutil.disk_usage(place).free / 2**30
    found.append(
        Finding(
            "ok" if free > 2 else "slow",
            "cache",
            f"{cache}, {free:.0f} GiB free",
            "" if free > 2 else "a build of Caffe needs about 1 GiB",
        )
    )
    return found


def _caffe(caffe: CaffeInstallation) -> list[Finding]:
    about = caffe.about
    build = (
        f", commit {str(about['commit'])[:7]} from {about['origin']}, BLAS {about['blas']}{_cuda(about)}"
        if about
        else ""
    )
    slow = bool(about.get("cuda")) and not about.get("cudnn")
    advice = "USE_CUDNN=ON make install takes cuDNN, by which GPUs train tens of times as fast" if slow else ""
    found = [Finding("slow" if slow else "ok", "Caffe", caffe.origin + build, advice)]
    missing = [t for t in ("caffe", "convert_imageset", "compute_image_mean") if t not in caffe.tools]
    found.append(
        Finding("missing", "Caffe's programs", f"without {', '.join(missing)}", "make caffe")
        if missing else Finding("ok", "Caffe's programs", ", ".join(caffe.tools))
    )  # fmt: skip
    check = subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import caffe; print(caffe.__version__)", str(caffe.python_dir)],
        capture_output=True, check=False, env={**os.environ, **blas_environment()},
    )  # fmt: skip
    if check.returncode:
        last = (check.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        found.append(Finding("missing", "import caffe", last, "make caffe builds it again for this Python"))
    else:
        found.append(Finding("ok", "import caffe", f"version {check.stdout.decode().strip()}"))
    return found + _blas(caffe) + _layers(caffe)


def _cuda(about: Mapping[str, object]) -> str:
    """What a build for GPUs was made with; empty for one that has the CPU alone."""
    if not about.get("cuda"):
        return ""
    return f", CUDA {about['cuda']}, {'cuDNN ' + str(about['cudnn']) if about.get('cudnn') else 'no cuDNN'}"


def _blas(caffe: CaffeInstallation) -> list[Finding]:
    library = blas_library(caffe)
    if library is None:
        return [Finding("missing", "BLAS", "the library that Caffe is linked with was not found")]
    ours, own = (
        _speed(library, blas_environment(1)),
        _speed(library, {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}),
    )
    if ours is None or own is None:
        return [Finding("missing", "BLAS", f"{library} could not be measured")]
    kernel, small, large = ours
    slow = small < SLOW_GFLOPS
    advice = "try ENC_CAFFE_BLAS=mkl make caffe, or OPENBLAS_CORETYPE=Haswell" if slow else ""
    text = f"{library}, kernel {kernel}: {small} GFLOP/s at 64x64x576, {large} at 512x512x512 (one core)"
    chosen = best_kernel()
    text += f"; the library's own choice {own[0]}: {own[1]} and {own[2]}" if chosen else ", the library's own choice"
    return [Finding("slow" if slow else "ok", "BLAS", text, advice)]


def _layers(caffe: CaffeInstallation) -> list[Finding]:
    """What computes the layers, beside Caffe's own code."""
    ours = conv_speed(caffe)
    if ours is None:
        return [Finding("missing", "layers", "a convolution could not be run", "make caffe builds Caffe again")]
    kernels, dense, depthwise = ours
    text = f"{'by Caffe itself' if kernels == OWN_CODE else kernels}: {dense} GFLOP/s, depthwise {depthwise} (3x3, 64 channels, 28x28, one core)"
    if kernels == OWN_CODE:
        switched_off = caffe.about.get("conv", OWN_CODE) != OWN_CODE
        advice = (
            "ENC_CAFFE_CONV is set to caffe" if switched_off else "make caffe builds it with oneDNN, which is faster"
        )
        return [Finding("slow", "layers", text, advice)]
    own = conv_speed(caffe, own_code=True)
    if own is not None:
        text += f"; by Caffe's own code {own[1]} and {own[2]}"
    portable = kernels.endswith("portable")
    return [
        Finding(
            "slow" if portable else "ok",
            "layers",
            text,
            "this CPU has none of oneDNN's instructions" if portable else "",
        )
    ]


def _speed(library: str, extra: dict[str, str]) -> tuple[str, float, float] | None:
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    if "OPENBLAS_CORETYPE" in os.environ and "OPENBLAS_CORETYPE" not in extra:
        env["OPENBLAS_CORETYPE"] = os.environ["OPENBLAS_CORETYPE"]
    done = subprocess.run(
        [sys.executable, "-c", _TIMER, library],
        env={**env, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        return None
    kernel, small, large = done.stdout.decode().strip().split("|")
    return kernel, float(small), float(large)


def _gpus() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding("ok", "GPU", "none (nvidia-smi is not there); everything runs on the CPU")
    done = subprocess.run(
        [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    names = done.stdout.decode().strip().replace("\n", "; ")
    return Finding("ok", "GPU", names or "nvidia-smi finds none")
