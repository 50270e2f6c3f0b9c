"""Greedy reduction by PCA energy per complexity, the rank rule of Zhang et al. (TPAMI 2016; [16] of the paper)."""

from __future__ import annotations

import heapq
from typing import Optional, Sequence

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """From full ranks down: each time the layer loses a rank that loses the least part of its energy per cost saved.

    The rule maximises the product of the layers' PCA energies whatever the metric is; costs that are above their budget
    count as parts of it.

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met.
    """
    return greedy(problem, [x.energy for x in problem.layers])


def greedy(problem: SearchProblem, values: Sequence[np.ndarray]) -> SearchResult:
    """The rule by any curves: from the dearest places down, each time the layer goes a place down that loses the least part of its value
    per cost saved.

    Parameters
    ----------
    values : sequence of ndarray
        Of every layer, at place 0 to ``max_rank``.
    """
    problem.check_feasible()
    places = [len(x.ranks) - 1 for x in problem.layers]
    ranks = [x.high for x in problem.layers]
    spent = {n: problem.cost(n, ranks) for n in problem.budgets}

    def entry(i: int, over: frozenset[str]) -> Optional[tuple[float, int, int]]:
        if places[i] == 0:
            return None
        layer = problem.layers[i]
        now, then = int(layer.ranks[places[i]]), int(layer.ranks[places[i] - 1])
        saved = sum((int(layer.costs[n][now]) - int(layer.costs[n][then])) / problem.budgets[n] for n in over)
        lost = (values[i][now] - values[i][then]) / max(float(values[i][now]), 1e-300)
        return (float(lost) / saved if saved > 0 else float("inf"), i, places[i])

    over: frozenset[str] = frozenset()
    queue: list[tuple[float, int, int]] = []
    while any(spent[n] > b for n, b in problem.budgets.items()):
        still = frozenset(n for n, b in problem.budgets.items() if spent[n] > b)
        if still != over:
            over = still
            queue = [e for e in (entry(i, over) for i in range(len(ranks))) if e is not None]
            heapq.heapify(queue)
        if not queue:
            raise InfeasibleError(
                "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
            )
        _, i, _ = heapq.heappop(queue)
        layer = problem.layers[i]
        now, then = ranks[i], int(layer.ranks[places[i] - 1])
        for name in spent:
            spent[name] -= int(layer.costs[name][now]) - int(layer.costs[name][then])
        places[i] -= 1
        ranks[i] = then
        following = entry(i, over)
        if following is not None:
            heapq.heappush(queue, following)
    return SearchResult(tuple(ranks), problem.score(ranks))
