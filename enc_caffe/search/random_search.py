"""Random plans at the budget, the control of ENC-Inf: the same number of plans, the same evaluation, no model."""

from __future__ import annotations

from typing import Optional

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.options import space_settings
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult, best_evaluated


def plan(problem: SearchProblem, rng: np.random.Generator) -> tuple[int, ...]:
    """A random plan that no single rank more would keep within the budgets: random ranks, lowered or raised to fit."""
    places = [int(rng.integers(len(x.ranks))) for x in problem.layers]
    spent = {n: problem.cost(n, [int(x.ranks[p]) for x, p in zip(problem.layers, places)]) for n in problem.budgets}

    def move(i: int, by: int) -> None:
        layer = problem.layers[i]
        before, after = int(layer.ranks[places[i]]), int(layer.ranks[places[i] + by])
        for n in spent:
            spent[n] += int(layer.costs[n][after]) - int(layer.costs[n][before])
        places[i] += by

    def fits() -> bool:
        return all(spent[n] <= b for n, b in problem.budgets.items())

    while not fits():
        able = [i for i, p in enumerate(places) if p > 0]
        if not able:
            raise InfeasibleError(
                "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
            )
        move(int(rng.choice(able)), -1)
    able = [i for i, (x, p) in enumerate(zip(problem.layers, places)) if p < len(x.ranks) - 1]
    while able:
        i = int(rng.choice(able))
        move(i, 1)
        if not fits():
            move(i, -1)
            able.remove(i)
        elif places[i] == len(problem.layers[i].ranks) - 1:
            able.remove(i)
    return tuple(int(x.ranks[p]) for x, p in zip(problem.layers, places))


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The best of N random plans by evaluation, or by the objective where there are no images.

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met.
    """
    problem.check_feasible()
    rng = np.random.default_rng(problem.options.seed)
    number = space_settings(problem.options, len(problem.layers)).candidates
    plans = list(dict.fromkeys(plan(problem, rng) for _ in range(number)))
    listed = sorted(((r, problem.score(r)) for r in plans), key=lambda p: -p[1])
    return best_evaluated(problem, listed, accuracy, len(plans))
