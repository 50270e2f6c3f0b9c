"""Figures of metrics and searches, drawn by Matplotlib (extra ``plot``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np

from enc_caffe.errors import UsageError
from enc_caffe.files.output import atomic_file


def _axes(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need Matplotlib: pip install 'enc-caffe[plot]'") from None
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def save(figure: Any, path: Path) -> None:
    """Write a figure in the format that the path's suffix names; all of it or nothing."""
    kind = Path(path).suffix.lstrip(".").lower() or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UsageError(f"--out {path}: no figure format '.{kind}'; known are {', '.join(sorted(known))}")
    with atomic_file(Path(path)) as handle:
        figure.savefig(handle, format=kind, dpi=150)


def rank_bounds(
    names: Sequence[str], series: Mapping[str, Sequence[float]], max_ranks: Sequence[int], title: str
) -> Any:
    """Ranks of every layer as parts of r_max: R_max, R_min and R_o as bars (the paper's Figure 3)."""
    figure, axes = _axes(1, 1, max(6.0, 0.28 * len(names) + 2), 4)
    ax, places = axes[0][0], np.arange(len(names))
    width = 0.8 / max(1, len(series))
    for i, (label, ranks) in enumerate(series.items()):
        ax.bar(places + (i - (len(series) - 1) / 2) * width, np.array(ranks) / np.array(max_ranks), width, label=label)
    ax.set_xticks(places, names, rotation=90, fontsize=7)
    ax.set_ylabel("rank / r_max")
    ax.set_ylim(0, 1.05)
    ax.set_title(title, fontsize=9)
    ax.legend(fontsize=8)
    return figure


def pareto(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], quantity: str, title: str) -> Any:
    """Accuracy or objective over complexity, one curve a method (the paper's Figure 6)."""
    figure, axes = _axes(1, 1, 6, 4)
    ax = axes[0][0]
    for label, (costs, values) in curves.items():
        ax.plot(costs, values, marker="o", markersize=3, label=label)
    ax.set_xlabel("MACs, part of the original's")
    ax.set_ylabel(quantity)
    ax.set_title(title, fontsize=9)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def growth(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Any:
    """Seconds over a size, one panel a size, both axes logarithmic."""
    figure, axes = _axes(1, len(curves), 4 * len(curves), 3.2)
    for ax, (name, points) in zip(axes[0], curves.items()):
        ax.loglog([p[0] for p in points], [p[1] for p in points], marker="o")
        ax.set_xlabel(name)
        ax.set_ylabel("seconds")
        ax.grid(alpha=0.3, which="both")
    return figure


Curve = tuple[np.ndarray, np.ndarray, "tuple[np.ndarray, np.ndarray] | None"]


def layer_curves(panels: Sequence[tuple[str, Mapping[str, Curve]]], title: str) -> Any:
    """One panel a layer: metrics over the rank, sampled points as dots (the paper's Figure 2)."""
    columns = min(8, max(1, round(len(panels) ** 0.5) + 1))
    rows = -(-len(panels) // columns)
    figure, axes = _axes(rows, columns, 2.4 * columns, 1.9 * rows)
    flat = axes.ravel()
    for ax, (name, curves) in zip(flat, panels):
        for label, (ranks, values, points) in curves.items():
            (line,) = ax.plot(ranks, values, linewidth=1, label=label)
            if points is not None:
                ax.plot(*points, "o", markersize=3, color=line.get_color())
        ax.set_title(name, fontsize=7)
        ax.tick_params(labelsize=6)
        ax.set_ylim(-0.03, 1.08)
    for ax in flat[len(panels) :]:
        ax.set_visible(False)
    flat[0].legend(fontsize=6)
    figure.suptitle(title, fontsize=9)
    return figure
