"""The candidate space of ENC-Model and ENC-Inf (Eq. 15 to 18, Algorithm 1; METHOD section 6)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import Optional

import numpy as np

from enc_caffe.errors import InfeasibleError
from enc_caffe.rounding import round_half_up
from enc_caffe.search import exact
from enc_caffe.search.choices import Options, best_plans, logarithms
from enc_caffe.search.enc_map import ranks_for
from enc_caffe.search.options import RESOURCES, SpaceSettings, space_settings
from enc_caffe.search.problem import SearchProblem, SearchResult, log_combined, main_budget

#: Factor by which the steps are scaled until they reach the density, and how close to it the authors stop.
SHRINK, CLOSE = 0.99, 0.95


@dataclass(frozen=True)
class Space:
    """Bounds, lattice and window of the candidates, in the order of ``problem.layers``.

    Attributes
    ----------
    resource : str
        The cost that the space follows.
    highest, lowest : tuple of int
        R_max and R_min.
    steps : tuple of int
        t_l.
    reach : tuple of int
        Largest offset from R_max.
    window : (int, int)
        Cost of the searched layers, lowest and highest of a candidate.
    groups : tuple of tuple of int
        Positions of layers that are searched by their summed rank.
    """

    resource: str
    highest: tuple[int, ...]
    lowest: tuple[int, ...]
    steps: tuple[int, ...]
    reach: tuple[int, ...]
    window: tuple[int, int]
    groups: tuple[tuple[int, ...], ...]

    def candidates_of(self, problem: SearchProblem, at: int) -> np.ndarray:
        """Ranks of one layer on the lattice, highest first."""
        ranks = self.highest[at] - np.arange(0, self.reach[at] + 1, self.steps[at])
        return ranks[np.isin(ranks, problem.layers[at].ranks)]

    def holds(self, problem: SearchProblem, ranks: tuple[int, ...]) -> bool:
        """Whether a plan is a candidate."""
        on_lattice = all(r in self.candidates_of(problem, i) for i, r in enumerate(ranks))
        cost = problem.cost(self.resource, ranks) - problem.fixed_costs.get(self.resource, 0)
        return on_lattice and self.window[0] <= cost <= self.window[1]


def steps_for(max_ranks: list[int], density: float) -> tuple[int, ...]:
    """Steps t_l whose average density, the mean of 1/t_l, comes up to the wanted one (the paper's section V-C)."""
    base = np.array([max(1, round_half_up(r / 100)) for r in max_ranks], dtype=float)
    scale = float(np.mean(1 / base)) / density
    while True:
        steps = [max(1, round_half_up(t * scale)) for t in base]
        if float(np.mean([1 / t for t in steps])) >= CLOSE * density or max(steps) == 1:
            return tuple(steps)
        scale *= SHRINK


def make_space(problem: SearchProblem, settings: Optional[SpaceSettings] = None) -> Space:
    """R_max, R_min, steps and window for the main budget of a problem."""
    settings = settings or space_settings(problem.options, len(problem.layers))
    resource, target = main_budget(problem)
    # Above what the highest ranks cost there is nothing to search.
    target = min(target, float(problem.cost(resource, [x.high for x in problem.layers])))
    fixed = problem.fixed_costs.get(resource, 0)
    margin = settings.space_margin * problem.originals[resource]
    aim = target - (fixed if settings.subtract_fixed else 0)
    highest, lowest = ranks_for(problem, resource, aim + margin)[0], ranks_for(problem, resource, aim - margin)[0]
    # What the offsets have to save: Delta C_t of Eq. 18.
    offset = problem.cost(resource, highest) - target
    width = settings.complexity_margin * (offset if settings.of_offset else target)
    over = 0.0 if problem.options.preset == "budget" else width
    steps = steps_for([x.max_rank for x in problem.layers], settings.density)
    # On a frontier the places are no ranks.
    many = problem.options.multiple_of if all(x.axis is None for x in problem.layers) else 1
    steps = tuple(max(many, round_half_up(t / many) * many) for t in steps)
    reach = []
    for layer, high, low in zip(problem.layers, highest, lowest):
        curve = layer.costs[resource]
        unit = float(curve[-1] - curve[0]) / layer.max_rank
        reach.append(max(0, min(high - low, round_half_up(offset / unit) if unit > 0 else high - low)))
    window = (math.ceil(target - width - fixed), math.floor(target + over - fixed))
    return Space(resource, highest, lowest, steps, tuple(reach), window, _groups(problem))


def _groups(problem: SearchProblem) -> tuple[tuple[int, ...], ...]:
    """Runs of layers whose unit of rank costs the same in everything; each layer alone without ``--groups``."""
    positions = range(len(problem.layers))
    if not problem.options.groups:
        return tuple((i,) for i in positions)
    keys = [problem.layers[i].unit() or (-1 - i,) for i in positions]
    return tuple(tuple(run) for _, run in groupby(positions, key=lambda i: keys[i]))


def options_of(problem: SearchProblem, space: Space) -> list[Options]:
    """One stage a group: for every sum of ranks the best split of it inside the group (hierarchical generation)."""
    names = [space.resource, *(n for n in problem.budgets if n != space.resource)]
    stages = []
    for group in space.groups:
        ranks = np.zeros((1, 0), dtype=np.int64)
        metric, energy = np.zeros(1), np.zeros(1)
        for at in group:
            layer, own = problem.layers[at], space.candidates_of(problem, at)
            ranks = np.hstack([np.repeat(ranks, len(own), axis=0), np.tile(own, len(ranks))[:, None]])
            metric = (metric[:, None] + logarithms(layer.metric[own])[None, :]).reshape(-1)
            energy = (energy[:, None] + logarithms(layer.energy[own])[None, :]).reshape(-1)
            if len(group) > 1:
                best = _best_splits(problem, ranks, metric, energy)
                ranks, metric, energy = ranks[best], metric[best], energy[best]
        costs = np.stack([sum(problem.layers[at].costs[n][ranks[:, i]] for i, at in enumerate(group)) for n in names], axis=1)  # fmt: skip
        # The lower end of the window is a limit of the negative cost.
        costs = np.hstack([costs, -costs[:, :1]])
        stages.append(Options(ranks, costs, metric, energy))
    return stages


def _best_splits(problem: SearchProblem, ranks: np.ndarray, metric: np.ndarray, energy: np.ndarray) -> np.ndarray:
    score = metric
    if problem.combined:
        part = min(1.0, problem.budgets.get("macs", math.inf) / problem.originals["macs"])
        score = np.array([log_combined(e, m, part) for e, m in zip(energy, metric)])
    order = np.lexsort((-score, ranks.sum(axis=1)))
    sums = ranks.sum(axis=1)[order]
    return order[np.concatenate([[True], sums[1:] != sums[:-1]])]


def limits_of(problem: SearchProblem, space: Space) -> np.ndarray:
    """Limits in the order of the columns of ``options_of``."""
    others = [math.floor(b) - problem.fixed_costs.get(n, 0) for n, b in problem.budgets.items() if n != space.resource]
    return np.array([space.window[1], *others, -space.window[0]], dtype=np.int64)


def most_macs(problem: SearchProblem, space: Space) -> float:
    """What no candidate exceeds."""
    if space.resource == "macs":
        return float(space.window[1] + problem.fixed_costs.get("macs", 0))
    return exact.most_macs(problem)


def count(stages: list[Options], window: tuple[int, int]) -> int:
    """Candidates whose cost lies in the window (other budgets aside); counted by cost, not listed."""
    costs: np.ndarray = np.zeros(1, dtype=np.int64)
    numbers: np.ndarray = np.ones(1)
    for stage in stages:
        sums = (costs[:, None] + stage.costs[None, :, 0]).reshape(-1)
        costs, where = np.unique(sums, return_inverse=True)
        numbers = np.bincount(where.reshape(-1), np.repeat(numbers, len(stage.ranks)))
        inside = costs <= window[1]
        costs, numbers = costs[inside], numbers[inside]
    return int(numbers[costs >= window[0]].sum())


def search(problem: SearchProblem, number: int = 1) -> SearchResult:
    """The best of the candidates, and the ``number`` best.

    Raises
    ------
    InfeasibleError
        If no candidate lies in the window; wider margins or a larger density help.
    """
    problem.check_feasible()
    space = make_space(problem)
    stages = options_of(problem, space)
    candidates = count(stages, space.window)
    found, _ = (
        best_plans(problem, stages, limits_of(problem, space), number, most_macs(problem, space))
        if candidates
        else ([], 0.0)
    )
    if not found:
        whole = problem.originals[space.resource]
        raise InfeasibleError(
            f"none of the plans on the lattice between R_min and R_max costs {space.window[0] / whole:.5f} to "
            f"{space.window[1] / whole:.5f} of the {RESOURCES[space.resource]} (fixed layers aside) within all budgets; "
            "raise --complexity_margin, --density or --space_margin, or take --solver exact"
        )
    return SearchResult(
        found[0][0], found[0][1], candidates, best=tuple(found), space=(space.lowest, space.highest),
        note=f"steps {_runs(space.steps)}",
    )  # fmt: skip


def _runs(steps: tuple[int, ...]) -> str:
    # 4, 4, 7 as "4 x 2, 7".
    runs = [(t, len(list(same))) for t, same in groupby(steps)]
    return ", ".join(f"{t} x {n}" if n > 1 else str(t) for t, n in runs)
