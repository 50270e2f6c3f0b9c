"""How long the searches take: library calls on one core, the median of several; and how the exact solver grows.

The networks are the authors' metrics of ResNet-56 and VGG-16 (ENC_CAFFE_DATA names the folder), and an AlexNet with
exponentially falling random spectra. Growth is measured on made-up networks, one size changed at a time, the others at
50 layers, ranks up to 256 and half of the MACs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost, schemes
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.form import WHOLE
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.search.build import build_problem
from enc_caffe.search.methods import run
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchProblem
from enc_caffe.terminal.tables import print_table

ONE_CORE = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def falling(rng: np.random.Generator, rank: int) -> np.ndarray:
    """Singular values that fall exponentially, unevenly."""
    return np.sort(np.exp(-4 * np.arange(rank) / rank) * rng.uniform(0.7, 1.3, rank))[::-1]


def conv(name: str, inputs: int, outputs: int, side: int, kernel: int, groups: int, rng: np.random.Generator) -> LayerMetrics:  # fmt: skip
    """A convolution with a random spectrum."""
    geometry = Convolution(outputs, (kernel, kernel), pad=(kernel // 2, kernel // 2), groups=groups)
    layer = Layer(name, "Convolution", bottom_shapes=((1, inputs, side, side),), top_shapes=((1, outputs, side, side),),
                  convolution=geometry)  # fmt: skip
    rank = min(inputs // groups * kernel, outputs // groups * kernel)
    return LayerMetrics(layer, "spatial", rank, tuple(falling(rng, rank) for _ in range(groups)))


def dense(name: str, inputs: int, outputs: int, rng: np.random.Generator) -> LayerMetrics:
    """A fully connected layer with a random spectrum."""
    layer = Layer(name, "InnerProduct", bottom_shapes=((1, inputs),), top_shapes=((1, outputs),),
                  inner_product=InnerProduct(outputs))  # fmt: skip
    rank = min(inputs, outputs)
    return LayerMetrics(layer, "inner_product", rank, (falling(rng, rank),))


def alexnet() -> MetricsTable:
    """AlexNet's eight layers."""
    rng = np.random.default_rng(0)
    layers = (
        conv("conv1", 3, 96, 55, 11, 1, rng), conv("conv2", 96, 256, 27, 5, 2, rng), conv("conv3", 256, 384, 13, 3, 1, rng),
        conv("conv4", 384, 384, 13, 3, 2, rng), conv("conv5", 384, 256, 13, 3, 2, rng),
        dense("fc6", 9216, 4096, rng), dense("fc7", 4096, 4096, rng), dense("fc8", 4096, 1000, rng),
    )  # fmt: skip
    return MetricsTable("AlexNet", "random", layers)


def made_up(layers: int, rank: int) -> MetricsTable:
    """Layers of three sizes, as networks have them, with r_max around ``rank``."""
    rng = np.random.default_rng(layers * 10_000 + rank)
    table = []
    for i in range(layers):
        # Half the channels at twice the side, and the other way round.
        scale = 2.0 ** (i * 3 // layers - 1)
        channels = max(4, round(rank * scale / 3 / 2) * 2)
        table.append(conv(f"l{i}", channels, channels, max(2, round(16 / scale)), 3, 1, rng))
    return MetricsTable("made up", "random", tuple(table))


def mixture(blocks: Sequence[int], bottleneck: bool) -> MetricsTable:
    """A residual network of these blocks with every scheme that each of its layers can have, and made-up divergences."""
    rng = np.random.default_rng(sum(blocks))
    found: list[LayerMetrics] = []
    for stage, number in enumerate(blocks):
        width, side = (64 if bottleneck else 16) * 2**stage, (56 if bottleneck else 32) // 2**stage
        shapes = (
            ((4 * width, width, 1), (width, width, 3), (width, 4 * width, 1))
            if bottleneck
            else ((width, width, 3),) * 2
        )
        for block in range(number):
            for at, (inputs, outputs, kernel) in enumerate(shapes):
                found += _every_scheme(f"s{stage}b{block}c{at}", inputs, outputs, side, kernel, rng)
    whole = [form_cost(layer, WHOLE) for layer, _ in MetricsTable("", "", tuple(found)).by_layer()]
    extra = (("network_macs", sum(m for m, _ in whole)), ("network_parameters", sum(p for _, p in whole)))
    return MetricsTable("made up", "random", tuple(found), None, extra)


def _every_scheme(
    name: str, inputs: int, outputs: int, side: int, kernel: int, rng: np.random.Generator
) -> list[LayerMetrics]:
    geometry = Convolution(outputs, (kernel, kernel), pad=(kernel // 2, kernel // 2))
    layer = Layer(name, "Convolution", bottom_shapes=((1, inputs, side, side),), top_shapes=((1, outputs, side, side),),
                  convolution=geometry)  # fmt: skip
    scale, found = rng.exponential(0.01), []
    for scheme in schemes().values():
        if scheme.refuses(layer):
            continue
        matrix = scheme.matrix_shape(layer)
        lengths = [min(matrix)] if matrix is not None else list(scheme.limits(layer))
        spectra = tuple(falling(rng, n) for n in lengths)
        forms = scheme.forms(layer, spectra)
        places = tuple(sorted({max(1, round(p * len(forms))) for p in (0.1, 0.25, 0.5, 0.75, 1.0)}))
        made = LayerMetrics(layer, scheme.name, len(forms), spectra, places, (None,) * len(places),
                            ladder=() if matrix is not None else forms)  # fmt: skip
        parts = made.axis[list(places)] / made.axis[-1]
        lost = np.sort(scale * np.exp(-6 * parts) * rng.uniform(0.7, 1.4, len(places)))[::-1]
        found.append(made.with_series("sampled_divergence", lost.tolist()))
    return found


def timed(problem: SearchProblem, repeats: int) -> tuple[float, object]:
    """Median seconds, and the result."""
    seconds, result = [], run(problem)
    for _ in range(repeats):
        start = time.perf_counter()
        result = run(problem)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), result


def growth(name: str, sizes: list[float], problem_of: Callable[[float], SearchProblem], repeats: int) -> list[tuple[float, float]]:  # fmt: skip
    """Seconds by size, and the exponent of a power law through the upper half."""
    points = []
    for size in sizes:
        seconds, result = timed(problem_of(size), repeats)
        points.append((size, seconds))
        gap = result.gap  # type: ignore[attr-defined]
        print(f"  {name} {size:g}: {seconds * 1000:.0f} ms, gap {gap:.2g}", flush=True)
    return points


def exponent(points: list[tuple[float, float]]) -> float:
    """Slope of log seconds over log size."""
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    return float(np.polyfit(x, y, 1)[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--plot", type=Path, help="figure of the growth")
    args = parser.parse_args()
    if any(os.environ.get(name) != "1" for name in ONE_CORE):
        # The threads are counted when NumPy is loaded, so the variables must be there before that.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **dict.fromkeys(ONE_CORE, "1")})
    folder = data_folder()
    jobs: list[tuple[str, MetricsTable, SearchOptions]] = []
    if folder is None:
        print("without ENC_CAFFE_DATA: ResNet-56 and VGG-16 are left out")
    else:
        res, vgg = (read_metrics(folder / "metrics" / f"{n}.json") for n in ("res56", "vgg16"))
        jobs += [
            ("ENC-Map, ResNet-56, pca", res, SearchOptions("map", "pca", 0.5065)),
            ("ENC-Map, VGG-16, measured", vgg, SearchOptions("map", "measured", 0.2523, first_layer="half")),
            ("ENC-Model, published lattice, VGG-16, combined", vgg,
             SearchOptions("model", "combined", 0.2505, first_layer="half", preset="published", solver="space")),
            ("ENC-Model, published lattice, VGG-16, measured", vgg,
             SearchOptions("model", "measured", 0.2505, first_layer="half", preset="published", solver="space")),
            ("exact, ResNet-56, pca", res, SearchOptions("model", "pca", 0.504162)),
            ("exact, ResNet-56, pca, MACs and parameters", res, SearchOptions("model", "pca", 0.504162, 0.45)),
            ("exact, VGG-16, measured", vgg, SearchOptions("model", "measured", 0.25165, first_layer="half")),
            ("exact, VGG-16, measured, MACs and parameters", vgg,
             SearchOptions("model", "measured", 0.25165, 0.25, first_layer="half")),
            ("exact, VGG-16, combined", vgg, SearchOptions("model", "combined", 0.25165, first_layer="half")),
        ]  # fmt: skip
    jobs.append(("exact, AlexNet, pca, MACs and parameters", alexnet(), SearchOptions("model", "pca", 0.375, 0.184)))
    jobs += [
        (
            "exact, all forms, ResNet-56's size",
            mixture((9, 9, 9), False),
            SearchOptions("model", "divergence", 0.3, schemes="all"),
        ),
        (
            "exact, all forms, ResNet-152's size",
            mixture((3, 8, 36, 3), True),
            SearchOptions("model", "divergence", 0.3, schemes="all"),
        ),
    ]
    rows = []
    for name, table, options in jobs:
        start = time.perf_counter()
        problem = build_problem(table, options)
        built = time.perf_counter() - start
        seconds, result = timed(problem, args.repeats)
        gap = "-" if result.gap is None else f"{result.gap:.2g}"  # type: ignore[attr-defined]
        rows.append([name, f"{built * 1000:.1f}", f"{seconds * 1000:.1f}", f"{result.candidates:,}", gap])  # type: ignore[attr-defined]
    print_table("one core, median", ["search", "build, ms", "search, ms", "candidates", "gap"], rows)

    def of(layers: int = 50, rank: int = 256, target: float = 0.5) -> SearchProblem:
        return build_problem(made_up(layers, rank), SearchOptions("model", "pca", target, first_layer="search"))

    curves = {
        "layers": growth("layers", [25, 50, 100, 200, 350, 500], lambda n: of(layers=int(n)), 1),
        "r_max": growth("r_max", [128, 256, 512, 1024, 2048], lambda n: of(rank=int(n)), 1),
        "budget": growth("budget", [0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9], lambda t: of(target=t), 1),
    }
    for name in ("layers", "r_max"):
        print(f"exact solver: time grows as {name} to the power of {exponent(curves[name]):.2f}")
    spent = [s for _, s in curves["budget"]]
    print(f"exact solver: over the budgets 0.25 to 0.9 between {min(spent) * 1000:.0f} and {max(spent) * 1000:.0f} ms")
    if args.plot:
        from enc_caffe.report import figures

        figures.save(figures.growth(curves), args.plot)
        print(f"drawn to {args.plot}")


if __name__ == "__main__":
    main()
