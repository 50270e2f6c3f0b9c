"""ENC-Map: all layers at one common value of the metric (Eq. 12 to 14), and the mappings between complexity and accuracy."""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np
import scipy

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult, main_budget

#: Width of the interval of the common metric value at which its bisection ends.
PRECISION = 1e-12
#: Levels that are looked at in one step of it.
SECTIONS = 50


def real_ranks(problem: SearchProblem, level: float) -> np.ndarray:
    """Ranks R_e of Eq. 12 before rounding: every layer at metric value ``level``, within its bounds; shape (layers,)."""
    return np.array(
        [
            min(float(x.points[x.high]), max(float(x.points[x.low]), float(x.rank_of(np.array(level)))))
            for x in problem.layers
        ]
    )


def ranks_at(problem: SearchProblem, level: float) -> tuple[int, ...]:
    """Ranks R_e of Eq. 12, each the nearest that is allowed."""
    return tuple(x.allowed(r) for x, r in zip(problem.layers, real_ranks(problem, level)))


def ranks_for(problem: SearchProblem, resource: str, amount: float) -> tuple[tuple[int, ...], float]:
    """f_C-R of Eq. 14: ranks whose real-valued ranks cost ``amount`` over the searched layers, and their level.

    An amount beyond what the layers' bounds span gives the bound.
    """

    def missing(level: float) -> float:
        ranks = real_ranks(problem, level)
        return sum(float(np.interp(r, x.points, x.costs[resource])) for x, r in zip(problem.layers, ranks)) - amount  # fmt: skip

    top = max(1.0, max(float(np.max(x.metric)) for x in problem.layers))
    if missing(0.0) >= 0:
        level = 0.0
    elif missing(top) <= 0:
        level = top
    else:
        level = float(scipy.optimize.brentq(missing, 0.0, top, xtol=PRECISION))
    return ranks_at(problem, level), level


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """Ranks for a complexity (f_C-R of Eq. 14).

    By preset: ``budget`` takes the largest common value whose rounded ranks stay within every budget; ``paper`` rounds the
    ranks whose real values cost the target; ``published`` takes the common value whose rounded ranks cost nearest to it.

    Raises
    ------
    InfeasibleError
        If a budget is below what the lowest ranks cost.
    """
    problem.check_feasible()
    preset = problem.options.preset
    if preset == "paper":
        # The tightest budget decides; the mapping knows one complexity only.
        found = [ranks_for(problem, n, b - problem.fixed_costs.get(n, 0)) for n, b in problem.budgets.items()]
        ranks, level = min(found, key=lambda f: f[1])
    else:
        level = _highest_fitting(problem)
        ranks = ranks_at(problem, level)
        if preset == "published":
            resource, budget = main_budget(problem)
            after = _next(problem, level)
            above = ranks_at(problem, after)
            if problem.cost(resource, above) - budget < budget - problem.cost(resource, ranks):
                ranks, level = above, after
    return SearchResult(ranks, problem.score(ranks), level=level)


def _highest_fitting(problem: SearchProblem) -> float:
    """The cost never falls as the level rises, since no rank does: sections of sections, many levels at once."""
    low, high = 0.0, 1.0
    first = _fitting(problem, np.array([low, high]))
    if first[1]:
        return high
    if not first[0]:
        raise InfeasibleError(
            "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
        )
    while high - low > PRECISION:
        levels = np.linspace(low, high, SECTIONS)
        last = int(np.flatnonzero(_fitting(problem, levels))[-1])
        low, high = float(levels[last]), float(levels[last + 1])
    return low


def _fitting(problem: SearchProblem, levels: np.ndarray) -> np.ndarray:
    """Whether the rounded ranks at each level meet all budgets."""
    spent = {n: np.full(len(levels), problem.fixed_costs.get(n, 0), dtype=np.int64) for n in problem.budgets}
    for layer in problem.layers:
        real = np.clip(np.asarray(layer.rank_of(levels), dtype=float), *layer.points[[layer.low, layer.high]])
        ranks = layer.nearest(real)
        for name in spent:
            spent[name] += layer.costs[name][ranks]
    return np.all([spent[n] <= b for n, b in problem.budgets.items()], axis=0)


def _next(problem: SearchProblem, level: float) -> float:
    """The level just above at which some rank is higher."""
    return min(1.0, level + 2 * PRECISION)


def complexity_to_accuracy(problem: SearchProblem, ratios: Sequence[float]) -> list[float]:
    """f_C-A of Eq. 13: predicted accuracy of the common-metric ranks at parts of C_orig."""
    resource = main_budget(problem)[0]
    return [predicted_accuracy(problem, search(problem.with_budget(resource, r)).ranks) for r in ratios]


def predicted_accuracy(problem: SearchProblem, ranks: Sequence[int]) -> float:
    """Baseline accuracy times A_m (Eq. 6).

    Raises
    ------
    UsageError
        For a metric that is no accuracy: A_p is known up to an unknown scale only (the paper's section III).
    """
    if problem.options.metric not in ("measured", "combined"):
        raise UsageError(
            f"metric '{problem.options.metric}' predicts no accuracy: use --metric measured, or give --model, --weights and "
            "--lmdb so that plans are evaluated"
        )
    # Measured curves can lie above the baseline by chance; no accuracy lies above 1.
    return min(1.0, (problem.baseline or 1.0) * float(np.exp(problem.log_product(ranks) + problem.fixed_log_metric)))
