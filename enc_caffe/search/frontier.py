"""One axis for a layer of several schemes: its undominated forms in order of cost, the layer whole among them.

A form is dominated where another costs no more in every resource that has a budget and has no lesser metric. Of the others those that rise in the
metric with the main resource make up the axis that ENC-Map, uniform and the paper's space walk; the rest are for the exact
search, which looks at all of them.
"""

from __future__ import annotations

import bisect
from typing import Mapping, Sequence

import numpy as np

from enc_caffe.form import Form
from enc_caffe.search.problem import SearchLayer


def frontier_layer(
    name: str, forms: Sequence[Form], costs: Mapping[str, np.ndarray], values: np.ndarray, limited: Sequence[str],
    energy: np.ndarray,
) -> SearchLayer:  # fmt: skip
    """A layer whose places are forms in order of the main cost.

    Parameters
    ----------
    forms : sequence of Form, n
        In any order, the whole layer among them.
    costs : mapping of resource to ndarray of int64, shape (n,)
    values, energy : ndarray, shape (n,)
        The metric y of every form, and y_p for A_c.
    limited : sequence of str
        The resources that have budgets; the first orders the axis.
    """
    table = np.stack([costs[n] for n in limited])
    kept = undominated(table, values)
    order = kept[np.lexsort((-values[kept], table[0][kept]))]
    rises = np.concatenate([[True], values[order][1:] > np.maximum.accumulate(values[order])[:-1]])
    places = np.arange(1, len(order) + 1)

    def with_none(array: np.ndarray) -> np.ndarray:
        # Place 0 is no form: nothing is left, nothing is paid.
        return np.concatenate([np.zeros(1, array.dtype), array[order]])

    axis = with_none(table[0]).astype(float)
    metric, on = with_none(np.asarray(values, dtype=float)), places[rises]
    return SearchLayer(
        name, on, len(order), {n: with_none(c) for n, c in costs.items()}, metric,
        lambda y: np.interp(y, metric[on], axis[on]), with_none(energy), None, axis,
        (forms[0], *(forms[i] for i in order)), None if rises.all() else places[~rises],
    )  # fmt: skip


def undominated(costs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Positions of the options (costs (resources, n), values (n,)) that no other one beats or equals in everything."""
    order = np.lexsort((*costs[::-1], -values))
    if len(costs) == 1:
        # From the best metric down, each must be cheaper than all before it.
        sorted_costs = costs[0][order]
        best = np.minimum.accumulate(sorted_costs)
        return order[np.concatenate([[True], sorted_costs[1:] < best[:-1]])]
    if len(costs) == 2:
        return order[_staircase(costs[0][order].tolist(), costs[1][order].tolist())]
    kept: list[int] = []
    for i in order:
        rivals = costs[:, kept]
        if not np.any(np.all(rivals <= costs[:, [i]], axis=0)):
            kept.append(int(i))
    return np.array(kept)


def _staircase(first: list[int], second: list[int]) -> list[int]:
    """Positions of points that none before them is at most equal to in both costs: the corners so far are kept in order."""
    xs: list[float] = []
    ys: list[float] = []
    kept = []
    for i, (x, y) in enumerate(zip(first, second)):
        at = bisect.bisect_right(xs, x)
        if at and ys[at - 1] <= y:
            continue
        kept.append(i)
        # Corners that cost no less in both are none any more; one of the same first cost stands just before.
        begin = at - 1 if at and xs[at - 1] == x else at
        end = begin
        while end < len(ys) and ys[end] >= y:
            end += 1
        xs[begin:end], ys[begin:end] = [x], [y]
    return kept
