"""From metrics and options to rank plans: one search, or a sweep of them."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Mapping, Optional, Sequence

from enc_caffe.errors import EncError, InfeasibleError, MetricsError
from enc_caffe.form import CONVENTIONS, Form
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.plan import Plan, Provenance
from enc_caffe.search import exact, methods
from enc_caffe.search.allowed import has_values
from enc_caffe.search.build import TimeOf, build_problem
from enc_caffe.search.enc_map import predicted_accuracy
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.own import UNBUDGETED
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.refine import Refined

#: Accuracy of a whole plan, all its forms by layer.
PlanAccuracy = Callable[[Mapping[str, Form]], float]
#: Logarithm of the largest objective that is written: measured accuracies above the baseline make products without end.
MOST = 700.0
#: One scheme alone is looked at only where its sum of divergences is at most so many times that of all forms. ResNet-56's best single scheme
#: has 1.5, 1.26 and 1.23 times as much at half, 0.3 and 0.2 of the MACs; on the 9,980 test images none had more right than
#: the mixture, by more than chance (docs/forms.md).
CLOSE = 1.3


@dataclass(frozen=True)
class Found:
    """A search: the plan, and what the method and the problem know of it."""

    plan: Plan
    result: SearchResult
    problem: SearchProblem


def search_plan(
    table: MetricsTable,
    options: SearchOptions,
    accuracy: Optional[PlanAccuracy] = None,
    time_of: Optional[TimeOf] = None,
) -> Found:
    """Search ranks; the plan carries its costs, how it was found, and how far it may be from the optimum.

    Parameters
    ----------
    table : MetricsTable
    options : SearchOptions
    accuracy : callable of the plan's forms, optional
        Evaluates a plan; ``inf``, ``adc`` and ``amc`` need it, ``random``, ``ars`` and ``--target_accuracy`` use it.
    time_of : callable of layer and form, optional
        Nanoseconds, where latency has a budget.
    """
    methods.method_for(options.method)
    problem = build_problem(table, options, time_of)
    of_ranks: Optional[AccuracyOf] = None
    if accuracy is not None:
        known = accuracy

        def of_ranks(ranks: Sequence[int]) -> float:
            return known(SearchResult(tuple(ranks), 0.0).plan_forms(problem))

    start = time.perf_counter()
    result = methods.run(problem, of_ranks)
    seconds = time.perf_counter() - start
    result = replace(result, gap=optimality_gap(problem, result))
    return Found(_plan(table, problem, result, seconds), result, problem)


def with_one_scheme(table: MetricsTable, options: SearchOptions, scheme: str) -> Optional[MetricsTable]:
    """The table with this scheme alone for every layer that has a measured curve of it; None where no layer would lose a choice.

    Layers that cannot have the scheme keep all of theirs.
    """
    kept: list[LayerMetrics] = []
    for _, curves in table.by_layer():
        own = [m for m in curves if m.scheme == scheme and has_values(m, options.metric)]
        kept += own or list(curves)
    return replace(table, layers=tuple(kept)) if len(kept) < len(table.layers) else None


def search_mixture(
    table: MetricsTable,
    options: SearchOptions,
    value_of: PlanAccuracy,
    time_of: Optional[TimeOf] = None,
    search: Optional[Callable[[MetricsTable], Found]] = None,
) -> list[tuple[float, Found]]:
    """The optimum among all forms, and those with one scheme wherever it can be had, by the whole network's value, least first.

    A sum over layers leaves out how their errors add up, and the more forms a layer can choose among the more the sum
    flatters: whole networks decide. One scheme alone whose sum is far behind (:data:`CLOSE`) is not looked at.

    Parameters
    ----------
    value_of : callable of the plan's forms
        What is to become small, such as the network's mean divergence from the original.
    search : callable of a table, optional
        Finds each plan more closely than :func:`search_plan`, whose sums say which tables are worth it.
    """
    plain = search_plan(table, options, None, time_of)
    worth, found = [table], [plain]
    for scheme in dict.fromkeys(m.scheme for m in table.layers):
        single = with_one_scheme(table, options, scheme)
        if single is not None:
            # A target that this scheme cannot reach is no fault of the others.
            with contextlib.suppress(InfeasibleError, MetricsError):
                one = search_plan(single, options, None, time_of)
                if one.result.log_objective >= CLOSE * min(0.0, plain.result.log_objective):
                    worth.append(single)
                    found.append(one)
    if search is not None:
        found = [search(known) for known in worth]
    different = {tuple(f.plan.forms.items()): f for f in reversed(found)}
    return sorted(((value_of(f.plan.forms), f) for f in different.values()), key=lambda pair: pair[0])


def check_search(table: MetricsTable, options: SearchOptions, time_of: Optional[TimeOf] = None) -> None:
    """Raise what a search would, of names, bounds and budgets, before the metrics that it needs are measured."""
    methods.method_for(options.method)
    # Before anything is measured a form is worth its place on the ladder.
    layers = tuple(
        replace(m, extra=(("sampled_divergence", [1.0 / r for r in m.sampled_ranks]),)) for m in table.layers
    )
    problem = build_problem(replace(table, layers=layers), replace(options, metric="divergence"), time_of)
    if options.method not in UNBUDGETED:
        problem.check_feasible()
    if options.metric in ("pca", "combined"):
        # These compare no schemes.
        build_problem(table, replace(options, metric="pca"), time_of)


def refined_plan(table: MetricsTable, found: Found, refined: Refined) -> Found:
    """A search whose ranks were refined by whole networks: what they cost is counted anew, and how far they are from the
    optimum of the objective is said."""
    problem, result, seconds = found.problem, found.result, found.plan.about.search_seconds or 0.0
    if refined.ranks != result.ranks:
        result = SearchResult(refined.ranks, problem.score(refined.ranks), result.candidates)
        result = replace(result, gap=optimality_gap(problem, result))
    plan = _plan(table, problem, result, seconds)
    about = {
        "evaluations": len(refined.evaluated), "divergence_before": refined.evaluated[0][1], "divergence": refined.value,
    }  # fmt: skip
    return Found(replace(plan, about=replace(plan.about, refined=about)), result, problem)


def together_plan(table: MetricsTable, found: Found, ranks: Sequence[int], note: str, seconds: float) -> Found:
    """A search whose plan was changed by what all layers do together; what it costs is counted anew, and the gap to the least sum is
    said."""
    problem = found.problem
    result = SearchResult(tuple(ranks), problem.score(ranks), found.result.candidates, note=note)
    result = replace(result, gap=optimality_gap(problem, result))
    return Found(_plan(table, problem, result, (found.plan.about.search_seconds or 0.0) + seconds), result, problem)


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


def _plan(table: MetricsTable, problem: SearchProblem, result: SearchResult, seconds: float) -> Plan:
    options = problem.options
    targets = {**options.targets, **({"accuracy": options.target_accuracy} if options.target_accuracy else {})}
    about = Provenance(
        method=options.method, metric=options.metric, solver=methods.solver_name(problem), preset=options.preset,
        among=options.schemes if isinstance(options.schemes, str) else ",".join(options.schemes),
        flops_ratio=problem.ratio("macs", result.ranks), params_ratio=problem.ratio("parameters", result.ranks),
        latency_ratio=problem.ratio("latency", result.ranks) if "latency" in problem.originals else None,
        convention=problem.convention, counted=problem.counted, targets=targets,
        objective=math.exp(min(result.log_objective, MOST)), proven_optimal=result.proven_optimal,
        gap=result.gap if result.gap is not None and math.isfinite(result.gap) else None, candidates=result.candidates,
        evaluated=len({ranks for ranks, _ in result.evaluated}) or None, search_seconds=seconds, accuracy=result.accuracy, note=result.note or None,
        learning=result.learning,
    )  # fmt: skip
    forms = result.plan_forms(problem)
    return Plan(table.network, {x.name: forms[x.name] for x, _ in table.by_layer() if x.name in forms}, about)


def plan_ratios(table: MetricsTable, plan: Plan) -> dict[str, float]:
    """MACs of a plan over the MACs of the layers that the metrics list, by convention."""
    whole = table.cost({}, "paper")[0]
    return {c: table.cost(plan.forms, c)[0] / whole for c in CONVENTIONS}


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
    time_of: Optional[TimeOf] = None,
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> list[SweepPoint]:
    """One search for every target of MACs; a target that cannot be reached is a point with its reason."""
    points = []
    # A target that makes no sense is an error before anything is searched or evaluated.
    wanted = [options.at("macs", target) for target in targets]
    for i, target in enumerate(targets):
        progress(i, len(targets))
        try:
            points.append(SweepPoint(target, search_plan(table, wanted[i], accuracy, time_of)))
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
    """A sweep as JSON (``enc-caffe-sweep/2``): costs, objective and forms of every target."""
    entries = []
    for p in points:
        if p.found is None:
            entries.append({"target": p.target, "error": p.error})
            continue
        entries.append({
            "target": p.target, **p.found.plan.about.known(), "predicted_accuracy": predicted(p.found),
            "forms": {n: str(f) for n, f in p.found.plan.forms.items()},
        })  # fmt: skip
    return {
        "format": "enc-caffe-sweep/2", "network": table.network, "method": options.method, "metric": options.metric,
        "points": entries,
    }  # fmt: skip


def evaluated(found: Found, accuracy: PlanAccuracy) -> Found:
    """A search whose plan was evaluated, by the method itself or now."""
    if found.result.accuracy is not None:
        return found
    value = accuracy(found.plan.forms)
    plan = replace(found.plan, about=replace(found.plan.about, accuracy=value))
    return replace(found, plan=plan, result=replace(found.result, accuracy=value))
