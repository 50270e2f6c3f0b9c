"""What a search method gets and gives: arrays, costs and bounds in; places out. No files, no Caffe.

Every layer has one axis of forms in order of cost, and a plan is one place on each. Where a layer has one scheme of one
rank, the place IS the rank, and so the methods, which are the paper's, call places ranks. Where it has several schemes, the
axis is the frontier of its undominated forms (:mod:`enc_caffe.search.frontier`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Iterable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.curves import RankOf
from enc_caffe.network import Layer
from enc_caffe.search.options import FLAGS, RESOURCES, SearchOptions

#: What a problem counts where nothing says what the whole network costs.
LISTED = "the layers that the metrics list"
#: What it counts where something does.
EVERYTHING = "all convolutions and fully connected layers"

#: Accuracy of the whole network at the ranks of a plan, in the order of ``problem.layers``; ENC-Inf calls it.
AccuracyOf = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class SearchLayer:
    """One layer whose form is searched.

    Attributes
    ----------
    name : str
    ranks : ndarray of int, increasing
        The places that are allowed (bounds and multiples) on the axis.
    max_rank : int
        The last place.
    costs : mapping of resource to ndarray of int64, shape (max_rank + 1,)
        Cost at every place: MACs, parameters, nanoseconds.
    metric : ndarray, shape (max_rank + 1,)
        y at every place.
    rank_of : callable
        Inverse of the metric: y to a real-valued point of the axis.
    energy : ndarray, shape (max_rank + 1,)
        y_p at every place; the other half of A_c.
    vbmf_rank : int, optional
        Rank by empirical VBMF.
    axis : ndarray of float, shape (max_rank + 1,), optional
        Where the places lie: the rank (default), or the cost.
    forms : tuple of Form, optional
        The form of every place from 0 on; the first is none.
    others : ndarray of int, optional
        Further places, off the axis, that the exact search may choose: as good as those on it by another resource.
    described : Layer, optional
        The layer itself, for methods that look at its geometry.
    together : tuple of tuple of (layer, Form), optional
        Of several layers that are one item (:mod:`enc_caffe.search.groups`): what becomes of each at every place, instead of ``forms``.
    """

    name: str
    ranks: np.ndarray
    max_rank: int
    costs: Mapping[str, np.ndarray]
    metric: np.ndarray
    rank_of: RankOf
    energy: np.ndarray
    vbmf_rank: Optional[int] = None
    axis: Optional[np.ndarray] = None
    forms: tuple[Form, ...] = ()
    others: Optional[np.ndarray] = None
    described: Optional[Layer] = None
    together: tuple[tuple[tuple[str, Form], ...], ...] = ()

    def pairs(self, place: int) -> tuple[tuple[str, Form], ...]:
        """Layers and forms of a place; those that stay whole are not among them."""
        all_ = self.together[place] if self.together else ((self.name, self.forms[place]),)
        return tuple(p for p in all_ if p[1] != WHOLE)

    @property
    def points(self) -> np.ndarray:
        """Where the places lie on the axis."""
        return np.arange(self.max_rank + 1, dtype=float) if self.axis is None else self.axis

    @property
    def choices(self) -> np.ndarray:
        """Every place that the exact search chooses among."""
        return self.ranks if self.others is None else np.union1d(self.ranks, self.others)

    @property
    def low(self) -> int:
        """Lowest allowed rank."""
        return int(self.ranks[0])

    @property
    def high(self) -> int:
        """Highest allowed rank."""
        return int(self.ranks[-1])

    def nearest(self, points: np.ndarray) -> np.ndarray:
        """The allowed places nearest to points of the axis, the higher of two that are equally near."""
        known = self.points[self.ranks]
        at = np.clip(np.searchsorted(known, points), 1, max(1, len(known) - 1))
        low, high = at - 1, np.minimum(at, len(known) - 1)
        return self.ranks[np.where(known[high] - points <= points - known[low], high, low)]

    def allowed(self, point: float) -> int:
        """The allowed place nearest to a point of the axis."""
        return int(self.nearest(np.array(point, dtype=float)))

    def unit(self) -> Optional[tuple[int, ...]]:
        """Cost of one unit of rank by resource where every cost is linear in the rank, else None."""
        units = []
        for values in self.costs.values():
            step = int(values[1]) if len(values) > 1 else 0
            if not np.array_equal(values, step * np.arange(len(values))):
                return None
            units.append(step)
        return tuple(units)


@dataclass(frozen=True)
class SearchProblem:
    """Layers to search, fixed ranks, what the rest costs, and the budgets.

    ``fixed`` are forms that are decided before the search; ``fixed_costs`` is what those and the layers left whole cost.
    ``originals`` is what all counted layers cost whole (C_orig), by resource. ``budgets`` are absolute. The objective is
    of the searched layers alone; ``fixed_log_metric``, the sum of log y at the fixed ranks, belongs to the predicted
    accuracy. ``convention`` and ``counted`` say how MACs are counted, and of which layers.
    """

    layers: tuple[SearchLayer, ...]
    originals: Mapping[str, int]
    budgets: Mapping[str, float]
    options: SearchOptions
    fixed: Mapping[str, Form] = field(default_factory=dict)
    fixed_costs: Mapping[str, int] = field(default_factory=dict)
    baseline: Optional[float] = None
    fixed_log_metric: float = 0.0
    convention: str = "paper"
    counted: str = LISTED

    @property
    def combined(self) -> bool:
        """Whether the objective is A_c (Eq. 8); else the product of the layers' metrics."""
        return self.options.metric == "combined"

    def cost(self, resource: str, ranks: Sequence[int]) -> int:
        """Cost of the counted layers at these ranks of ``layers``."""
        return self.fixed_costs.get(resource, 0) + sum(
            int(layer.costs[resource][r]) for layer, r in zip(self.layers, ranks)
        )

    def ratio(self, resource: str, ranks: Sequence[int]) -> float:
        """Cost over C_orig."""
        return self.cost(resource, ranks) / self.originals[resource]

    def macs(self, ranks: Sequence[int]) -> int:
        """MACs of the counted layers at these ranks."""
        return self.cost("macs", ranks)

    def fits(self, ranks: Sequence[int]) -> bool:
        """Whether the ranks satisfy every budget."""
        return all(self.cost(name, ranks) <= limit for name, limit in self.budgets.items())

    def log_product(self, ranks: Sequence[int]) -> float:
        """Logarithm of the product of the layers' metrics (Eq. 6, 7); minus infinity where one of them is 0."""
        return _log_product(layer.metric[r] for layer, r in zip(self.layers, ranks))

    def log_energy(self, ranks: Sequence[int]) -> float:
        """Logarithm of A_p (Eq. 7)."""
        return _log_product(layer.energy[r] for layer, r in zip(self.layers, ranks))

    def score(self, ranks: Sequence[int]) -> float:
        """Logarithm of A_p, A_m (Eq. 6, 7) or A_c (Eq. 8); minus infinity where it is 0."""
        product = self.log_product(ranks)
        return log_combined(self.log_energy(ranks), product, self.ratio("macs", ranks)) if self.combined else product

    def with_budget(self, resource: str, part: float) -> SearchProblem:
        """The same problem with another budget of one resource, as a part of C_orig."""
        return replace(
            self,
            budgets={**self.budgets, resource: part * self.originals[resource]},
            options=self.options.at(resource, part),
        )

    def span(self, resource: str) -> tuple[int, int]:
        """What the cheapest and the dearest choice of every layer cost."""
        fixed = self.fixed_costs.get(resource, 0)
        low, high = (sum(int(end(x.costs[resource][x.choices])) for x in self.layers) for end in (np.min, np.max))
        return fixed + low, fixed + high

    def check_feasible(self) -> None:
        """Raise :class:`InfeasibleError` that says which budget no rank configuration meets, and by how much."""
        for name, limit in self.budgets.items():
            whole = self.originals[name]
            low, high = self.span(name)
            # Above the span there is a configuration within the budget, but a smaller network was asked for.
            if not low <= limit <= max(whole, high):
                raise InfeasibleError(
                    f"target {limit / whole:.4f} of the {RESOURCES[name]} cannot be reached: {low / whole:.4f} to {high / whole:.4f} of the "
                    f"{RESOURCES[name]} can ({self.convention} convention, of {self.counted}; bounds of the ranks and fixed layers "
                    f"included): the lowest ranks miss it by {max(0.0, (low - limit) / whole):.4f}; raise {FLAGS[name]}, "
                    f"or {self.remedies(name)}"
                )

    def remedies(self, resource: str) -> str:
        """What would let the cost fall further, the flag that frees most first."""
        frozen = self.fixed_costs.get(resource, 0) / max(1, self.originals[resource])
        steps = ", or give a smaller --multiple_of" if self.options.multiple_of > 1 else ""
        found = [f"lower --floor or --bounds{steps}"]
        if self.options.first_layer_is != "search":
            found.insert(0, "search the first layer too (--first_layer search)")
        if self.options.schemes != "all" and frozen > 0.02:
            found.insert(
                0, f"let more layers be decomposed (--schemes all; {frozen:.4f} is in layers that stay as they are)"
            )
        return ", or ".join(found)


def log_combined(log_energy: float, log_product: float, ratio: float) -> float:
    """log of A_c = A_p C / C_orig + A_m (Eq. 8) from the two log-products."""
    first = log_energy + math.log(ratio) if ratio > 0 else -math.inf
    top = max(first, log_product)
    return top if top == -math.inf else top + math.log(math.exp(first - top) + math.exp(log_product - top))


def _log_product(values: Iterable[float]) -> float:
    total = 0.0
    for value in values:
        if value <= 0:
            return -math.inf
        total += math.log(value)
    return total


def main_budget(problem: SearchProblem) -> tuple[str, float]:
    """The budget that the mapping and the candidate space follow: MACs, else parameters, else latency."""
    for name in RESOURCES:
        if name in problem.budgets:
            return name, problem.budgets[name]
    raise UsageError(f"no budget: give {', '.join(FLAGS.values())}")


@dataclass(frozen=True)
class SearchResult:
    """Ranks in the order of ``problem.layers``, and what the search went through.

    Attributes
    ----------
    ranks : tuple of int
    log_objective : float
        ``problem.score(ranks)``.
    candidates : int
        Plans that the method chose among.
    proven_optimal : bool
        No allowed plan within the budgets has a larger objective.
    gap : float, optional
        By how much another plan's log-objective could be larger at most.
    level : float, optional
        Common value of the metric (ENC-Map), or part of r_max (uniform).
    best : tuple of (ranks, log-objective)
        The N best, best first, where the method lists them.
    evaluated : tuple of (ranks, accuracy)
        Plans that were evaluated as whole networks.
    space : tuple of (R_min, R_max), optional
        Bounds of the candidate space.
    note : str
        What the user should know about how the ranks were found.
    accuracy : float, optional
        Accuracy of the plan, evaluated or predicted, where the method looked at it.
    learning : mapping, optional
        What an agent learned by: its seed and schedule, and the accuracy of every episode.
    """

    ranks: tuple[int, ...]
    log_objective: float
    candidates: int = 1
    proven_optimal: bool = False
    gap: Optional[float] = None
    level: Optional[float] = None
    best: tuple[tuple[tuple[int, ...], float], ...] = ()
    evaluated: tuple[tuple[tuple[int, ...], float], ...] = ()
    space: Optional[tuple[tuple[int, ...], tuple[int, ...]]] = None
    note: str = ""
    accuracy: Optional[float] = None
    learning: Optional[Mapping[str, Any]] = None

    def plan_forms(self, problem: SearchProblem) -> dict[str, Form]:
        """All forms of the plan, the fixed ones included; layers that stay whole are absent."""
        found = {**problem.fixed, **{n: f for x, r in zip(problem.layers, self.ranks) for n, f in x.pairs(r)}}
        return {name: form for name, form in found.items() if form != WHOLE}


def best_evaluated(
    problem: SearchProblem,
    plans: Sequence[tuple[tuple[int, ...], float]],
    accuracy: Optional[AccuracyOf],
    candidates: int,
) -> SearchResult:
    """The most accurate of some plans, the earlier one of equals; without images the first, which has the best objective."""
    if accuracy is None:
        return SearchResult(plans[0][0], plans[0][1], candidates, best=tuple(plans))
    evaluated = tuple((ranks, accuracy(ranks)) for ranks, _ in plans)
    ranks, value = max(evaluated, key=lambda e: e[1])
    return SearchResult(
        ranks, problem.score(ranks), candidates, best=tuple(plans), evaluated=evaluated, accuracy=value
    )  # fmt: skip
