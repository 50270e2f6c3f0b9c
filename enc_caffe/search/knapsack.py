"""Exact multiple-choice knapsack with one or several budgets, and its N best solutions.

Stages have options; one option of every stage is taken; values are summed, costs must stay within the budgets.
Lagrangian relaxation bounds every option from above, which leaves few of them; what is left is solved by dynamic
programming over lists of non-dominated states, exact for any integer costs. Source: Dyer, Riha, Walker (1995) on
reduction and dynamic programming; Nemhauser and Ullmann (1969) on lists of states.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Optional, Sequence

import numpy as np

from enc_caffe.search.multipliers import Stage, dual_multipliers

#: Partial solutions that are kept at once; above it the worst by bound are dropped and the gap says what that may cost.
MAX_STATES = 400_000
#: Partial solutions of the inexact passes that find a good solution to prune by: a narrow one over all options, and a wide one
#: over what the first leaves.
NARROW, BEAM = 40, 500
#: States that are extended at once.
BLOCK = 2_000_000


@dataclass(frozen=True)
class Solution:
    """Option of every stage, its value, and whether no better one exists (``gap``: by how much one could be)."""

    picks: tuple[int, ...]
    value: float
    gap: float


class Solutions(list[Solution]):
    """Best first; ``dropped`` bounds the values of partial solutions that there was no room for."""

    dropped: float = -np.inf


@dataclass
class _States:
    # Partial solutions over the stages from one on: costs, values, the option of that stage, and the state after it.
    costs: np.ndarray
    values: np.ndarray
    option: np.ndarray
    following: np.ndarray

    def take(self, at: np.ndarray) -> _States:
        return _States(self.costs[at], self.values[at], self.option[at], self.following[at])

    def joined(self, other: _States) -> _States:
        pairs = ((self.costs, other.costs), (self.values, other.values), (self.option, other.option), (self.following, other.following))  # fmt: skip
        return _States(*(np.concatenate(p) for p in pairs))


def solve(
    stages: Sequence[Stage],
    budget: np.ndarray,
    number: int = 1,
    max_states: int = MAX_STATES,
    known: Sequence[tuple[int, ...]] = (),
) -> Solutions:
    """The ``number`` best solutions, best first; an empty list where none fits.

    Parameters
    ----------
    stages : sequence of Stage
    budget : ndarray of int64, shape (budgets,)
    number : int
    max_states : int
    known : sequence of tuple of int
        Options of every stage of solutions that fit, each a different one: good ones save time.

    Notes
    -----
    Every solution's ``gap`` is 0 if the list is proven: no solution outside of it is better than its last one.
    """
    kept = [np.arange(len(s.values)) for s in stages]
    least = np.array([s.costs.min(axis=0) for s in stages]).reshape(len(stages), -1)
    if np.any(least.sum(axis=0) > budget):
        return Solutions()
    multipliers = dual_multipliers(stages, budget)
    good = {p: float(sum(s.values[o] for s, o in zip(stages, p))) for p in known}
    reduced, threshold = list(stages), -np.inf
    for width in (NARROW, BEAM):
        for picks, value in _beam(reduced, budget, multipliers, number, width):
            good[tuple(int(kept[i][p]) for i, p in enumerate(picks))] = value
        if len(good) >= number:
            level = heapq.nlargest(number, good.values())[-1]
            threshold = level - 1e-11 * max(1.0, abs(level))
            reduced, kept = _reduce(reduced, kept, budget, multipliers, threshold)
    tables, dropped = _tables(reduced, budget, multipliers, threshold, max_states)
    found = []
    if len(tables[0].values):
        found = [_trace(tables)] if number == 1 else _best_first(reduced, tables, budget, number)
        found = [(tuple(int(kept[i][p]) for i, p in enumerate(picks)), value) for picks, value in found]
    if dropped > -np.inf:
        # What the tables lost, the beams may have.
        found = sorted({**good, **dict(found)}.items(), key=lambda f: -f[1])[:number]
    result = Solutions()
    result.dropped = dropped
    gap = max(0.0, dropped - found[-1][1]) if found else 0.0
    result.extend(Solution(picks, float(value), gap if gap > 1e-12 else 0.0) for picks, value in found)
    return result


def _gains(stages: Sequence[Stage], multipliers: np.ndarray) -> list[np.ndarray]:
    return [s.values - s.costs @ multipliers for s in stages]


def _beam(
    stages: Sequence[Stage], budget: np.ndarray, multipliers: np.ndarray, number: int, width: int
) -> list[tuple[tuple[int, ...], float]]:
    """Good solutions, best first."""
    width = max(width, 4 * number)
    gains = _gains(stages, multipliers)
    rest = np.array([s.costs.min(axis=0) for s in stages])[::-1].cumsum(axis=0)[::-1]
    rest = np.vstack([rest[1:], np.zeros((1, len(budget)), dtype=rest.dtype)])
    costs, values = np.zeros((1, len(budget)), dtype=np.int64), np.zeros(1)
    picks = np.zeros((1, 0), dtype=np.int32)
    for i, stage in enumerate(stages):
        # Only options near the relaxation's choice lead to good solutions; the cheapest stays, so that one fits.
        near = np.argsort(-gains[i], kind="stable")[:64]
        near = np.unique(np.append(near, np.argmin(stage.costs.sum(axis=1))))
        costs = (costs[:, None, :] + stage.costs[None, near, :]).reshape(-1, len(budget))
        values = (values[:, None] + stage.values[None, near]).reshape(-1)
        places = np.flatnonzero(_within(costs, budget - rest[i]))
        costs, values = costs[places], values[places]
        if number == 1 and len(budget) == 1:
            first = _undominated(costs, values)
            costs, values, places = costs[first], values[first], places[first]
        if len(values) > width:
            best = np.argpartition(costs @ multipliers - values, width - 1)[:width]
            costs, values, places = costs[best], values[best], places[best]
        if not len(values):
            return []
        parent, option = np.divmod(places, len(near))
        picks = np.column_stack([picks[parent], near[option]])
    order = np.argsort(-values, kind="stable")[:number]
    return [(tuple(picks[i].tolist()), float(values[i])) for i in order]


def _reduce(
    stages: Sequence[Stage], kept: list[np.ndarray], budget: np.ndarray, multipliers: np.ndarray, threshold: float
) -> tuple[list[Stage], list[np.ndarray]]:
    """Drop options that no solution of at least the threshold can take."""
    gains = _gains(stages, multipliers)
    bound = sum(float(g.max()) for g in gains) + float(budget @ multipliers)
    reduced, left = [], []
    for stage, gain, indices in zip(stages, gains, kept):
        stays = bound - (gain.max() - gain) >= threshold
        if not stays.any():
            stays[int(np.argmax(gain))] = True
        reduced.append(Stage(stage.costs[stays], stage.values[stays]))
        left.append(indices[stays])
    return reduced, left


def _tables(
    stages: Sequence[Stage], budget: np.ndarray, multipliers: np.ndarray, threshold: float, max_states: int
) -> tuple[list[_States], float]:
    """Non-dominated partial solutions over the stages from each one on, and the best bound of what was dropped."""
    gains = _gains(stages, multipliers)
    before = np.cumsum([0.0, *[float(g.max()) for g in gains]]) + float(budget @ multipliers)
    cheapest = np.vstack([np.zeros((1, len(budget))), np.cumsum([s.costs.min(axis=0) for s in stages], axis=0)])
    empty = np.zeros(1, dtype=np.int64)
    tables = [_States(np.zeros((1, len(budget)), dtype=np.int64), np.zeros(1), empty, empty)]
    dropped = -np.inf
    for i in range(len(stages) - 1, -1, -1):
        table = _extend(stages[i], tables[-1], before[i], budget - cheapest[i], multipliers, threshold)
        if len(table.values) > max_states:
            bounds = before[i] + table.values - table.costs @ multipliers
            order = np.argpartition(-bounds, max_states)
            dropped = max(dropped, float(bounds[order[max_states:]].max()))
            table = table.take(np.sort(order[:max_states]))
        tables.append(table)
        if not len(table.values):
            break
    tables.reverse()
    return tables, dropped


def _extend(
    stage: Stage, after: _States, before: float, room: np.ndarray, multipliers: np.ndarray, threshold: float
) -> _States:
    """All options of a stage before all states after it, without those that cannot be part of a good solution."""
    n, m = len(stage.values), len(after.values)
    result: Optional[_States] = None
    # In blocks, so that the product of options and states is never in memory at once.
    step = max(1, BLOCK // m)
    for start in range(0, n, step):
        block = slice(start, start + step)
        costs = (stage.costs[block, None, :] + after.costs[None, :, :]).reshape(-1, after.costs.shape[1])
        values = (stage.values[block, None] + after.values[None, :]).reshape(-1)
        good = np.flatnonzero((before + values - costs @ multipliers >= threshold) & _within(costs, room))
        part = _States(costs[good], values[good], start + good // m, good % m)
        result = part if result is None else result.joined(part)
        result = result.take(_undominated(result.costs, result.values))
    assert result is not None
    return result


def _within(costs: np.ndarray, room: np.ndarray) -> np.ndarray:
    """Whether each row of costs (n, budgets) is within the room (budgets,); NumPy's ``all`` takes ten times as long for one column."""
    fits = costs[:, 0] <= room[0]
    for column in range(1, costs.shape[1]):
        fits &= costs[:, column] <= room[column]
    return np.asarray(fits)


def _undominated(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions of states that no state of equal or less cost equals in value, in order of cost."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    if costs.shape[1] == 1:
        # By cost alone, which is one sort instead of two: of equal cost the values that are kept rise, and the last one is the best.
        order = np.argsort(costs[:, 0], kind="stable")
        sorted_values = values[order]
        first = np.ones(len(order), dtype=bool)
        first[1:] = sorted_values[1:] > np.maximum.accumulate(sorted_values)[:-1]
        order = order[first]
        last = np.ones(len(order), dtype=bool)
        last[:-1] = costs[order[1:], 0] != costs[order[:-1], 0]
        return order[last]
    order = np.lexsort((-values, *costs.T[::-1]))
    ordered = costs[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = np.any(ordered[1:] != ordered[:-1], axis=1)
    order = order[first]
    # With three budgets and more the bound alone prunes.
    return order[_staircase(costs[order, 1], values[order])] if costs.shape[1] == 2 else order


def _staircase(second: np.ndarray, values: np.ndarray) -> np.ndarray:
    # States come in order of their first cost. A state goes if an earlier one is not dearer in the second cost either
    # and at least as good; looked up on a grid of second costs, block by block, which misses some and errs on none.
    keep = np.ones(len(values), dtype=bool)
    grid = np.unique(np.quantile(second, np.linspace(0, 1, 257), method="lower"))
    best = np.full(len(grid), -np.inf)
    for start in range(0, len(values), 512):
        block = slice(start, start + 512)
        # best[i] counts states whose second cost is at most grid[i]; a state is held against the last grid value under it.
        keep[block] = values[block] > best[np.searchsorted(grid, second[block], side="right") - 1]
        up = np.searchsorted(grid, second[block], side="left")
        inside = up < len(grid)
        np.maximum.at(best, up[inside], values[block][inside])
        best = np.maximum.accumulate(best)
    return keep


def _trace(tables: list[_States]) -> tuple[tuple[int, ...], float]:
    state = int(np.argmax(tables[0].values))
    value, picks = float(tables[0].values[state]), []
    for table in tables[:-1]:
        picks.append(int(table.option[state]))
        state = int(table.following[state])
    return tuple(picks), value


def _completions(table: _States, room: np.ndarray) -> np.ndarray:
    """Best value of the stages of ``table`` within each row of ``room`` (n, budgets); minus infinity where none fits."""
    if room.shape[1] == 1:
        at = np.searchsorted(table.costs[:, 0], room[:, 0], side="right") - 1
        return np.where(at >= 0, table.values[np.maximum(at, 0)], -np.inf)
    result = np.full(len(room), -np.inf)
    order = np.argsort(-table.values, kind="stable")
    costs, values = table.costs[order], table.values[order]
    for i, row in enumerate(room):
        # Best values come first, so the first that fits is the answer.
        for start in range(0, len(values), 4096):
            fits = np.all(costs[start : start + 4096] <= row, axis=1)
            if fits.any():
                result[i] = values[start + int(np.argmax(fits))]
                break
    return result


def _best_first(
    stages: Sequence[Stage], tables: list[_States], budget: np.ndarray, number: int
) -> list[tuple[tuple[int, ...], float]]:
    """Complete solutions in falling order of value: the tables give every prefix its exact best completion."""
    start = float(_completions(tables[0], budget[None, :])[0])
    # Of equal totals the longest beginning goes first: where many plans are equally good, as on a metric that has come to its
    # end, one after the other is completed instead of all of them at once. Rounding makes equals of what are equals.
    queue: list[tuple[float, int, int, tuple[int, ...], float, tuple[int, ...]]] = [
        (-start, 0, 0, (), 0.0, (0,) * len(budget))
    ]
    found: list[tuple[tuple[int, ...], float]] = []
    pushed = 0
    while queue and len(found) < number:
        _, _, _, picks, value, cost = heapq.heappop(queue)
        at = len(picks)
        if at == len(stages):
            found.append((picks, value))
            continue
        costs = stages[at].costs + np.array(cost)
        values = stages[at].values + value
        totals = values + _completions(tables[at + 1], budget - costs)
        good = np.flatnonzero(totals > -np.inf)
        if len(good) > number:
            good = good[np.argpartition(-totals[good], number - 1)[:number]]
        for option in good:
            pushed += 1
            heapq.heappush(
                queue,
                (-round(float(totals[option]), 11), -at, pushed, (*picks, int(option)), float(values[option]),
                 tuple(costs[option].tolist())),
            )  # fmt: skip
    return sorted(found, key=lambda f: -f[1])
