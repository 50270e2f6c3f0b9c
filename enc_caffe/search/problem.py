"""What a search method gets and gives: arrays, costs and bounds in; ranks out. No files, no Caffe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence

import numpy as np

from enc_caffe.complexity import layer_macs, layer_parameters, rank_macs, rank_parameters
from enc_caffe.errors import InfeasibleError, MetricsError, UsageError
from enc_caffe.metrics.curves import RankOf, rank_over_metric
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.rounding import round_half_up

FIRST_LAYER = ("keep", "half", "search")
METRICS = ("pca", "measured")


@dataclass(frozen=True)
class SearchLayer:
    """One layer whose rank is searched.

    Attributes
    ----------
    name : str
    low, high : int
        Bounds of the rank.
    macs, parameters : int
        Cost of one unit of rank, MACs in the problem's convention.
    metric : ndarray, shape (high + 1,)
        Metric at every rank.
    rank_of : callable
        Inverse of the metric: y to a real-valued rank.
    """

    name: str
    low: int
    high: int
    macs: int
    parameters: int
    metric: np.ndarray
    rank_of: RankOf


@dataclass(frozen=True)
class SearchProblem:
    """Layers to search, fixed ranks, what the rest costs, and the budget of MACs.

    ``fixed`` are ranks that are decided before the search; ``fixed_macs`` is what those and the layers left whole
    cost. ``original_macs`` is C_orig of the counted layers.
    """

    layers: tuple[SearchLayer, ...]
    original_macs: int
    original_parameters: int
    budget: float
    convention: str
    fixed: Mapping[str, int] = field(default_factory=dict)
    fixed_macs: int = 0
    fixed_parameters: int = 0

    def macs(self, ranks: Sequence[int]) -> int:
        """MACs of the counted layers at these ranks of ``layers``."""
        return self.fixed_macs + sum(layer.macs * int(r) for layer, r in zip(self.layers, ranks))

    def parameters(self, ranks: Sequence[int]) -> int:
        """Parameters of the counted layers at these ranks of ``layers``."""
        return self.fixed_parameters + sum(layer.parameters * int(r) for layer, r in zip(self.layers, ranks))

    def check_feasible(self) -> None:
        """Raise :class:`InfeasibleError`, with the reachable span, for a budget that no rank configuration meets."""
        low = self.macs([layer.low for layer in self.layers]) / self.original_macs
        high = self.macs([layer.high for layer in self.layers]) / self.original_macs
        wanted = self.budget / self.original_macs
        # Above the span there is a configuration within the budget, but a smaller network was asked for.
        if not low <= wanted <= max(1.0, high):
            raise InfeasibleError(
                f"target {wanted:.4f} of the MACs cannot be reached: {low:.4f} to {high:.4f} can "
                f"({self.convention} convention, bounds of the ranks and fixed layers included)"
            )


@dataclass(frozen=True)
class SearchResult:
    """Ranks in the order of ``problem.layers``, the objective's logarithm, and what the search went through."""

    ranks: tuple[int, ...]
    log_objective: float
    candidates: int = 1
    proven_optimal: bool = False
    level: Optional[float] = None
    gap: Optional[float] = None

    def plan_ranks(self, problem: SearchProblem) -> dict[str, int]:
        """All ranks of the plan, the fixed ones included."""
        return {**problem.fixed, **{layer.name: r for layer, r in zip(problem.layers, self.ranks)}}


def log_product(problem: SearchProblem, ranks: Sequence[int]) -> float:
    """Logarithm of the product of the layers' metrics (Eq. 6, 7); minus infinity where one of them is 0."""
    with np.errstate(divide="ignore"):
        return float(sum(np.log(max(float(layer.metric[r]), 0.0)) for layer, r in zip(problem.layers, ranks)))


def build_problem(
    table: MetricsTable,
    metric: str,
    target_flops: float,
    first_layer: str = "keep",
    floor: float = 0.1,
    convention: str = "paper",
) -> SearchProblem:
    """From a metrics file to arrays.

    Parameters
    ----------
    metric : {'pca', 'measured'}
    target_flops : float
        Budget as a part of C_orig, the MACs of the layers that the table lists.
    first_layer : {'keep', 'half', 'search'}
        The layer that reads the data (the file's ``first_layer``, else its first entry) stays whole, is fixed at half its
        r_max, or is searched like the others.
    floor : float
        Lowest rank as a part of r_max.
    convention : {'paper', 'exact'}
    """
    if metric not in METRICS:
        raise UsageError(f"--metric {metric}: known are {', '.join(METRICS)}")
    if first_layer not in FIRST_LAYER:
        raise UsageError(f"--first_layer {first_layer}: known are {', '.join(FIRST_LAYER)}")
    if not 0 <= floor <= 1:
        raise UsageError(f"--floor {floor}: a part of r_max between 0 and 1 is needed")
    if not 0 < target_flops <= 1:
        raise UsageError(f"--target_flops {target_flops}: a part of the original MACs in (0, 1] is needed")
    layers, fixed = [], {}
    fixed_macs = fixed_parameters = original = original_parameters = 0
    first = dict(table.extra).get("first_layer", table.layers[0].name)
    for entry in table.layers:
        whole, weights = layer_macs(entry.layer), layer_parameters(entry.layer)
        original += whole
        original_parameters += weights
        cost = rank_macs(entry.layer, entry.scheme, convention)
        size = rank_parameters(entry.layer, entry.scheme)
        if entry.name == first and first_layer == "keep":
            fixed_macs += whole
            fixed_parameters += weights
        elif entry.name == first and first_layer == "half":
            rank = fixed[entry.name] = max(1, round_half_up(entry.max_rank / 2))
            fixed_macs += rank * cost
            fixed_parameters += rank * size
        else:
            low = max(1, round_half_up(floor * entry.max_rank))
            values, inverse = _curve(entry, table, metric)
            layers.append(SearchLayer(entry.name, low, entry.max_rank, cost, size, values, inverse))
    if not layers:
        raise MetricsError(f"network '{table.network}': no layer is left to search with --first_layer {first_layer}")
    return SearchProblem(
        tuple(layers),
        original,
        original_parameters,
        target_flops * original,
        convention,
        fixed,
        fixed_macs,
        fixed_parameters,
    )


def _curve(entry: LayerMetrics, table: MetricsTable, metric: str) -> tuple[np.ndarray, RankOf]:
    if metric == "measured":
        ranks, values = entry.measured_points(table.baseline_accuracy)
        return entry.measured(table.baseline_accuracy), rank_over_metric(ranks, values)
    # The published runs map PCA energy back to ranks through the sampled ranks only; without samples, through all.
    ranks = np.array(entry.sampled_ranks) if entry.sampled_ranks else np.arange(1, entry.max_rank + 1)
    return entry.energy, rank_over_metric(ranks, entry.energy[ranks])
