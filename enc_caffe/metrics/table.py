"""Metrics of a whole network: of every layer, curves over the forms of each scheme that it may have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Iterator, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.decomposition import Scheme, form_cost, scheme_for
from enc_caffe.decomposition.prune import channels_of
from enc_caffe.decomposition.widths import takes_channels
from enc_caffe.errors import MetricsError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.curves import metric_over, surrogate_over
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Layer

#: Where each metric that adds up over layers is kept.
SERIES = {
    "divergence": "sampled_divergence", "loss": "sampled_cross_entropy", "output": "sampled_output_error",
    "fisher": "sampled_fisher", "fisher+measured": "sampled_fisher",
}  # fmt: skip
#: What ``enc-caffe metrics`` needs beside images for a series.
FLAGS = {
    "output": " --measure output --decomposition weighted", "fisher": " --measure fisher", "fisher+measured": " --measure fisher",
    "loss": " (labelled images)",
}  # fmt: skip


@dataclass(frozen=True)
class Before:
    """The layers that lose outputs with what a pruned one does not read.

    Attributes
    ----------
    makers : tuple of str
        Those that the metrics list.
    macs, parameters : int
        Of one channel of all others that make or keep these channels: convolutions that stay whole, depthwise ones.
    """

    makers: tuple[str, ...]
    macs: int = 0
    parameters: int = 0


@dataclass(frozen=True)
class LayerMetrics:
    """What is known of one layer in one scheme. The scheme's forms are places on a ladder, 1 to ``max_rank``; of a scheme of one
    rank the place is the rank.

    Attributes
    ----------
    layer : Layer
    scheme : str
    max_rank : int
        Places of the ladder; r_max.
    singular_values : tuple of ndarray, one a group or a mode
    sampled_ranks : tuple of int, increasing (the file's duplicates are merged)
        Places that are or may be measured.
    sampled_accuracy : tuple of float or None, one for each sampled rank
    known_vbmf_rank : int, optional
        Rank by empirical VBMF of the whole spectrum, where it was computed.
    extra : mapping
        Further fields of the entry: every list ``sampled_*`` has one value for each sampled rank.
    ladder : tuple of Form
        The forms in order of cost where they are not the ranks 1 to r_max.
    paper : bool
        Whether the paper's policy gives the layer this scheme.
    measure_at : tuple of int
        Those of the sampled ranks that are measured by default; not written.
    before : Before, optional
        Of a scheme that takes channels out: the layers that make them.
    """

    layer: Layer
    scheme: str
    max_rank: int
    singular_values: tuple[np.ndarray, ...]
    sampled_ranks: tuple[int, ...] = ()
    sampled_accuracy: tuple[Optional[float], ...] = ()
    known_vbmf_rank: Optional[int] = None
    extra: tuple[tuple[str, Any], ...] = ()
    ladder: tuple[Form, ...] = ()
    paper: bool = True
    measure_at: tuple[int, ...] = ()
    before: Optional[Before] = None

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    @cached_property
    def forms(self) -> tuple[Form, ...]:
        """The form of every place, the first of them at place 1."""
        return self.ladder or tuple(Form(self.scheme, (r,)) for r in range(1, self.max_rank + 1))

    def form(self, place: int) -> Form:
        """The form at a place."""
        return self.ladder[place - 1] if self.ladder else Form(self.scheme, (int(place),))

    @cached_property
    def axis(self) -> np.ndarray:
        """What curves run over, at place 0 to max_rank: the rank, or the forms' MACs (exact convention); float."""
        if not self.ladder:
            return np.arange(self.max_rank + 1, dtype=float)
        return np.array([0.0, *(form_cost(self.layer, f)[0] for f in self.ladder)])

    @property
    def _rules(self) -> Scheme:
        return scheme_for(self.scheme)

    @cached_property
    def energy(self) -> np.ndarray:
        """y_p at places 0 to max_rank (Eq. 2)."""
        return np.concatenate([[0.0], self._rules.energy(self.layer, self.singular_values, self.forms)])

    def series(self, name: str) -> list[Any]:
        """A list ``sampled_*`` of ``extra``; of None for each sampled rank where it is not there."""
        found = dict(self.extra).get(name)
        return [None] * len(self.sampled_ranks) if found is None else list(found)

    def with_series(self, name: str, values: Sequence[Any]) -> LayerMetrics:
        """The same with one more list, one value for each sampled rank."""
        return replace(self, extra=tuple({**dict(self.extra), name: list(values)}.items()))

    def sampled_at(self, places: tuple[int, ...]) -> LayerMetrics:
        """The same with other sampled places; what is known at the old ones moves along."""

        def moved(values: Sequence[Any]) -> list[Any]:
            known = dict(zip(self.sampled_ranks, values))
            return [known.get(p) for p in places]

        extra = {k: moved(v) if k.startswith("sampled_") else v for k, v in self.extra}
        accuracy = tuple(moved(self.sampled_accuracy))
        return replace(self, sampled_ranks=places, sampled_accuracy=accuracy, extra=tuple(extra.items()))

    def measured_points(self, baseline: Optional[float]) -> tuple[np.ndarray, np.ndarray]:
        """Sampled ranks and y_m there: accuracy over the baseline (without one: over the accuracy at r_max)."""
        points = [(r, a) for r, a in zip(self.sampled_ranks, self.sampled_accuracy) if a is not None]
        if not points:
            raise MetricsError(
                f"layer '{self.name}': field 'sampled_accuracy' has no measured value; "
                "measure it with enc-caffe metrics --lmdb, or search with --metric pca"
            )
        ranks, accuracy = np.array([p[0] for p in points]), np.array([p[1] for p in points])
        reference = baseline if baseline else accuracy[-1]
        if reference <= 0:
            raise MetricsError(
                f"layer '{self.name}': the original's accuracy is {reference:g}, and the metric is a part of it; do labels, scale, mean and channel "
                "order of the images fit the network? --metric divergence needs no labels"
            )
        return ranks, accuracy / reference

    def measured(self, baseline: Optional[float]) -> np.ndarray:
        """y_m at places 0 to max_rank."""
        places, values = self.measured_points(baseline)
        return metric_over(self.axis[places], values, self.axis)

    @cached_property
    def vbmf_rank(self) -> int:
        """Rank by empirical VBMF, largest over the groups: the file's own, else from the spectrum that the file holds.

        A file may end at r_max; singular values beyond it are then taken to fall to 0 along a line.
        """
        if self.known_vbmf_rank is not None:
            return self.known_vbmf_rank
        shape = self._rules.matrix_shape(self.layer)
        if shape is None:
            raise MetricsError(f"layer '{self.name}': scheme '{self.scheme}' has no single rank for VBMF to estimate")
        return max(1, min(self.max_rank, max(self._empirical_ranks())))

    @property
    def modes(self) -> bool:
        """Whether a form has one rank for each of several unfoldings."""
        return self._rules.modes

    @cached_property
    def vbmf_form(self) -> Optional[Form]:
        """The form whose every rank is VBMF's of its own unfolding: the rule of [13]. It need not be on the ladder.

        Where VBMF finds nothing but noise it gives no rank: such a mode stays whole, and so does a layer of one matrix (None).
        """
        found = self._empirical_ranks()
        if not self.modes:
            return Form(self.scheme, (min(self.max_rank, max(found)),)) if max(found) else None
        limits = self._rules.limits(self.layer)
        return Form(self.scheme, tuple(min(n, r) if r else n for n, r in zip(limits, found)))

    def energy_of(self, form: Form) -> float:
        """y_p of a form of the scheme, on the ladder or off it."""
        if form in self.forms:
            return float(self.energy[self.forms.index(form) + 1])
        return float(self._rules.energy(self.layer, self.singular_values, [form])[0])

    def _empirical_ranks(self) -> list[int]:
        ranks = []
        for spectrum, shape in zip(self.singular_values, self._rules.matrix_shapes(self.layer)):
            missing = min(shape) - len(spectrum)
            tail = np.linspace(spectrum[-1], 0, missing + 2)[1:-1] if missing > 0 else np.zeros(0)
            ranks.append(estimate(np.concatenate([spectrum, tail]), *shape).empirical_rank)
        return ranks

    def surrogate_points(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Sampled ranks and exp(-d) there, d being the ``divergence``, the ``loss`` or the ``output`` error that the truncation adds."""
        ranks, added = self._added(kind)
        return ranks, np.exp(-added)

    def surrogate(self, kind: str) -> np.ndarray:
        """exp(-d) at places 0 to max_rank."""
        places, added = self._added(kind)
        return surrogate_over(self.axis[places], added, self.axis)

    def _added(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        field_ = SERIES[kind]
        values = dict(self.extra).get(field_)
        points = [(r, v) for r, v in zip(self.sampled_ranks, values or ()) if v is not None]
        if not points:
            raise MetricsError(
                f"layer '{self.name}': field '{field_}' has no measured value; measure it with enc-caffe metrics --lmdb"
                f"{FLAGS.get(kind, '')}"
            )
        ranks, added = np.array([p[0] for p in points]), np.array([p[1] for p in points], dtype=float)
        if not np.isfinite(added).all():
            raise MetricsError(
                f"layer '{self.name}': field '{field_}' holds values that are not finite; measure it again"
            )
        if kind == "loss":
            # The loss at r_max is the original's; what a truncation adds can be negative by chance and then counts as 0.
            added = added - added[-1]
        return ranks, np.maximum(added, 0.0)


@dataclass(frozen=True)
class MetricsTable:
    """Metrics of one network in order of its layers, those of one layer's schemes together; ``extra`` keeps keys that this version
    does not know.
    """

    network: str
    source: str
    layers: tuple[LayerMetrics, ...]
    baseline_accuracy: Optional[float] = None
    extra: tuple[tuple[str, Any], ...] = ()

    def by_layer(self) -> Iterator[tuple[Layer, tuple[LayerMetrics, ...]]]:
        """Every layer with its curves."""
        for _, curves in groupby(self.layers, key=lambda m: m.name):
            own = tuple(curves)
            yield own[0].layer, own

    def widths(self, forms: Mapping[str, Form]) -> dict[str, int]:
        """Output channels that are left of layers that lose some, by name."""
        left: dict[str, int] = {}
        for name, known in {m.name: m.before for m in self.layers if m.before is not None}.items():
            form = forms.get(name, WHOLE)
            if takes_channels(form):
                left.update(dict.fromkeys(known.makers, form.ranks[0]))
        return left

    def cost(self, forms: Mapping[str, Form], convention: str = "exact") -> tuple[int, int]:
        """MACs and parameters of the layers that are listed, and of those before pruned ones, in these forms."""
        before = {m.name: m.before for m in self.layers if m.before is not None}
        left, macs, parameters = self.widths(forms), 0, 0
        for layer, _ in self.by_layer():
            form = forms.get(layer.name, WHOLE)
            own = form_cost(layer, form, convention, outputs=left.get(layer.name))
            macs, parameters = macs + own[0], parameters + own[1]
            if layer.name in before:
                channels = form.ranks[0] if takes_channels(form) else channels_of(layer)
                macs += channels * before[layer.name].macs
                parameters += channels * before[layer.name].parameters
        return macs, parameters

    def known(self, name: str) -> Any:
        """A field of ``extra``; None where it is not there."""
        return dict(self.extra).get(name)
