"""What a report says, as plain data: runs as they were read, then sections of text, tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence, Union

import numpy as np


@dataclass(frozen=True)
class Score:
    """Images that are right, by k of top-k, of all."""

    images: int
    correct: Mapping[int, int]

    def percent(self, k: int = 1) -> Optional[float]:
        """Top-k accuracy in percent, where it was counted."""
        return 100 * self.correct[k] / self.images if k in self.correct and self.images else None


@dataclass(frozen=True)
class LayerCost:
    """One layer before and after: its form, its shapes in words, MACs of one image and parameters (without biases).

    ``rank`` is that of a form of one rank, ``max_rank`` the r_max of its scheme. ``times`` are nanoseconds, where a latency table knows them.
    """

    name: str
    form: str
    before: str
    after: str
    output: str
    rank: Optional[int]
    max_rank: int
    macs: tuple[int, int]
    parameters: tuple[int, int]
    lowest: Optional[int] = None
    highest: Optional[int] = None
    times: Optional[tuple[int, int]] = None


@dataclass(frozen=True)
class Training:
    """A log of ``caffe train``: (iteration, loss), and by test output (iteration, value)."""

    name: str
    losses: Sequence[tuple[int, float]]
    tests: Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True)
class Network:
    """One network of a run: the original, or one with truncated layers.

    Attributes
    ----------
    label : str
        For example ``ENC-Map, exact strides``.
    method : str
        ``original``, or a search method.
    macs : mapping of convention to part of the original's
    details : sequence of (name, value)
        Whatever else is known, in words.
    evaluations : int, optional
        Networks that the search evaluated.
    learning : sequence of float
        Accuracy of every episode, where an agent searched.
    iterations : int, optional
        Of its fine-tuning, where that was so many and not epochs.
    """

    label: str
    method: str
    placement: str = ""
    macs: Mapping[str, float] = field(default_factory=dict)
    parameters: Optional[float] = None
    score: Optional[Score] = None
    finetuned: Optional[Score] = None
    epochs: Optional[float] = None
    search_seconds: Optional[float] = None
    layers: Sequence[LayerCost] = ()
    training: Optional[Training] = None
    target: Optional[float] = None
    details: Sequence[tuple[str, str]] = ()
    evaluations: Optional[int] = None
    learning: Sequence[float] = ()
    iterations: Optional[int] = None


@dataclass(frozen=True)
class LayerCurve:
    """A layer's metrics over the rank (or the cost of its forms) as a part of the largest; y_m with its samples, where measured."""

    name: str
    ranks: np.ndarray
    energy: np.ndarray
    measured: Optional[np.ndarray] = None
    samples: Optional[tuple[np.ndarray, np.ndarray]] = None


@dataclass(frozen=True)
class TimePoint:
    """Time over the original's against MACs over the original's (Figure 7)."""

    network: str
    macs: float
    convolutions: float
    whole: float


@dataclass(frozen=True)
class Run:
    """One folder: its networks, the metrics' curves, times, and how it was made."""

    name: str
    title: str
    network: str
    images: str = ""
    networks: Sequence[Network] = ()
    curves: Sequence[LayerCurve] = ()
    times: Sequence[TimePoint] = ()
    remarks: Sequence[str] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def original(self) -> Optional[Network]:
        """The network before compression."""
        return next((n for n in self.networks if n.method == "original"), None)


@dataclass(frozen=True)
class Table:
    """Headers and cells; the first ``left`` columns are text. ``folded``: shown closed at first."""

    title: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int = 1
    note: str = ""
    folded: bool = False


@dataclass(frozen=True)
class RankBars:
    """Ranks between R_min and R_max, as parts of r_max (Figure 3); of forms that have no one rank, MACs as parts of the whole's."""

    names: Sequence[str]
    ranks: Sequence[Optional[int]]
    max_ranks: Sequence[int]
    lowest: Optional[Sequence[Optional[int]]] = None
    highest: Optional[Sequence[Optional[int]]] = None
    axis: str = "rank / r_max"


@dataclass(frozen=True)
class MetricCurves:
    """y_p and y_m of all layers (Figure 2)."""

    layers: Sequence[LayerCurve]


@dataclass(frozen=True)
class Series:
    """Points of one family, which has one colour; hollow ones are the paper's."""

    label: str
    points: Sequence[tuple[float, float]]
    family: str = ""
    hollow: bool = False
    line: bool = False


@dataclass(frozen=True)
class Points:
    """Series over a common axis (Figures 6 and 7); ``diagonal`` draws the line of equal parts."""

    x: str
    y: str
    series: Sequence[Series]
    diagonal: bool = False


@dataclass(frozen=True)
class TrainingCurves:
    """Loss and test accuracy over the iterations."""

    runs: Sequence[Training]


Drawing = Union[RankBars, MetricCurves, Points, TrainingCurves]


@dataclass(frozen=True)
class Chart:
    """A drawing with its file name, caption, and what it shows in words."""

    name: str
    title: str
    words: str
    drawing: Drawing


@dataclass(frozen=True)
class Section:
    """A heading with what stands under it, in this order: text, tables, charts, code."""

    title: str
    text: Sequence[str] = ()
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    code: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """All of it."""

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
