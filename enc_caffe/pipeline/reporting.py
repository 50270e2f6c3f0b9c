"""Reading folders of results into what a report is made of: experiments, compressions, fine-tunings, timings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

import numpy as np

from enc_caffe import __version__
from enc_caffe.caffe_tools.programs import parse_training
from enc_caffe.decomposition import chain_of, form_cost, rank_of
from enc_caffe.decomposition.policy import parse_schemes
from enc_caffe.errors import EncError, MetricsError, UsageError
from enc_caffe.files.jsonfile import read_json
from enc_caffe.form import PAPER, WHOLE, Form, Schemes
from enc_caffe.installation import find_caffe
from enc_caffe.measuring.scores import counted
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.latency import LatencyTable, read_latency
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Layer
from enc_caffe.pipeline.planning import plan_ratios
from enc_caffe.plan import Plan, read_plan
from enc_caffe.report.paper import METHODS
from enc_caffe.report.rows import LayerCost, LayerCurve, Network, Run, Score, TimePoint, Training
from enc_caffe.rounding import round_half_up
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import EVERYTHING
from enc_caffe.search.space import make_space

EXPERIMENT, TIMES = "enc-caffe-experiment/1", "enc-caffe-times/1"
#: What makes a folder one that a report can be made of.
KNOWN = ("experiment.json", "times.json", "ranks.json", "caffe_train.log", "metrics.json")
DETAILS = ("metric", "solver", "preset", "objective", "proven_optimal", "gap", "candidates", "evaluated", "search_seconds", "note")  # fmt: skip


def read_run(folder: Path) -> Run:
    """Everything that a folder holds.

    Raises
    ------
    UsageError
        If it holds nothing that a report is made of, or a file that does not fit.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    readers: tuple[Callable[[Path], Run], ...] = (_experiment, _times, _compression, _training_only, _metrics_only)
    for name, reader in zip(KNOWN, readers):
        if not (folder / name).is_file():
            continue
        try:
            return reader(folder)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as exc:
            raise UsageError(
                f"{folder}: a JSON file has a field of another kind than is written there ({exc!r})"
            ) from None
    raise UsageError(f"{folder}: holds none of {', '.join(KNOWN)}; name a folder that compress, finetune or make wrote")


def _name(folder: Path) -> str:
    return Path(folder).resolve().name


def _experiment(folder: Path) -> Run:
    data = read_json(folder / "experiment.json", EXPERIMENT, UsageError)
    table = _table(folder / "metrics.json")
    networks = []
    for entry in data.get("networks", []):
        try:
            networks.append(_network(folder, entry, table))
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise UsageError(f"{folder / 'experiment.json'}: an entry of 'networks' is damaged ({exc!r})") from None
    return Run(
        str(data.get("name", _name(folder))), str(data.get("title", _name(folder))), str(data.get("network", "")),
        str(data.get("images", "")), networks, _curves(table), _time_points(data.get("times", [])), tuple(data.get("remarks", [])),
        tuple(data.get("commands", [])), dict(data.get("versions", {})), dict(data.get("files", {})),
    )  # fmt: skip


def _score(entry: Optional[Mapping[str, Any]]) -> Optional[Score]:
    if not entry or not entry.get("images"):
        return None
    return Score(int(entry["images"]), {int(k): int(v) for k, v in entry["correct"].items()})


def label_of(method: str, placement: Optional[str]) -> str:
    """A network in words."""
    words = METHODS.get(method, method)
    return f"{words}, {placement} strides" if placement else words


def _network(folder: Path, entry: Mapping[str, Any], table: Optional[MetricsTable]) -> Network:
    method, placement = str(entry["method"]), entry.get("placement") or ""
    plan = read_plan(folder / entry["ranks"]) if entry.get("ranks") else None
    tuned, searched = entry.get("finetuned") or {}, entry.get("search") or {}
    label = str(entry.get("label") or label_of(method, placement))
    return Network(
        label, method, placement, dict(entry.get("macs", {})), entry.get("parameters"), _score(entry.get("score")),
        _score(tuned.get("score")), tuned.get("epochs"), searched.get("seconds", plan.about.search_seconds if plan else None),
        _layers(table, plan, placement or "exact", entry.get("options")) if plan and table else (),
        read_training(folder / tuned["folder"], label) if tuned.get("folder") else None,
        _target(plan) if plan else entry.get("target"), _details(plan), searched.get("evaluations"), _learning(plan), tuned.get("iterations"),
    )  # fmt: skip


def _learning(plan: Optional[Plan]) -> tuple[float, ...]:
    found = (plan.about.learning or {}).get("accuracy", ()) if plan else ()
    return tuple(float(v) for v in found)


def _target(plan: Optional[Plan]) -> Optional[float]:
    return (plan.about.targets or {}).get("macs") if plan else None


def _details(plan: Optional[Plan]) -> tuple[tuple[str, str], ...]:
    if plan is None:
        return ()
    known = plan.about.known()
    found = [(k.replace("_", " "), known.get(k)) for k in DETAILS]
    return tuple((k, f"{v:.6g}" if isinstance(v, float) else str(v)) for k, v in found if v is not None)


def _table(path: Path) -> Optional[MetricsTable]:
    return read_metrics(path) if path.is_file() else None


def _curves(table: Optional[MetricsTable]) -> tuple[LayerCurve, ...]:
    found = []
    several = table is not None and len({m.name for m in table.layers}) < len(table.layers)
    for m in table.layers if table else ():
        name, ranks = f"{m.name}, {m.scheme}" if several else m.name, m.axis
        try:
            samples = m.measured_points(table.baseline_accuracy if table else None)
            measured = m.measured(table.baseline_accuracy if table else None)
        except MetricsError:
            found.append(LayerCurve(name, ranks, m.energy))
        else:
            found.append(LayerCurve(name, ranks, m.energy, measured, (m.axis[samples[0]], samples[1])))
    return tuple(found)


def _bounds(table: MetricsTable, plan: Plan, saved: Optional[Mapping[str, Any]]) -> dict[str, tuple[int, int]]:
    """R_min and R_max by layer, where the search can be set up again from what is known of it."""
    about = plan.about
    if about.method not in ("map", "model", "inf"):
        return {}
    try:
        if saved:
            options = SearchOptions(**{**saved, "whole": frozenset(saved.get("whole", ()))})
            options = replace(options, schemes=_schemes(options.schemes))
        else:
            targets = about.targets or {}
            options = SearchOptions(
                about.method or "map", about.metric or "pca", targets.get("macs"), targets.get("parameters"),
                first_layer=_first_layer(table, plan), convention=about.convention or "paper", preset=about.preset or "budget",
                schemes=_schemes(about.among or PAPER), count="all" if about.counted == EVERYTHING else "paper",
            )  # fmt: skip
        problem = build_problem(table, options)
        space = make_space(problem)
    except EncError:
        return {}
    # On a frontier of several schemes the bounds are places, not ranks.
    own = zip(problem.layers, space.lowest, space.highest)
    return {x.name: (low, high) for x, low, high in own if x.axis is None}


def _schemes(stated: Schemes) -> Schemes:
    """``--schemes`` as a plan or an options file says it."""
    return parse_schemes(stated) if isinstance(stated, str) else tuple(stated)


def _first_layer(table: MetricsTable, plan: Plan) -> str:
    """What seems to have become of the layer that reads the data."""
    name = table.known("first_layer") or table.layers[0].name
    form = plan.forms.get(name)
    rank = None if form is None else rank_of(form)
    half = next((round_half_up(m.max_rank / 2) for m in table.layers if m.name == name), None)
    return "keep" if form is None else "half" if rank == half else "search"


def _layers(
    table: MetricsTable,
    plan: Plan,
    placement: str,
    saved: Optional[Mapping[str, Any]],
    times: Optional[LatencyTable] = None,
) -> tuple[LayerCost, ...]:
    bounds, left, found = _bounds(table, plan, saved), table.widths(plan.forms), []
    for layer, curves in table.by_layer():
        form = plan.forms.get(layer.name, WHOLE)
        # The curve of the scheme that was chosen; version 1 may leave the scheme out.
        m = next((c for c in curves if c.scheme == form.scheme), curves[0])
        form = form if form.scheme else Form(m.scheme, form.ranks)
        made = _layer(m, form, placement, bounds.get(layer.name), left.get(layer.name))
        if times is not None and layer.name in times:
            made = replace(made, times=(times.time_of(layer, WHOLE), times.time_of(layer, form)))
        found.append(made)
    return tuple(found)


def _layer(
    m: LayerMetrics, form: Form, placement: str, bounds: Optional[tuple[int, int]], outputs: Optional[int] = None
) -> LayerCost:
    layer, before = m.layer, _shape(m.layer)
    whole, cost, after = form_cost(layer, WHOLE), form_cost(layer, form, "exact", placement, outputs), before
    if form != WHOLE or outputs is not None:
        words, chain = [], chain_of(layer, form, placement)
        for stage, inputs in (chain if outputs is None else chain.ending(outputs)).inputs(layer):
            kernel, stride = getattr(stage.convolution, "kernel", None), getattr(stage.convolution, "stride", (1, 1))
            words.append(_geometry(inputs, stage.num_output, kernel, stride, layer.groups))
        after = " + ".join(words)
    output = f"{layer.output[0]}x{layer.output[1]}"
    return LayerCost(
        m.name, str(form), before, after, output, rank_of(form), m.max_rank, (whole[0], cost[0]), (whole[1], cost[1]),
        *(bounds or (None, None)),
    )  # fmt: skip


def _shape(layer: Layer) -> str:
    conv = layer.convolution
    kernel = conv.kernel if conv is not None else None
    return _geometry(layer.in_channels, layer.out_channels, kernel, conv.stride if conv else (1, 1), layer.groups)


def _geometry(inputs: int, outputs: int, kernel: Optional[tuple[int, int]], stride: tuple[int, int], groups: int) -> str:  # fmt: skip
    text = f"{inputs}→{outputs}"
    if kernel is not None:
        text += f", {kernel[0]}x{kernel[1]}"
    if stride != (1, 1):
        text += f" /{stride[0]}" if stride[0] == stride[1] else f" /{stride[0]},{stride[1]}"
    return text + (f", {groups} groups" if groups > 1 else "")


def _times(folder: Path) -> Run:
    data = read_json(folder / "times.json", TIMES, UsageError)
    points = _time_points(data.get("times", []))
    return Run(
        _name(folder), str(data.get("title", "Latency")), "", times=points, remarks=tuple(data.get("remarks", [])),
        commands=tuple(data.get("commands", [])), versions=dict(data.get("versions", {})),
    )  # fmt: skip


def _time_points(entries: list[Mapping[str, Any]]) -> tuple[TimePoint, ...]:
    return tuple(
        TimePoint(str(e["network"]), float(e["macs"]), float(e["convolutions"]), float(e["whole"])) for e in entries
    )


def _compression(folder: Path) -> Run:
    """A folder of ``enc-caffe compress`` or ``emit``, or any with ranks.json."""
    plan, table = read_plan(folder / "ranks.json"), _table(folder / "metrics.json")
    times = read_latency(folder / "latency.json") if (folder / "latency.json").is_file() else None
    evaluation: dict[str, Any] = {}
    if (folder / "evaluation.json").is_file():
        evaluation = read_json(folder / "evaluation.json", "enc-caffe-compression/1", UsageError)
    images = int(evaluation.get("images", 0))
    macs = {c: evaluation["macs"][f"{c}, decomposable"] for c in ("paper", "exact") if f"{c}, decomposable" in evaluation.get("macs", {})}  # fmt: skip
    if not macs and table is not None:
        macs = plan_ratios(table, plan)
    scores = {k: {**evaluation[k], "images": images} for k in ("original", "compressed") if k in evaluation}
    method = plan.about.method or "ranks"
    networks = [
        Network("original", "original", "", {"paper": 1.0, "exact": 1.0}, 1.0, _score(scores.get("original"))),
        Network(
            label_of(method, None), method, "", macs, evaluation.get("parameters", plan.about.params_ratio),
            _score(scores.get("compressed")), layers=_layers(table, plan, "exact", None, times) if table else (),
            target=_target(plan), details=_details(plan),
        ),
    ]  # fmt: skip
    words = f"Accuracy on {images:,} images of {Path(str(evaluation.get('lmdb', ''))).name}" if images else ""
    words += ", the very ones it was fitted to" if images and evaluation.get("chosen_by_these_images") else ""
    files = {n: sha256(folder / n) for n in ("ranks.json", "metrics.json", "compressed.caffemodel", "train_val.prototxt") if (folder / n).is_file()}  # fmt: skip
    return Run(
        _name(folder), f"{plan.network}: {label_of(method, None)}", plan.network, words, networks, _curves(table),
        versions=versions(), files=files, remarks=_made(evaluation, plan),
    )  # fmt: skip


def _made(evaluation: Mapping[str, Any], plan: Plan) -> tuple[str, ...]:
    """How the layers got their weights and ranks, where it was not by plain SVD and a search alone."""
    found, apart, refined = [], evaluation.get("divergence"), plan.about.refined
    taken = evaluation.get("time")
    if taken:
        found.append(
            f"Time from end to end in {taken['where']}: {taken['original_ns'] / 1e6:.3f} ms before, {taken['compressed_ns'] / 1e6:.3f} ms "
            f"after, {taken['ratio']:.3f} of it; {taken['predicted']:.3f} was predicted."
        )
    if apart:
        found.append(
            f"Decomposition: {evaluation.get('decomposition', 'svd')}. Mean divergence from the original "
            f"{counted(apart['mean'], apart.get('unit', ''))} on the {apart['images']:,} images that it was chosen by."
        )
    if refined:
        found.append(
            f"Ranks refined by {refined['evaluations']} whole network{'s' if refined['evaluations'] != 1 else ''}: divergence {refined['divergence_before']:.4g} to "
            f"{refined['divergence']:.4g}."
        )
    return tuple(found)


def read_training(folder: Path, name: str) -> Optional[Training]:
    """Losses and test outputs of the log that a fine-tuning left in its folder."""
    log = folder / "caffe_train.log"
    if not log.is_file():
        return None
    # A run that was interrupted stands in the log more than once: of an iteration the last line counts.
    losses: dict[int, float] = {}
    tests: dict[str, dict[int, float]] = {}
    for point in parse_training(log.read_text(errors="replace")):
        if point.loss is not None:
            losses[point.iteration] = point.loss
        for key, value in (point.test or {}).items():
            tests.setdefault(key, {})[point.iteration] = value
    return Training(name, sorted(losses.items()), {k: sorted(v.items()) for k, v in tests.items()})


def _training_only(folder: Path) -> Run:
    training = read_training(folder, _name(folder))
    network = Network(_name(folder), "fine-tuned", training=training)
    return Run(_name(folder), f"Fine-tuning in {_name(folder)}", "", networks=[network], versions=versions())


def _metrics_only(folder: Path) -> Run:
    table = read_metrics(folder / "metrics.json")
    return Run(_name(folder), f"{table.network}: layer metrics", table.network, table.source, (), _curves(table))


def sha256(path: Path) -> str:
    """Hash of a file's content."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What made the results: this package, Caffe, Python and NumPy, and the processor."""
    import platform

    found = {"enc-caffe": __version__, "Python": platform.python_version(), "NumPy": np.__version__}
    try:
        about = find_caffe().about
        found["Caffe"] = ", ".join(str(about[k]) for k in ("commit", "version", "source", "blas") if k in about) or "its origin is not recorded"  # fmt: skip
    except (EncError, json.JSONDecodeError):
        found["Caffe"] = "none"
    found["processor"] = _processor()
    return found


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.machine()
