"""From a metrics table and options to the arrays of a search problem."""

from __future__ import annotations

import math
from typing import Mapping, Optional

import numpy as np

from enc_caffe.complexity import layer_macs, layer_parameters, rank_macs, rank_parameters
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.metrics.curves import RankOf, inverse_of_curve, rank_over_metric
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.rounding import round_half_up
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import SearchLayer, SearchProblem

#: Latency of one layer: nanoseconds whole, and at rank 0 to r_max.
LatencyCurve = tuple[int, np.ndarray]


def build_problem(
    table: MetricsTable, options: SearchOptions, latency: Optional[Mapping[str, LatencyCurve]] = None
) -> SearchProblem:
    """Arrays of a search problem.

    Parameters
    ----------
    table : MetricsTable
    options : SearchOptions
    latency : mapping of layer to (nanoseconds whole, nanoseconds at rank 0 to r_max), optional
        Needed for a budget of latency, which then counts the layers of the table.

    Raises
    ------
    UsageError
        For bounds and layers that contradict each other or the table.
    MetricsError
        If a layer lacks what the metric needs, or no layer is left to search.
    """
    _check_names(table, options)
    if "latency" in options.targets and latency is None:
        raise UsageError("--target_latency needs --latency LATENCY.json (enc-caffe latency measures one)")
    originals = {"macs": 0, "parameters": 0}
    if latency is not None:
        originals["latency"] = 0
    fixed: dict[str, int] = {}
    spent = dict.fromkeys(originals, 0)
    layers = []
    first = dict(table.extra).get("first_layer", table.layers[0].name)
    for entry in table.layers:
        whole, costs = _costs(entry, options.convention, latency)
        for name, value in whole.items():
            originals[name] += value
        ranks = allowed_ranks(entry, options)
        bounded = entry.name in options.bounds
        if (entry.name == first and options.first_layer == "keep" and not bounded) or entry.name in options.whole or not len(ranks):  # fmt: skip
            for name, value in whole.items():
                spent[name] += value
        elif entry.name == first and options.first_layer == "half" and not bounded:
            rank = fixed[entry.name] = max(1, round_half_up(entry.max_rank / 2))
            for name, curve in costs.items():
                spent[name] += int(curve[rank])
        elif len(ranks) == 1:
            fixed[entry.name] = int(ranks[0])
            for name, curve in costs.items():
                spent[name] += int(curve[ranks[0]])
        else:
            values, inverse = _curve(entry, table, options)
            layers.append(
                SearchLayer(
                    entry.name,
                    ranks,
                    entry.max_rank,
                    costs,
                    values,
                    inverse,
                    entry.energy,
                    entry.vbmf_rank if options.method == "vbmf" else None,
                )
            )
    if not layers:
        raise MetricsError(
            f"network '{table.network}': no layer is left to search (first layer, --whole, --bounds and --multiple_of decide all)"
        )
    fixed_log = _fixed_log_metric(table, options, fixed)
    budgets = {name: part * originals[name] for name, part in options.targets.items()}
    return SearchProblem(tuple(layers), originals, budgets, options, fixed, spent, table.baseline_accuracy, fixed_log)


def _fixed_log_metric(table: MetricsTable, options: SearchOptions, fixed: Mapping[str, int]) -> float:
    if options.metric not in ("measured", "combined"):
        return 0.0
    total = 0.0
    for entry in table.layers:
        # A first layer at half its rank need not have been measured.
        if entry.name in fixed and any(a is not None for a in entry.sampled_accuracy):
            value = float(_curve(entry, table, options)[0][fixed[entry.name]])
            total += math.log(value) if value > 0 else -math.inf
    return total


def allowed_ranks(entry: LayerMetrics, options: SearchOptions) -> np.ndarray:
    """Ranks of a layer within floor, r_max, its own bounds and the multiple; empty where no multiple fits (it stays whole)."""
    low, high = max(1, round_half_up(options.floor * entry.max_rank)), entry.max_rank
    if entry.name in options.bounds:
        lowest, highest = options.bounds[entry.name]
        low, high = lowest if lowest is not None else low, highest if highest is not None else high
        if not 1 <= low <= high <= entry.max_rank:
            raise UsageError(
                f"--bounds {entry.name}={low}:{high}: 1 <= lowest <= highest <= r_max = {entry.max_rank} is needed"
            )
    ranks = np.arange(low, high + 1)
    return ranks[ranks % options.multiple_of == 0]


def _check_names(table: MetricsTable, options: SearchOptions) -> None:
    known = {m.name for m in table.layers}
    for flag, names in (("--bounds", set(options.bounds)), ("--whole", set(options.whole))):
        for name in sorted(names - known):
            raise UsageError(f"{flag} {name}: the metrics of '{table.network}' have no such layer")
    for name in sorted(set(options.bounds) & options.whole):
        raise UsageError(f"layer '{name}' stands in --bounds and in --whole; one of them is needed")


def _costs(
    entry: LayerMetrics, convention: str, latency: Optional[Mapping[str, LatencyCurve]]
) -> tuple[dict[str, int], dict[str, np.ndarray]]:
    grid = np.arange(entry.max_rank + 1, dtype=np.int64)
    whole = {"macs": layer_macs(entry.layer), "parameters": layer_parameters(entry.layer)}
    costs = {
        "macs": grid * rank_macs(entry.layer, entry.scheme, convention),
        "parameters": grid * rank_parameters(entry.layer, entry.scheme),
    }
    if latency is not None:
        if entry.name not in latency:
            raise MetricsError(
                f"layer '{entry.name}': the latency table has no such layer; measure it with enc-caffe latency"
            )
        whole["latency"], curve = latency[entry.name]
        if len(curve) != entry.max_rank + 1:
            raise MetricsError(
                f"layer '{entry.name}': the latency table ends at rank {len(curve) - 1}, but r_max is {entry.max_rank}"
            )
        costs["latency"] = curve
    return whole, costs


def _curve(entry: LayerMetrics, table: MetricsTable, options: SearchOptions) -> tuple[np.ndarray, RankOf]:
    kind = "measured" if options.metric == "combined" else options.metric
    if kind == "pca":
        if options.preset == "paper":
            return entry.energy, inverse_of_curve(entry.energy)
        # The published runs map PCA energy back to ranks through the sampled ranks only; without samples, through all.
        ranks = np.array(entry.sampled_ranks) if entry.sampled_ranks else np.arange(1, entry.max_rank + 1)
        return entry.energy, rank_over_metric(ranks, entry.energy[ranks])
    if kind == "measured":
        points, values = entry.measured_points(table.baseline_accuracy)
        curve = entry.measured(table.baseline_accuracy)
    else:
        points, values = entry.surrogate_points(kind)
        curve = entry.surrogate(kind)
    return curve, inverse_of_curve(curve) if options.preset == "paper" else rank_over_metric(points, values)
