"""Drawing a report's charts by Matplotlib: one function a kind, no text that is not in the data."""

from __future__ import annotations

import contextlib
import io
import re
from functools import singledispatch
from typing import Any, Iterator, Sequence

from enc_caffe.errors import UsageError
from enc_caffe.report.rows import Chart, MetricCurves, Points, RankBars, TrainingCurves

#: Readable on white and on near-black alike.
COLOURS = ("#3d7fc4", "#d2691e", "#2a9460", "#9566b8", "#c94a5c", "#8a7a2a", "#5f8f99")
MARKERS = "osD^vPX"
#: Inches: drawn at the width of a phone, so that the letters stay large there.
WIDTH = 5.0
#: Layers with a legend; more are told apart by the colour of their depth.
NAMED = 16


def figure_of(chart: Chart) -> Any:
    """The chart as a Matplotlib figure; :class:`UsageError` without Matplotlib."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError("reports need Matplotlib and Jinja2: pip install 'enc-caffe[report]'") from None
    return _draw(chart.drawing)


@contextlib.contextmanager
def _style(salt: str, text: bool) -> Iterator[None]:
    import matplotlib

    values: Any = {
        "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
        "axes.linewidth": 0.7, "legend.frameon": False, "legend.fontsize": 8, "figure.facecolor": "none",
        "axes.facecolor": "none", "savefig.facecolor": "none", "grid.alpha": 0.25, "grid.linewidth": 0.6,
        "grid.color": "#808080", "svg.hashsalt": salt, "svg.fonttype": "none" if text else "path",
    }  # fmt: skip
    with matplotlib.rc_context(values):
        yield


def file_bytes(chart: Chart, kind: str) -> bytes:
    """The chart as an SVG or PDF file, the same bytes every time."""
    with _style(chart.name, False):
        figure, out = figure_of(chart), io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"CreationDate": None}
        figure.savefig(out, format=kind, metadata=metadata)
    return out.getvalue()


def inline_svg(chart: Chart) -> str:
    """The chart as an ``<svg>`` element: black follows the page's text colour, and names are its own in the page."""
    with _style(chart.name, True):
        figure, out = figure_of(chart), io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = text.replace("#000000", "currentColor")
    text = re.sub(r'\bid="', f'id="{chart.name}-', text)
    text = re.sub(r'href="#', f'href="#{chart.name}-', text)
    text = text.replace("url(#", f"url(#{chart.name}-")
    # The page sets the width; the drawing keeps its proportions by its viewBox.
    head, rest = text.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head)
    return f'{head} role="img" fill="currentColor">{rest}'


def _figure(height: float, rows: int = 1) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, 1, squeeze=False)[:, 0]


@singledispatch
def _draw(drawing: Any) -> Any:
    raise TypeError(f"no drawing of {type(drawing).__name__}")


@_draw.register
def _(data: RankBars) -> Any:
    figure, (ax,) = _figure(0.9 + 0.19 * len(data.names))
    places = list(range(len(data.names)))
    parts = [None if r is None else r / m for r, m in zip(data.ranks, data.max_ranks)]
    if data.lowest is not None and data.highest is not None:
        span = [(i, low / m, high / m) for i, low, high, m in zip(places, data.lowest, data.highest, data.max_ranks)
                if low is not None and high is not None]  # fmt: skip
        if span:
            ax.barh([i for i, _, _ in span], [h - low for _, low, h in span], 0.7, [low for _, low, _ in span],
                    color=COLOURS[0], alpha=0.35, label="R_min to R_max")  # fmt: skip
        ax.plot([p for p in parts if p is not None], [i for i, p in zip(places, parts) if p is not None], "|",
                color=COLOURS[1], markersize=9, markeredgewidth=2.4, label="rank")  # fmt: skip
    else:
        ax.barh([i for i, p in zip(places, parts) if p is not None], [p for p in parts if p is not None], 0.7,
                color=COLOURS[0], label="rank")  # fmt: skip
    whole = [i for i, p in zip(places, parts) if p is None]
    if whole:
        ax.plot([1.0] * len(whole), whole, "x", color="#808080", markersize=5, label="whole")
    ax.set_yticks(places, data.names)
    ax.set_ylim(len(places) - 0.4, -0.6)
    ax.set_xlim(0, 1.06)
    ax.set_xlabel(data.axis)
    ax.grid(axis="x")
    _legend(figure, ax)
    return figure


@_draw.register
def _(data: MetricCurves) -> Any:
    import matplotlib

    panels = [("y_p (PCA energy)", lambda c: c.energy)]
    if any(c.measured is not None for c in data.layers):
        panels.append(("y_m (measured)", lambda c: c.measured))
    figure, axes = _figure(2.5 * len(panels) + 0.5, len(panels))
    from matplotlib import cm, colors

    colours = matplotlib.colormaps["turbo"]
    for ax, (title, values) in zip(axes, panels):
        for i, curve in enumerate(data.layers):
            y = values(curve)
            if y is None:
                continue
            colour = colours(0.12 + 0.78 * i / max(1, len(data.layers) - 1))
            ax.plot(curve.ranks / curve.ranks[-1], y, linewidth=1.1, color=colour, label=curve.name)
            if curve.samples is not None and ax is not axes[0]:
                ax.plot(curve.samples[0] / curve.ranks[-1], curve.samples[1], ".", markersize=4, color=colour)
        ax.set_ylabel(title)
        ax.set_xlim(0, 1)
        ax.set_ylim(-0.03, 1.08)
        ax.grid()
    axes[-1].set_xlabel("rank / r_max")
    if len(data.layers) <= NAMED:
        lines = axes[0].get_lines()[: len(data.layers)]
        figure.legend(lines, [c.name for c in data.layers], loc="outside lower center", ncols=4)
    else:
        scale = cm.ScalarMappable(colors.Normalize(1, len(data.layers)), colours)
        scale.set_array([])
        figure.colorbar(scale, ax=list(axes), label="layer", location="bottom", shrink=0.7, aspect=40)
    return figure


def _legend(figure: Any, ax: Any) -> None:
    handles, labels = ax.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 26 else 3)


@_draw.register
def _(data: Points) -> Any:
    figure, (ax,) = _figure(3.4 + 0.18 * len(data.series))
    families = list(dict.fromkeys(s.family or s.label for s in data.series))
    seen: dict[str, int] = {}
    for series in data.series:
        family = series.family or series.label
        colour = COLOURS[families.index(family) % len(COLOURS)]
        marker = MARKERS[seen.setdefault(family, 0) % len(MARKERS)]
        seen[family] += 1
        ax.plot(
            [p[0] for p in series.points], [p[1] for p in series.points], marker, color=colour, markersize=6.5,
            linestyle="-" if series.line else "", linewidth=1, label=series.label,
            markerfacecolor="none" if series.hollow else colour,
        )  # fmt: skip
    if data.diagonal:
        ax.plot([0, 1.05], [0, 1.05], "--", color="#808080", linewidth=0.9, label="time = MACs")
        ax.set_xlim(0, 1.05)
        ax.set_ylim(0, None)
    else:
        ax.margins(0.08)
    ax.set_xlabel(data.x)
    ax.set_ylabel(data.y)
    ax.grid()
    _legend(figure, ax)
    return figure


@_draw.register
def _(data: TrainingCurves) -> Any:
    tested = any(_accuracies(run.tests) for run in data.runs)
    figure, axes = _figure(2.3 * (1 + tested) + 0.3 + 0.16 * len(data.runs), 1 + tested)
    for i, run in enumerate(data.runs):
        colour = COLOURS[i % len(COLOURS)]
        axes[0].plot(*_columns(run.losses), "-", marker=".", linewidth=1.1, color=colour, label=run.name)
        for points in _accuracies(run.tests)[:1]:
            axes[1].plot(*_columns(points), "-", marker="o", markersize=4, linewidth=1.1, color=colour)
    for ax, name in zip(axes, ("training loss", "test accuracy")):
        ax.set_ylabel(name)
        ax.grid()
    axes[-1].set_xlabel("iteration")
    handles, labels = axes[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside lower center", ncols=1 if max(map(len, labels)) > 26 else 2)
    return figure


def _accuracies(tests: Any) -> list[Sequence[tuple[int, float]]]:
    return [points for name, points in tests.items() if "acc" in name.lower() and points]


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]
