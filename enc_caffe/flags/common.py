"""Flags that several commands share."""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import Any, Optional

from enc_caffe.calibration.decomposition import KINDS, RECONSTRUCT
from enc_caffe.form import PLACEMENTS
from enc_caffe.shapes import Shape
from enc_caffe.workers.defaults import LIMIT, MEMORY

#: Numbers of a range at most.
MOST_POINTS = 1000


def shape_argument(text: str) -> Shape:
    """``C,H,W`` as a shape."""
    try:
        parts = tuple(int(p) for p in text.split(","))
    except ValueError:
        parts = ()
    if len(parts) != 3 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f"{text}: three positive integers C,H,W are needed, such as 3,224,224")
    return parts


def top_shape_argument(text: str) -> tuple[str, Shape]:
    """``TOP=N,C,...`` as a blob's name and shape."""
    top, _, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        shape = ()
    if not top or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text}: TOP=N,C,... of positive integers is needed, such as cont=20,4")
    return top, shape


def list_argument(text: str) -> tuple[int, ...]:
    """``1,5`` as a tuple of integers."""
    try:
        return tuple(int(p) for p in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: integers separated by commas are needed, such as 1,5") from None


def add_model(command: argparse.ArgumentParser, weights: bool = True) -> None:
    """``--model``, ``--weights``, and what says how large images are."""
    command.add_argument("--model", type=Path, required=True, help="prototxt of the network (train_val or deploy)")
    if weights:
        command.add_argument("--weights", type=Path, required=True, help="caffemodel")
    add_input_shape(command)
    add_shapes(command)
    add_python_layers(command)


def add_input_shape(command: Any, words: str = "size of the images, if no LMDB gives it") -> None:
    """``--input_shape``."""
    command.add_argument("--input_shape", type=shape_argument, metavar="C,H,W", help=words)


def add_shapes(command: Any) -> None:
    """``--top_shape``, and ``--level`` and ``--stage``, which choose layers."""
    add_top_shape(command)
    add_state(command)


def add_top_shape(command: Any) -> None:
    """``--top_shape``."""
    command.add_argument(
        "--top_shape", type=top_shape_argument, action="append", default=[], metavar="TOP=N,...",
        help="full shape of a blob, such as cont=20,4, that nothing else gives (the top of a data layer, or of a layer type that "
        "Caffe does not know); repeat the flag for each blob",
    )  # fmt: skip


def add_state(command: Any) -> None:
    """``--level`` and ``--stage``, as stock ``caffe`` has them."""
    command.add_argument(
        "--level", type=int, metavar="N", help="level of the network, for layers with min_level or max_level"
    )
    command.add_argument(
        "--stage", type=lambda text: tuple(s for s in text.split(",") if s), default=(), metavar="A,B",
        help="stages of the network, for layers with stage or not_stage",
    )  # fmt: skip


def add_python_layers(command: Any) -> None:
    """``--allow_python_layers``."""
    command.add_argument(
        "--allow_python_layers", action="store_true",
        help="let Caffe import and run the modules that the prototxt's Python layers name (refused otherwise)",
    )  # fmt: skip


def add_workers(command: argparse.ArgumentParser) -> None:
    """Where Caffe runs, and where results are kept."""
    group = command.add_argument_group("where Caffe runs, and what it remembers")
    add_number_of_workers(group)
    group.add_argument("--gpu", default="", metavar="0,1|all", help="one process for each of these GPUs")
    group.add_argument("--scheduler", default="", metavar="tcp://HOST:8786", help="workers of this Dask scheduler")
    group.add_argument("--task_limit", type=float, default=LIMIT / 60, metavar="MINUTES", help="stop if workers give no sign of life for this long (default: 60; 0: never)")  # fmt: skip
    group.add_argument("--memory", type=float, default=MEMORY / 2**30, metavar="GIB", help="memory that all workers together may take, weights aside (default: 2)")  # fmt: skip
    group.add_argument(
        "--store", type=Path, metavar="FILE", help="SQLite file of results (default: in the user's cache)"
    )


def add_number_of_workers(group: Any) -> None:
    """``--workers``: a process has one BLAS thread, so that sums are the same on every machine, and one core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    group.add_argument(
        "--workers", type=int, default=min(2, cores), help="processes, with one BLAS thread each (default: 2; 1 on a single core)"
    )  # fmt: skip


def add_making(command: argparse.ArgumentParser) -> None:
    """How a plan's layers get their weights."""
    how = command.add_argument_group("how layers are decomposed; all but svd use the images of --lmdb")
    how.add_argument(
        "--decomposition", choices=KINDS, default=argparse.SUPPRESS,
        help="svd (default): least error of the weights; weighted: of the layer's output; asymmetric: of its output "
        "behind the compressed layers before it; asymmetric_relu: the same after the ReLU, where one follows (channel, tucker2, asym3d); fisher and "
        "asymmetric_fisher: with errors weighted by their effect on the network's scores",
    )  # fmt: skip
    how.add_argument(
        "--recalibrate", type=names_argument, default=argparse.SUPPRESS, metavar="bn,change,bias,auto",
        help="bn: estimate the statistics of BatchNorm layers anew; change: correct them by how they differ between the two networks; "
        "bias: correct the biases of decomposed layers; auto: whichever gives the least divergence",
    )  # fmt: skip
    how.add_argument(
        "--reconstruct", choices=RECONSTRUCT, default=argparse.SUPPRESS,
        help="blocks: afterwards fit runs of layers to the original's blobs by gradient descent; kept where the network gets closer to the original",
    )  # fmt: skip


def add_dense(command: argparse.ArgumentParser) -> None:
    """Argument of the measured metrics."""
    command.add_argument(
        "--dense", action="store_true",
        help="measure more ranks where the curve of the divergence bends (a quarter more on ResNet-56)",
    )  # fmt: skip


def add_early(command: argparse.ArgumentParser) -> None:
    """Argument of the measured metrics: what is not measured to the end."""
    command.add_argument(
        "--early", action="store_true",
        help="measure on a part of the images alone the forms that no plan can want, as confidence bounds say; the paper "
        "measures all to the end",
    )  # fmt: skip


def names_argument(text: str) -> frozenset[str]:
    """Names from ``bn,bias``."""
    return frozenset(part for part in text.split(",") if part)


def add_placement(command: Any, default: Optional[str], words: str = "exact") -> None:
    """``--stride_placement``."""
    command.add_argument(
        "--stride_placement", choices=PLACEMENTS, default=default,
        help=f"exact: the pair at full rank is the original; published: both strides on the first half (default: {words})",
    )  # fmt: skip


def add_emission(command: argparse.ArgumentParser) -> None:
    """Arguments of the emission."""
    command.add_argument("--solver", type=Path, help="solver prototxt whose schedule the emitted solver takes over")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--force", action="store_true", help="replace an output that exists")


def range_of(text: str) -> list[float]:
    """``0.5`` or ``0.2:0.9:0.05`` (both ends included) as a list of numbers; ValueError otherwise."""
    parts = [float(p) for p in text.split(":")]
    if len(parts) == 1:
        return parts
    if not all(math.isfinite(p) for p in parts):
        raise ValueError(f"{text}: finite numbers are needed")
    if len(parts) != 3:
        raise ValueError(f"{text}: a number, or first:last:step, such as 0.2:0.9:0.05")
    first, last, step = parts
    if step <= 0 or last < first:
        raise ValueError(f"{text}: the range is empty; first <= last and step > 0 are needed")
    if (last - first) / step >= MOST_POINTS:
        raise ValueError(
            f"{text}: {(last - first) / step + 1:,.0f} numbers; {MOST_POINTS:,} at most, so a larger step is needed"
        )
    return [round(first + i * step, 10) for i in range(math.floor((last - first) / step + 1e-9) + 1)]
