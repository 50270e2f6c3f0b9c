"""From metrics and options to rank plans: one search, or a sweep of them."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.complexity import network_complexity
from enc_caffe.errors import EncError, InfeasibleError
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.network import Network
from enc_caffe.plan import RankPlan, plan_about
from enc_caffe.search import exact, methods
from enc_caffe.search.build import LatencyCurve, build_problem
from enc_caffe.search.enc_map import predicted_accuracy
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.refine import Refined

#: Accuracy of a whole plan, all its ranks by layer.
PlanAccuracy = Callable[[Mapping[str, int]], float]
#: Logarithm of the largest objective that is written: measured accuracies above the baseline make products without end.
MOST = 700.0


@dataclass(frozen=True)
class Found:
    """A search: the plan, and what the method and the problem know of it."""

    plan: RankPlan
    result: SearchResult
    problem: SearchProblem


def search_plan(
    table: MetricsTable,
    options: SearchOptions,
    accuracy: Optional[PlanAccuracy] = None,
    latency: Optional[Mapping[str, LatencyCurve]] = None,
) -> Found:
    """Search ranks; the plan carries its costs, how it was found, and how far it may be from the optimum.

    Parameters
    ----------
    table : MetricsTable
    options : SearchOptions
    accuracy : callable of the plan's ranks, optional
        Evaluates a plan; ``inf`` needs it, ``random``, ``iterative`` and ``--target_accuracy`` use it.
    latency : mapping of layer to (nanoseconds whole, nanoseconds by rank), optional
    """
    methods.method_for(options.method)
    problem = build_problem(table, options, latency)
    of_ranks: Optional[AccuracyOf] = None
    if accuracy is not None:
        known = accuracy

        def of_ranks(ranks: Sequence[int]) -> float:
            return known(SearchResult(tuple(ranks), 0.0).plan_ranks(problem))

    start = time.perf_counter()
    result = methods.run(problem, of_ranks)
    seconds = time.perf_counter() - start
    result = replace(result, gap=optimality_gap(problem, result))
    return Found(_plan(table, problem, result, seconds), result, problem)


def check_search(
    table: MetricsTable, options: SearchOptions, latency: Optional[Mapping[str, LatencyCurve]] = None
) -> None:
    """Raise what a search would, of names, bounds and budgets, before the metrics that it needs are measured."""
    methods.method_for(options.method)
    build_problem(table, replace(options, metric="pca"), latency).check_feasible()


def refined_plan(table: MetricsTable, found: Found, refined: Refined) -> Found:
    """A search whose ranks were refined by whole networks: what they cost is counted anew, and how far they are from the
    optimum of the objective is said."""
    problem, result, seconds = found.problem, found.result, found.plan.about["search_seconds"]
    if refined.ranks != result.ranks:
        result = SearchResult(refined.ranks, problem.score(refined.ranks), result.candidates)
        result = replace(result, gap=optimality_gap(problem, result))
    plan = _plan(table, problem, result, seconds)
    about = {
        "evaluations": len(refined.evaluated), "divergence_before": refined.evaluated[0][1], "divergence": refined.value,
    }  # fmt: skip
    return Found(replace(plan, about={**plan.about, "refined": about}), result, problem)


def optimality_gap(problem: SearchProblem, result: SearchResult) -> Optional[float]:
    """By how much the logarithm of the objective could be larger at the budgets, or at the plan's own costs above them."""
    if result.gap is not None:
        return result.gap
    budgets = {n: max(problem.budgets.get(n, 0.0), problem.cost(n, result.ranks)) for n in problem.budgets}
    if problem.options.target_accuracy is not None or not budgets:
        # Of plans that reach an accuracy the cheapest was asked for: others may not cost more.
        budgets["macs"] = problem.cost("macs", result.ranks)
    try:
        plans, more = exact.plans(replace(problem, budgets=budgets))
    except InfeasibleError:
        return None
    if result.log_objective == -math.inf:
        return math.inf
    return max(0.0, plans[0][1] + more - result.log_objective)


def _plan(table: MetricsTable, problem: SearchProblem, result: SearchResult, seconds: float) -> RankPlan:
    options = problem.options
    about = plan_about(
        options.method, options.metric, methods.solver_name(problem), problem.ratio("macs", result.ranks),
        problem.ratio("parameters", result.ranks), options.convention, "the layers that the metrics list",
        math.exp(min(result.log_objective, MOST)), result.proven_optimal, seconds,
    )  # fmt: skip
    about.update(
        preset=options.preset,
        targets={**options.targets, **({"accuracy": options.target_accuracy} if options.target_accuracy else {})},
        candidates=result.candidates,
        gap=result.gap if result.gap is not None and math.isfinite(result.gap) else None,
        latency_ratio=problem.ratio("latency", result.ranks) if "latency" in problem.originals else None,
        evaluated=len(result.evaluated) or None,
        accuracy=result.accuracy,
        note=result.note or None,
    )
    schemes = {entry.name: entry.scheme for entry in table.layers}
    ranks = result.plan_ranks(problem)
    ordered = {m.name: ranks[m.name] for m in table.layers if m.name in ranks}
    return RankPlan(table.network, ordered, {n: schemes[n] for n in ordered}, about)


def plan_ratios(table: MetricsTable, plan: RankPlan) -> dict[str, float]:
    """MACs of a plan over the MACs of the layers that the metrics list, by convention."""
    network = Network(table.network, tuple(m.layer for m in table.layers))
    schemes = {m.name: m.scheme for m in table.layers}
    whole = network_complexity(network, {}, schemes, "paper").macs
    return {c: network_complexity(network, plan.ranks, schemes, c).macs / whole for c in ("paper", "exact")}


@dataclass(frozen=True)
class SweepPoint:
    """One target of a sweep: what was found, or why nothing was."""

    target: float
    found: Optional[Found]
    error: str = ""


def sweep(
    table: MetricsTable,
    options: SearchOptions,
    targets: Sequence[float],
    accuracy: Optional[PlanAccuracy] = None,
    latency: Optional[Mapping[str, LatencyCurve]] = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> list[SweepPoint]:
    """One search for every target of MACs; a target that cannot be reached is a point with its reason."""
    points = []
    # A target that makes no sense is an error before anything is searched or evaluated.
    wanted = [options.at("macs", target) for target in targets]
    for i, target in enumerate(targets):
        progress(i, len(targets))
        try:
            points.append(SweepPoint(target, search_plan(table, wanted[i], accuracy, latency)))
        except InfeasibleError as exc:
            points.append(SweepPoint(target, None, str(exc)))
    progress(len(targets), len(targets))
    if all(p.found is None for p in points):
        raise InfeasibleError(points[-1].error)
    return points


def predicted(found: Found) -> Optional[float]:
    """Accuracy by evaluation, else by prediction where the metric has one."""
    if found.result.accuracy is not None:
        return found.result.accuracy
    try:
        return predicted_accuracy(found.problem, found.result.ranks)
    except EncError:
        return None


def sweep_data(table: MetricsTable, options: SearchOptions, points: Sequence[SweepPoint]) -> dict[str, Any]:
    """A sweep as JSON (``enc-caffe-sweep/1``): costs, objective and ranks of every target."""
    entries = []
    for p in points:
        if p.found is None:
            entries.append({"target": p.target, "error": p.error})
            continue
        entries.append({
            "target": p.target, **{k: v for k, v in p.found.plan.about.items() if v is not None},
            "predicted_accuracy": predicted(p.found), "ranks": dict(p.found.plan.ranks),
        })  # fmt: skip
    return {
        "format": "enc-caffe-sweep/1", "network": table.network, "method": options.method, "metric": options.metric,
        "points": entries,
    }  # fmt: skip


def range_of(text: str) -> list[float]:
    """``0.5`` or ``0.2:0.9:0.05`` (both ends included) as a list of numbers; ValueError otherwise."""
    parts = [float(p) for p in text.split(":")]
    if len(parts) == 1:
        return parts
    if not all(math.isfinite(p) for p in parts):
        raise ValueError(f"{text}: finite numbers are needed")
    if len(parts) != 3:
        raise ValueError(f"{text}: a number, or first:last:step, such as 0.2:0.9:0.05")
    first, last, step = parts
    if step <= 0 or last < first:
        raise ValueError(f"{text}: the range is empty; first <= last and step > 0 are needed")
    return [round(first + i * step, 10) for i in range(int(np.floor((last - first) / step + 1e-9)) + 1)]


def evaluated(found: Found, accuracy: PlanAccuracy) -> Found:
    """A search whose plan was evaluated, by the method itself or now."""
    if found.result.accuracy is not None:
        return found
    value = accuracy(found.plan.ranks)
    plan = replace(found.plan, about={**found.plan.about, "accuracy": value})
    return replace(found, plan=plan, result=replace(found.result, accuracy=value))
