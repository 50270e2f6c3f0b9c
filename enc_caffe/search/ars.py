"""ARS: the iterative rank search of Kim and Kyung (arXiv 1806.10821; [18] of the paper), as far as its abstract defines it.

The cost falls in small steps. Each step looks at plans within a boundary around the present ranks, predicts their
accuracy by a linear approximation, and goes on from the best. What the abstract leaves open is assumed here, and can be
set: a step is 5% of C_orig (``step``), the boundary lets a layer lose at most 15% of r_max a step (``boundary``), where
images are there the three plans with the best prediction are evaluated (``shortlist``), and the linear approximation is
the sum of the logarithms of the layers' metrics (``metric``). ``iterative`` is the name that it had here before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Optional

from enc_caffe.errors import InfeasibleError
from enc_caffe.search import exact
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult, best_evaluated, main_budget


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """Ranks after stepwise reduction to the budgets.

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met.
    """
    problem.check_feasible()
    ranks = tuple(x.high for x in problem.layers)
    evaluated: list[tuple[tuple[int, ...], float]] = []
    resource, goal = main_budget(problem)
    whole = problem.originals[resource]
    seen, own = 0, problem.options.own
    while True:
        reached = problem.cost(resource, ranks)
        limit = max(goal, reached - own("step") * whole)
        last = limit <= goal
        step = _around(problem, ranks, {**problem.budgets, resource: limit} if last else {resource: limit})
        try:
            plans, _ = exact.plans(step, int(own("shortlist")))
        except InfeasibleError:
            if reached <= _lowest(step, resource):
                raise
            # The boundary leaves no plan that is cheap enough: the cheapest one in it is the next place.
            ranks = tuple(x.low for x in step.layers)
            continue
        seen += len(plans)
        result = best_evaluated(problem, plans, accuracy, seen)
        evaluated.extend(result.evaluated)
        ranks = result.ranks
        if last:
            return SearchResult(ranks, problem.score(ranks), seen, evaluated=tuple(evaluated), accuracy=result.accuracy)


def _around(problem: SearchProblem, ranks: tuple[int, ...], budgets: dict[str, float]) -> SearchProblem:
    layers = []
    for layer, rank in zip(problem.layers, ranks):
        lowest = min(rank - 1, rank - problem.options.own("boundary") * layer.max_rank)
        inside = layer.ranks[(layer.ranks <= rank) & (layer.ranks >= lowest)]
        # Where ranks are multiples, the boundary always lets one step down.
        below = layer.ranks[layer.ranks < rank]
        if len(inside) == 1 and len(below):
            inside = layer.ranks[(layer.ranks <= rank) & (layer.ranks >= below[-1])]
        layers.append(replace(layer, ranks=inside, others=None))
    return replace(problem, layers=tuple(layers), budgets=budgets)


def _lowest(problem: SearchProblem, resource: str) -> int:
    return problem.cost(resource, [x.low for x in problem.layers])
