"""The JSON formats of metrics: ``enc-caffe-metrics/2`` (curves by scheme), and ``/1`` (one scheme a layer), read and written."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import numpy as np

from enc_caffe.decomposition import check_form, scheme_for
from enc_caffe.decomposition.prune import channels_of
from enc_caffe.errors import MetricsError, PlanError
from enc_caffe.files.jsonfile import check_finite, read_json, whole, write_json
from enc_caffe.form import Form, parse_form, positions, whole_chain
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.shapes import MAX_COUNT, conv_output

FORMAT, FORMAT_1 = "enc-caffe-metrics/2", "enc-caffe-metrics/1"

#: Weights are single precision and scores sums of them: numbers beyond this are no measurement, and their squares overflow.
LARGEST = 1e60
#: MACs of all layers together: beyond it sums are no longer exact in double precision.
MAX_MACS = 2**53


def _pair(value: Any, default: Any = None, low: int = 1) -> tuple[int, int]:
    value = default if value is None else value
    first, second = value
    return whole(first, low), whole(second, low)


def _layer_from(entry: dict[str, Any]) -> Layer:
    """Rebuild a layer's description; what a file leaves out of input size and pad follows from the output ("same" padding)."""
    name, kind = str(entry["name"]), str(entry["type"])
    inputs, outputs = whole(entry["in_channels"]), whole(entry["out_channels"])
    if kind == "InnerProduct":
        channels = whole(entry.get("channels", inputs), 1)
        if inputs % channels:
            raise ValueError(f"{inputs} inputs of {channels} channels")
        # Over a later axis it is applied to each of the places before that axis.
        places = (whole(entry["rows"], 1),) if "rows" in entry else ()
        own = (inputs,) if places or channels == inputs else (channels, inputs // channels)
        return Layer(
            name,
            kind,
            bottom_shapes=((1, *places, *own),),
            top_shapes=((1, *places, outputs),),
            inner_product=InnerProduct(outputs, bool(entry.get("bias", True))),
            repeats=_repeats(entry),
        )
    height, width = _pair(entry["output"])
    kernel, stride = _pair(entry["kernel"]), _pair(entry.get("stride"), (1, 1))
    dilation = _pair(entry.get("dilation"), (1, 1))
    sides = [_pair(entry["input"]) if "input" in entry else (None, None)]
    pads = [_pair(entry["pad"], low=0) if "pad" in entry else (None, None)]
    axes = [
        _axis(out, k, s, d, side, pad)
        for out, k, s, d, side, pad in zip((height, width), kernel, stride, dilation, *sides, *pads)
    ]
    conv = Convolution(
        outputs, kernel, stride, (axes[0][1], axes[1][1]), dilation, whole(entry.get("groups", 1)),
        bool(entry.get("bias", True)),
    )  # fmt: skip
    return Layer(
        name,
        kind,
        bottom_shapes=((1, inputs, axes[0][0], axes[1][0]),),
        top_shapes=((1, outputs, height, width),),
        convolution=conv,
        repeats=_repeats(entry),
    )


def _repeats(entry: dict[str, Any]) -> Union[int, Fraction]:
    value = entry.get("repeats", 1)
    if not isinstance(value, list):
        return whole(value, 1)
    items, images = value
    each = Fraction(whole(items, 1), whole(images, 1))
    return each if each.denominator > 1 else each.numerator


def _axis(
    out: int, kernel: int, stride: int, dilation: int, side: Optional[int], pad: Optional[int]
) -> tuple[int, int]:
    """Input size and pad along one axis; ValueError where they do not give the output size."""
    reach = (out - 1) * stride + dilation * (kernel - 1) + 1
    if pad is None:
        pad = max(0, -(-(reach - (out * stride if side is None else side)) // 2))
    if side is None:
        side = out * stride
        if conv_output(side, kernel, stride, pad, dilation) != out:
            side = max(1, reach - 2 * pad)
    found = conv_output(side, kernel, stride, pad, dilation)
    if found != out:
        raise ValueError(
            f"an input of {side}, kernel {kernel}, stride {stride}, pad {pad} and dilation {dilation} give an output of {found}, not {out}"
        )
    return side, pad


def _check_size(layer: Layer) -> None:
    inputs, outputs, groups = layer.in_channels, layer.out_channels, layer.groups
    if inputs % groups or outputs % groups:
        raise ValueError(f"{inputs} input and {outputs} output channels in {groups} groups")
    weights = outputs * (inputs // groups) * layer.kernel[0] * layer.kernel[1]
    rows = ceil(layer.repeats) * (1 if layer.inner_product is None else positions(layer))
    values = rows * max(inputs * layer.input[0] * layer.input[1], outputs * layer.output[0] * layer.output[1])
    if max(weights, values) > MAX_COUNT:
        raise ValueError(f"{weights} weights and blobs of {values} values, Caffe takes at most {MAX_COUNT}")


def _curve_from(layer: Layer, entry: dict[str, Any], where: str, paper: bool) -> LayerMetrics:
    """One scheme's curve; ``entry`` has ranks (version 1), or forms."""
    for key in ("scheme", "singular_values"):
        if key not in entry:
            raise MetricsError(f"{where}: field '{key}' is missing")
    scheme = str(entry["scheme"])
    try:
        rules = scheme_for(scheme)
    except PlanError as exc:
        raise MetricsError(f"{where}: {exc}") from None
    if rules.refuses(layer):
        raise MetricsError(
            f"{where}: a layer of type {layer.type} cannot have scheme '{scheme}': {rules.refuses(layer)}"
        )
    shape = rules.matrix_shape(layer)
    if shape is not None and "max_rank" not in entry:
        raise MetricsError(f"{where}: field 'max_rank' is missing")
    ladder = () if shape is not None else _ladder(layer, entry, where)
    try:
        spectra = tuple(np.array(s, dtype=np.float64) for s in entry["singular_values"])
        # Which ranks there may be is said below, in words of its own.
        max_rank = len(ladder) or whole(entry["max_rank"], -(2**31))
        ranks = _places(entry, ladder, where)
        accuracy = entry.get("sampled_accuracy", [None] * len(ranks))
        accuracy = [None if a is None else float(a) for a in accuracy]
    except (TypeError, ValueError, OverflowError) as exc:
        raise MetricsError(f"{where}: a field has the wrong type or length ({exc})") from None
    if len(ranks) != len(accuracy):
        raise MetricsError(f"{where}: {len(ranks)} sampled_ranks, but {len(accuracy)} sampled_accuracy")
    series = _series(entry, accuracy, len(ranks), where)
    if not spectra or max_rank < 1:
        raise MetricsError(f"{where}: max_rank {max_rank} and {len(spectra)} spectra; at least 1 of each is needed")
    lengths = [max_rank] * len(spectra) if shape is not None else list(rules.limits(layer))
    _check_spectra(spectra, lengths, where)
    if shape is not None and max_rank > min(shape):
        raise MetricsError(f"{where}: max_rank {max_rank} is above {min(shape)}, the smaller side of its matrix")
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
        None if vbmf is None else max(1, min(max_rank, vbmf)), tuple(extra.items()), ladder, paper,
        before=_before(entry, where),
    )  # fmt: skip


def _before(entry: dict[str, Any], where: str) -> Optional[Before]:
    stated = entry.get("before")
    if stated is None:
        return None
    try:
        makers = stated["makers"]
        if not isinstance(makers, list) or not all(isinstance(m, str) for m in makers):
            raise ValueError("'makers' must be a list of names")
        return Before(tuple(makers), whole(stated["macs"], 0), whole(stated["parameters"], 0))
    except (KeyError, TypeError, ValueError, OverflowError) as exc:
        raise MetricsError(f"{where}: field 'before' must have makers, macs and parameters ({exc})") from None


def _ladder(layer: Layer, entry: dict[str, Any], where: str) -> tuple[Form, ...]:
    stated = entry.get("forms")
    if not isinstance(stated, list) or not stated:
        raise MetricsError(f"{where}: field 'forms' must be a list of at least one form")
    forms = tuple(_form(text, f"{where}: an entry of 'forms'") for text in stated)
    for form in forms:
        if form.scheme != entry["scheme"]:
            raise MetricsError(f"{where}: form '{form}' stands among those of scheme '{entry['scheme']}'")
        try:
            check_form(layer, form)
        except PlanError as exc:
            raise MetricsError(f"{where}: {exc}") from None
    if len(set(forms)) < len(forms):
        raise MetricsError(f"{where}: a form stands twice in 'forms'")
    costs = [scheme_for(f.scheme).chain(layer, f).macs(layer) for f in forms]
    if any(a >= b for a, b in zip(costs, costs[1:])):
        raise MetricsError(f"{where}: field 'forms' must be in order of MACs")
    return forms


def _form(text: Any, where: str) -> Form:
    try:
        return parse_form(text, where)
    except PlanError as exc:
        raise MetricsError(str(exc)) from None


def _places(entry: dict[str, Any], ladder: Sequence[Form], where: str) -> list[int]:
    """Sampled places, from ranks or from forms."""
    if "sampled_forms" not in entry:
        return [whole(r, -(2**31)) for r in entry.get("sampled_ranks", [])]
    stated = entry["sampled_forms"]
    if not isinstance(stated, list):
        raise MetricsError(f"{where}: field 'sampled_forms' must be a list of forms")
    forms = [_form(text, f"{where}: an entry of 'sampled_forms'") for text in stated]
    at = {form: i for i, form in enumerate(ladder, 1)}
    for form in forms:
        if form.scheme != entry["scheme"] or (ladder and form not in at) or (not ladder and len(form.ranks) != 1):
            raise MetricsError(f"{where}: sampled form '{form}' is not among the forms of scheme '{entry['scheme']}'")
    return [at[form] if ladder else form.ranks[0] for form in forms]


def _series(entry: dict[str, Any], accuracy: Sequence[Optional[float]], length: int, where: str) -> dict[str, Any]:
    if any(a is not None and not np.isfinite(a) for a in accuracy):
        raise MetricsError(f"{where}: field 'sampled_accuracy' holds NaN or infinity")
    # Some files hold accuracies over the original's, which can be a little above 1.
    if any(a is not None and not 0 <= a <= 100 for a in accuracy):
        raise MetricsError(f"{where}: field 'sampled_accuracy' holds a value outside of 0 to 100")
    known = ("sampled_ranks", "sampled_forms", "sampled_accuracy")
    series = {k: v for k, v in entry.items() if k.startswith("sampled_") and k not in known}
    for key, values in series.items():
        if not isinstance(values, list) or len(values) != length:
            raise MetricsError(f"{where}: field '{key}' must be a list of {length} values, one for each sampled rank")
        if any(v is not None and not (isinstance(v, (int, float)) and abs(v) <= LARGEST) for v in values):
            raise MetricsError(f"{where}: field '{key}' holds something that is not a finite number")
    return series


def _check_spectra(spectra: Sequence[np.ndarray], lengths: Sequence[int], where: str) -> None:
    for spectrum, length in zip(spectra, lengths):
        if spectrum.ndim != 1 or not spectrum.size or not np.all(np.isfinite(spectrum)) or np.any(spectrum < 0):
            raise MetricsError(f"{where}: field 'singular_values' must hold finite values of 0 or more")
        if spectrum.max() > LARGEST:
            raise MetricsError(
                f"{where}: field 'singular_values' holds {spectrum.max():g}; weights are single precision"
            )
        if np.any(np.diff(spectrum) > 1e-6 * max(spectrum[0], 1e-30)):
            raise MetricsError(f"{where}: field 'singular_values' must decrease")
        if len(spectrum) < length:
            raise MetricsError(f"{where}: {len(spectrum)} singular_values, but max_rank is {length}")
    if len(spectra) != len(lengths):
        raise MetricsError(f"{where}: {len(spectra)} spectra, {len(lengths)} are needed")


def _layer_metrics(entry: dict[str, Any], where: str, version: str) -> list[LayerMetrics]:
    flat = version == FORMAT_1
    needed = ["name", "type", "in_channels", "out_channels", "kernel", "output"]
    needed += ["scheme", "max_rank", "singular_values"] if flat else ["curves"]
    for key in needed:
        if key not in entry and not (entry.get("type") == "InnerProduct" and key in ("kernel", "output")):
            raise MetricsError(f"{where}: field '{key}' is missing")
    try:
        layer = _layer_from(entry)
        _check_size(layer)
    except (TypeError, ValueError, OverflowError) as exc:
        raise MetricsError(f"{where}: a field has the wrong type or length ({exc})") from None
    if flat:
        return [_curve_from(layer, entry, where, True)]
    curves, paper = entry["curves"], entry.get("paper_scheme")
    if not isinstance(curves, list) or not curves or not all(isinstance(c, dict) for c in curves):
        raise MetricsError(f"{where}: field 'curves' must be a list of at least one object")
    names = [str(c.get("scheme")) for c in curves]
    if len(set(names)) < len(names):
        raise MetricsError(f"{where}: a scheme stands twice in 'curves'")
    return [_curve_from(layer, c, f"{where}, scheme '{n}'", n == paper) for c, n in zip(curves, names)]


def read_metrics(path: Path) -> MetricsTable:
    """Read metrics of either version; :class:`MetricsError` names the layer and the field that are wrong."""
    data = read_json(Path(path), (FORMAT, FORMAT_1), MetricsError)
    entries = data.get("layers")
    if not isinstance(entries, list) or not entries:
        raise MetricsError(f"{path}: field 'layers' must be a list of at least one layer")
    layers: list[LayerMetrics] = []
    seen: set[str] = set()
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise MetricsError(f"{path}: layer {i} is a {type(entry).__name__}; an object is needed")
        name = entry.get("name", f"number {i}")
        if not isinstance(name, str):
            raise MetricsError(f"{path}: layer {i} has the name {str(name)[:80]}; a string is needed")
        if name in seen:
            raise MetricsError(f"{path}: layer '{name}' stands twice")
        seen.add(name)
        layers += _layer_metrics(entry, f"{path}: layer '{name}'", data["format"])
    baseline = data.get("baseline_accuracy")
    if baseline is not None and not (isinstance(baseline, (int, float)) and 0 < baseline <= 1):
        raise MetricsError(f"{path}: baseline_accuracy is {baseline!r}; a number in (0, 1] is needed")
    table = MetricsTable(str(data.get("network", "")), str(data.get("source", "")), tuple(layers), baseline)
    if sum(whole_chain(layer).macs(layer) for layer, _ in table.by_layer()) > MAX_MACS:
        raise MetricsError(f"{path}: its layers have more than {MAX_MACS} MACs, which no network has")
    known = {"format", "network", "source", "layers", "baseline_accuracy"}
    extra = tuple((k, v) for k, v in data.items() if k not in known)
    for key, value in extra:
        check_finite(value, f"{path}: field '{key}'", MetricsError)
    return replace(table, extra=extra)


def write_metrics(path: Path, table: MetricsTable, version: int = 2) -> None:
    """Write ``enc-caffe-metrics/2``, or ``/1`` where every layer has one scheme of one rank.

    Raises
    ------
    MetricsError
        If version 1 cannot say it.
    """
    data: dict[str, Any] = {
        "format": FORMAT if version == 2 else FORMAT_1, "network": table.network, "source": table.source,
    }  # fmt: skip
    if table.baseline_accuracy is not None:
        data["baseline_accuracy"] = table.baseline_accuracy
    data.update(dict(table.extra))
    data["layers"] = []
    for layer, curves in table.by_layer():
        if version == 2:
            paper = next((m.scheme for m in curves if m.paper), None)
            data["layers"].append({**_geometry(layer), "paper_scheme": paper, "curves": [_curve(m) for m in curves]})
            continue
        if len(curves) > 1 or curves[0].ladder:
            raise MetricsError(
                f"{path}: {FORMAT_1} cannot say it: layer '{layer.name}' has {', '.join(m.scheme for m in curves)}; write {FORMAT}"
            )
        data["layers"].append(_flat(curves[0]))
    write_json(Path(path), data)


def _geometry(layer: Layer) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": layer.name, "type": layer.type, "in_channels": layer.in_channels, "out_channels": layer.out_channels,
        "kernel": list(layer.kernel), "groups": layer.groups, "output": list(layer.output), "bias": layer.bias,
    }  # fmt: skip
    if layer.inner_product is not None and len(layer.top_shapes[0]) > 2:
        entry["rows"] = positions(layer)
    elif layer.inner_product is not None and len(layer.bottom_shapes[0]) > 2 and channels_of(layer) < layer.in_channels:
        entry["channels"] = channels_of(layer)
    if layer.convolution is not None:
        conv = layer.convolution
        entry.update(
            stride=list(conv.stride), pad=list(conv.pad), dilation=list(conv.dilation), input=list(layer.input)
        )
    if layer.repeats > 1:
        # Those of several images where no whole number comes of each.
        entry["repeats"] = (
            [layer.repeats.numerator, layer.repeats.denominator]
            if isinstance(layer.repeats, Fraction)
            else layer.repeats
        )
    return entry


def _curve(m: LayerMetrics) -> dict[str, Any]:
    places = {"forms": [str(f) for f in m.ladder]} if m.ladder else {"max_rank": m.max_rank}
    return {
        "scheme": m.scheme, **places,
        "singular_values": [[float(v) for v in s] for s in m.singular_values],
        "sampled_forms": [str(m.form(r)) for r in m.sampled_ranks],
        "sampled_accuracy": list(m.sampled_accuracy),
        **({} if m.known_vbmf_rank is None else {"vbmf_rank": m.known_vbmf_rank}),
        **({} if m.before is None else {"before": {**vars(m.before), "makers": list(m.before.makers)}}),
        **dict(m.extra),
    }  # fmt: skip


def _flat(m: LayerMetrics) -> dict[str, Any]:
    entry = _geometry(m.layer)
    named = {k: entry.pop(k) for k in ("name", "type")}
    curve = _curve(m)
    curve.pop("sampled_forms")
    tail = {k: curve.pop(k) for k in list(curve) if k not in ("scheme", "max_rank", "singular_values")}
    return {
        **named, "scheme": m.scheme, **entry, "max_rank": m.max_rank, "singular_values": curve["singular_values"],
        "sampled_ranks": list(m.sampled_ranks), **tail,
    }  # fmt: skip
