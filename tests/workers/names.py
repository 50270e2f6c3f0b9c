"""Names of kernels of the BLAS that Caffe has here."""

from __future__ import annotations

from enc_caffe.workers.blas import OPENBLAS_KERNEL, kernel_variable


def kernels() -> tuple[str, str]:
    """Two that every CPU with AVX2 can compute with."""
    return ("Prescott", "Nehalem") if kernel_variable() == OPENBLAS_KERNEL else ("COMPATIBLE", "AVX2")
