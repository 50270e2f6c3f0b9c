"""The exact optimum of ENC-Model's objective over ALL allowed ranks within the budgets, and the N best plans."""

from __future__ import annotations

import math

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.choices import Options, Plan, best_plans, logarithms, pick
from enc_caffe.search.problem import SearchProblem


def plans(problem: SearchProblem, number: int = 1) -> tuple[list[Plan], float]:
    """The ``number`` plans with the largest objective (A_p, A_m, A_c or an additive one) within all budgets.

    Returns
    -------
    plans : list of (ranks, log-objective), best first
    gap : float
        How much larger the log-objective of an unlisted plan could be than that of the last one listed; 0: proven.

    Raises
    ------
    InfeasibleError
        If a budget is below what the lowest ranks cost, the budgets exclude each other, or every plan within them has
        an objective of 0.
    """
    problem.check_feasible()
    found, gap = best_plans(problem, layer_options(problem), limits(problem), number, most_macs(problem))
    if not found or found[0][1] == -math.inf:
        raise InfeasibleError(_why_none(problem))
    return found, gap


def layer_options(problem: SearchProblem) -> list[Options]:
    """Every layer a stage, every allowed rank an option."""
    return [
        Options(
            x.choices[:, None], np.stack([x.costs[n][x.choices] for n in problem.budgets], axis=1),
            logarithms(x.metric[x.choices]), logarithms(x.energy[x.choices]),
        )
        for x in problem.layers
    ]  # fmt: skip


def limits(problem: SearchProblem) -> np.ndarray:
    """What the searched layers may cost, in the order of the budgets."""
    return np.array([math.floor(b) - problem.fixed_costs.get(n, 0) for n, b in problem.budgets.items()], dtype=np.int64)


def most_macs(problem: SearchProblem) -> float:
    """What no plan within the budgets exceeds."""
    highest = problem.cost("macs", [int(x.choices[np.argmax(x.costs["macs"][x.choices])]) for x in problem.layers])
    return min(float(highest), problem.budgets.get("macs", math.inf))


def _why_none(problem: SearchProblem) -> str:
    # Each budget can be met alone, since the problem was checked.
    stages = layer_options(problem)
    asked = ", ".join(f"{b / problem.originals[n]:.4f} of the {n}" for n, b in problem.budgets.items())
    if pick(stages, [np.zeros(len(s.ranks)) for s in stages], limits(problem), 1)[0]:
        return f"every rank configuration within {asked} has a layer whose metric is 0; raise the target or the floor"
    parts = []
    for column, (name, budget) in enumerate(problem.budgets.items()):
        others = [i for i in range(len(problem.budgets)) if i != column]
        relaxed = [Options(s.ranks, s.costs[:, others], s.metric, s.energy) for s in stages]
        found, _ = pick(relaxed, [-s.costs[:, column].astype(float) for s in stages], limits(problem)[others], 1)
        if found:
            whole, least = problem.originals[name], problem.cost(name, found[0][0])
            parts.append(
                f"within the others, {name} cannot fall below {least / whole:.4f}, which misses its target by "
                f"{(least - budget) / whole:.4f}"
            )
    return f"no rank configuration meets {asked} together: {'; '.join(parts)}; raise a target or lower --floor"
