"""Metrics of a whole network, and their JSON format ``enc-caffe-metrics/1``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.decomposition import scheme_for
from enc_caffe.errors import MetricsError, PlanError
from enc_caffe.jsonfile import check_finite, read_json, whole, write_json
from enc_caffe.metrics.curves import metric_at_every_rank, surrogate_at_every_rank
from enc_caffe.metrics.pca import pca_energy
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.shapes import MAX_COUNT

FORMAT = "enc-caffe-metrics/1"

#: Weights are single precision and scores sums of them: numbers beyond this are no measurement, and their squares overflow.
LARGEST = 1e60
#: MACs of all layers together: beyond it sums are no longer exact in double precision.
MAX_MACS = 2**53


@dataclass(frozen=True)
class LayerMetrics:
    """What is known of one decomposable layer.

    Attributes
    ----------
    layer : Layer
    scheme : str
    max_rank : int
    singular_values : tuple of ndarray, one a group
    sampled_ranks : tuple of int, increasing (the file's duplicates are merged)
    sampled_accuracy : tuple of float or None, one for each sampled rank
    known_vbmf_rank : int, optional
        Rank by empirical VBMF of the whole spectrum, where it was computed.
    extra : mapping
        Further fields of the layer's entry: every list ``sampled_*`` has one value for each sampled rank.
    """

    layer: Layer
    scheme: str
    max_rank: int
    singular_values: tuple[np.ndarray, ...]
    sampled_ranks: tuple[int, ...] = ()
    sampled_accuracy: tuple[Optional[float], ...] = ()
    known_vbmf_rank: Optional[int] = None
    extra: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    @cached_property
    def energy(self) -> np.ndarray:
        """y_p at ranks 0 to max_rank (Eq. 2)."""
        return pca_energy(list(self.singular_values), self.max_rank)

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
            raise MetricsError(f"layer '{self.name}': the baseline accuracy is {reference}; it must be above 0")
        return ranks, accuracy / reference

    def measured(self, baseline: Optional[float]) -> np.ndarray:
        """y_m at ranks 0 to max_rank."""
        return metric_at_every_rank(*self.measured_points(baseline), self.max_rank)

    @cached_property
    def vbmf_rank(self) -> int:
        """Rank by empirical VBMF, largest over the groups: the file's own, else from the spectrum that the file holds.

        A file may end at r_max; singular values beyond it are then taken to fall to 0 along a line.
        """
        if self.known_vbmf_rank is not None:
            return self.known_vbmf_rank
        shape = scheme_for(self.scheme).matrix_shape(self.layer)
        ranks = []
        for spectrum in self.singular_values:
            missing = min(shape) - len(spectrum)
            tail = np.linspace(spectrum[-1], 0, missing + 2)[1:-1] if missing > 0 else np.zeros(0)
            ranks.append(estimate(np.concatenate([spectrum, tail]), *shape).empirical_rank)
        return max(1, min(self.max_rank, max(ranks)))

    def surrogate_points(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Sampled ranks and exp(-d) there, d being the ``divergence`` or the ``loss`` that the truncation adds."""
        ranks, added = self._added(kind)
        return ranks, np.exp(-added)

    def surrogate(self, kind: str) -> np.ndarray:
        """exp(-d) at ranks 0 to max_rank."""
        return surrogate_at_every_rank(*self._added(kind), self.max_rank)

    def _added(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        field_ = {"divergence": "sampled_divergence", "loss": "sampled_cross_entropy"}[kind]
        values = dict(self.extra).get(field_)
        points = [(r, v) for r, v in zip(self.sampled_ranks, values or ()) if v is not None]
        if not points:
            raise MetricsError(
                f"layer '{self.name}': field '{field_}' has no measured value; measure it with enc-caffe metrics --lmdb"
            )
        ranks, added = np.array([p[0] for p in points]), np.array([p[1] for p in points], dtype=float)
        if kind == "loss":
            # The loss at r_max is the original's; what a truncation adds can be negative by chance and then counts as 0.
            added = added - added[-1]
        return ranks, np.maximum(added, 0.0)


@dataclass(frozen=True)
class MetricsTable:
    """Layer metrics of one network in order of its layers; ``extra`` keeps keys that this version does not know."""

    network: str
    source: str
    layers: tuple[LayerMetrics, ...]
    baseline_accuracy: Optional[float] = None
    extra: tuple[tuple[str, Any], ...] = ()


def _pair(value: Any, default: Any = None, low: int = 1) -> tuple[int, int]:
    value = default if value is None else value
    first, second = value
    return whole(first, low), whole(second, low)


def _layer_from(entry: dict[str, Any]) -> Layer:
    """Rebuild a layer's description; without an ``input`` key "same" padding is assumed (input = output x stride)."""
    name, kind = str(entry["name"]), str(entry["type"])
    inputs, outputs = whole(entry["in_channels"]), whole(entry["out_channels"])
    if kind == "InnerProduct":
        return Layer(
            name,
            kind,
            bottom_shapes=((1, inputs),),
            top_shapes=((1, outputs),),
            inner_product=InnerProduct(outputs, bool(entry.get("bias", True))),
        )
    height, width = _pair(entry["output"])
    stride = _pair(entry.get("stride"), (1, 1))
    in_h, in_w = _pair(entry.get("input"), (height * stride[0], width * stride[1]))
    conv = Convolution(
        outputs,
        _pair(entry["kernel"]),
        stride,
        _pair(entry.get("pad"), (0, 0), 0),
        _pair(entry.get("dilation"), (1, 1)),
        whole(entry.get("groups", 1)),
        bool(entry.get("bias", True)),
    )
    return Layer(
        name,
        kind,
        bottom_shapes=((1, inputs, in_h, in_w),),
        top_shapes=((1, outputs, height, width),),
        convolution=conv,
    )


def _macs(layer: Layer) -> int:
    height, width = layer.output
    return layer.out_channels * (layer.in_channels // layer.groups) * layer.kernel[0] * layer.kernel[1] * height * width


def _check_size(layer: Layer) -> None:
    inputs, outputs, groups = layer.in_channels, layer.out_channels, layer.groups
    if inputs % groups or outputs % groups:
        raise ValueError(f"{inputs} input and {outputs} output channels in {groups} groups")
    weights = outputs * (inputs // groups) * layer.kernel[0] * layer.kernel[1]
    values = max(inputs * layer.input[0] * layer.input[1], outputs * layer.output[0] * layer.output[1])
    if max(weights, values) > MAX_COUNT:
        raise ValueError(f"{weights} weights and blobs of {values} values, Caffe takes at most {MAX_COUNT}")


def _metrics_from(entry: dict[str, Any], where: str) -> LayerMetrics:
    for key in (
        "name",
        "type",
        "scheme",
        "in_channels",
        "out_channels",
        "kernel",
        "output",
        "max_rank",
        "singular_values",
    ):
        if key not in entry and not (entry.get("type") == "InnerProduct" and key in ("kernel", "output")):
            raise MetricsError(f"{where}: field '{key}' is missing")
    try:
        layer = _layer_from(entry)
        spectra = tuple(np.array(s, dtype=np.float64) for s in entry["singular_values"])
        # Which ranks there may be is said below, in words of its own.
        ranks = [whole(r, -(2**31)) for r in entry.get("sampled_ranks", [])]
        accuracy = entry.get("sampled_accuracy", [None] * len(ranks))
        accuracy = [None if a is None else float(a) for a in accuracy]
        max_rank = whole(entry["max_rank"], -(2**31))
        _check_size(layer)
    except (TypeError, ValueError, OverflowError) as exc:
        raise MetricsError(f"{where}: a field has the wrong type or length ({exc})") from None
    if len(ranks) != len(accuracy):
        raise MetricsError(f"{where}: {len(ranks)} sampled_ranks, but {len(accuracy)} sampled_accuracy")
    if any(a is not None and not np.isfinite(a) for a in accuracy):
        raise MetricsError(f"{where}: field 'sampled_accuracy' holds NaN or infinity")
    # Some files hold accuracies over the original's, which can be a little above 1.
    if any(a is not None and not 0 <= a <= 100 for a in accuracy):
        raise MetricsError(f"{where}: field 'sampled_accuracy' holds a value outside of 0 to 100")
    series = {
        k: v for k, v in entry.items() if k.startswith("sampled_") and k not in ("sampled_ranks", "sampled_accuracy")
    }
    for key, values in series.items():
        if not isinstance(values, list) or len(values) != len(ranks):
            raise MetricsError(
                f"{where}: field '{key}' must be a list of {len(ranks)} values, one for each sampled rank"
            )
        if any(v is not None and not (isinstance(v, (int, float)) and abs(v) <= LARGEST) for v in values):
            raise MetricsError(f"{where}: field '{key}' holds something that is not a finite number")
    for spectrum in spectra:
        if spectrum.ndim != 1 or not spectrum.size or not np.all(np.isfinite(spectrum)) or np.any(spectrum < 0):
            raise MetricsError(f"{where}: field 'singular_values' must hold finite values of 0 or more")
        if spectrum.max() > LARGEST:
            raise MetricsError(
                f"{where}: field 'singular_values' holds {spectrum.max():g}; weights are single precision"
            )
        if np.any(np.diff(spectrum) > 1e-6 * max(spectrum[0], 1e-30)):
            raise MetricsError(f"{where}: field 'singular_values' must decrease")
        if len(spectrum) < max_rank:
            raise MetricsError(f"{where}: {len(spectrum)} singular_values, but max_rank is {max_rank}")
    if not spectra or max_rank < 1:
        raise MetricsError(f"{where}: max_rank {max_rank} and {len(spectra)} spectra; at least 1 of each is needed")
    scheme = str(entry["scheme"])
    try:
        limit = min(scheme_for(scheme).matrix_shape(layer))
    except PlanError as exc:
        raise MetricsError(f"{where}: {exc}") from None
    if (scheme == "inner_product") != (layer.inner_product is not None):
        raise MetricsError(f"{where}: a layer of type {layer.type} cannot have scheme '{scheme}'")
    if max_rank > limit:
        raise MetricsError(f"{where}: max_rank {max_rank} is above {limit}, the smaller side of its matrix")
    merged: dict[int, int] = {}
    for i, (rank, value) in enumerate(zip(ranks, accuracy)):
        if not 1 <= rank <= max_rank:
            raise MetricsError(f"{where}: sampled rank {rank} is outside 1 to max_rank {max_rank}")
        # Of equal ranks the later entry stands: in the published file the earlier one is a repeated placeholder.
        merged[rank] = i if value is not None or rank not in merged else merged[rank]
    order = sorted(merged)
    extra = {k: [v[merged[r]] for r in order] for k, v in series.items()}
    vbmf = entry.get("vbmf_rank")
    if vbmf is not None and not (isinstance(vbmf, int) and vbmf >= 0):
        raise MetricsError(f"{where}: vbmf_rank is {vbmf!r}; an integer of 0 or more is needed")
    return LayerMetrics(
        layer, scheme, max_rank, spectra, tuple(order), tuple(accuracy[merged[r]] for r in order),
        None if vbmf is None else max(1, min(max_rank, vbmf)), tuple(extra.items()),
    )  # fmt: skip


def read_metrics(path: Path) -> MetricsTable:
    """Read ``enc-caffe-metrics/1``; :class:`MetricsError` names the layer and the field that are wrong."""
    data = read_json(Path(path), FORMAT, MetricsError)
    entries = data.get("layers")
    if not isinstance(entries, list) or not entries:
        raise MetricsError(f"{path}: field 'layers' must be a list of at least one layer")
    layers, seen = [], set()
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise MetricsError(f"{path}: layer {i} is a {type(entry).__name__}; an object is needed")
        name = entry.get("name", f"number {i}")
        if not isinstance(name, str):
            raise MetricsError(f"{path}: layer {i} has the name {str(name)[:80]}; a string is needed")
        if name in seen:
            raise MetricsError(f"{path}: layer '{name}' stands twice")
        seen.add(name)
        layers.append(_metrics_from(entry, f"{path}: layer '{name}'"))
    baseline = data.get("baseline_accuracy")
    if baseline is not None and not (isinstance(baseline, (int, float)) and 0 < baseline <= 1):
        raise MetricsError(f"{path}: baseline_accuracy is {baseline!r}; a number in (0, 1] is needed")
    if sum(_macs(m.layer) for m in layers) > MAX_MACS:
        raise MetricsError(f"{path}: its layers have more than {MAX_MACS} MACs, which no network has")
    known = {"format", "network", "source", "layers", "baseline_accuracy"}
    extra = tuple((k, v) for k, v in data.items() if k not in known)
    for key, value in extra:
        check_finite(value, f"{path}: field '{key}'", MetricsError)
    return MetricsTable(str(data.get("network", "")), str(data.get("source", "")), tuple(layers), baseline, extra)


def write_metrics(path: Path, table: MetricsTable) -> None:
    """Write ``enc-caffe-metrics/1``."""
    data: dict[str, Any] = {"format": FORMAT, "network": table.network, "source": table.source}
    if table.baseline_accuracy is not None:
        data["baseline_accuracy"] = table.baseline_accuracy
    data.update(dict(table.extra))
    data["layers"] = [_entry(m) for m in table.layers]
    write_json(Path(path), data)


def _entry(m: LayerMetrics) -> dict[str, Any]:
    layer = m.layer
    entry: dict[str, Any] = {
        "name": layer.name,
        "type": layer.type,
        "scheme": m.scheme,
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel": list(layer.kernel),
        "groups": layer.groups,
        "output": list(layer.output),
        "bias": layer.bias,
    }
    if layer.convolution is not None:
        conv = layer.convolution
        entry.update(
            stride=list(conv.stride), pad=list(conv.pad), dilation=list(conv.dilation), input=list(layer.input)
        )
    entry.update(
        max_rank=m.max_rank,
        singular_values=[[float(v) for v in s] for s in m.singular_values],
        sampled_ranks=list(m.sampled_ranks),
        sampled_accuracy=list(m.sampled_accuracy),
        **({} if m.known_vbmf_rank is None else {"vbmf_rank": m.known_vbmf_rank}),
        **dict(m.extra),
    )
    return entry
