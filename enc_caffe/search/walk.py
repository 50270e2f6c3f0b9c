"""The layers of a problem as what an agent walks through: the environments of ADC and of AMC.

Source: METHOD section 12, after He et al. (AMC, ECCV 2018, Algorithm 1) and ADC ([17] of the paper): one action a layer,
the part of r_max (AMC: of the channels that it reads) that is kept, lowered where the layers behind it could no longer meet the budget.
"""

from __future__ import annotations

from typing import Optional

import numpy as np

from enc_caffe.search.channels import ChannelProblem
from enc_caffe.search.problem import AccuracyOf, SearchLayer, SearchProblem, main_budget


class RankWalk:
    """One episode chooses the rank of every layer, from the first to the last; its reward is minus the error.

    A state says where the walk is: the layer's number, its output and input channels, height and width of its input, stride,
    kernel and cost, what the layers before it saved, what those behind it cost whole, and the last action; each as a
    part of its largest value over the layers.

    Parameters
    ----------
    problem : SearchProblem
        Its budgets can be met.
    accuracy : callable of ranks
    """

    features = 11

    def __init__(self, problem: SearchProblem, accuracy: AccuracyOf) -> None:
        self._problem, self._accuracy = problem, accuracy
        self._resource, self._budget = main_budget(problem)
        whole = np.array([_whole(x, self._resource) for x in problem.layers], dtype=float)
        self._behind = np.concatenate([np.cumsum(whole[::-1])[::-1][1:], [0.0]])
        self._whole, self._all = whole, float(whole.sum()) or 1.0
        shapes = np.array([_shape(x) for x in problem.layers], dtype=float)
        scaled = np.column_stack([np.arange(len(whole)), shapes, whole])
        self._fixed = scaled / np.maximum(scaled.max(axis=0), 1e-12)
        # What the layers behind each one cost at least, by budget.
        self._least = {}
        for name in problem.budgets:
            lowest = [int(x.costs[name][x.ranks].min()) for x in problem.layers]
            self._least[name] = [sum(lowest[i + 1 :]) for i in range(len(lowest))]
        self.episodes: list[tuple[tuple[int, ...], float]] = []
        self._ranks: list[int] = []
        self._last = 1.0

    def first_action(self) -> float:
        """What an untrained actor proposes: the part of the layers' cost that the budget leaves, so that the first walks are
        neither starved at their end nor below the budget."""
        left = self._budget - self._problem.fixed_costs.get(self._resource, 0)
        return min(0.95, max(0.05, left / max(1.0, float(self._whole.sum()))))

    def reset(self) -> np.ndarray:
        """The state before the first layer."""
        self._ranks, self._last = [], 1.0
        return self._state()

    def step(self, action: float) -> Optional[np.ndarray]:
        """Give the present layer its rank."""
        layer = self._problem.layers[len(self._ranks)]
        wanted = layer.allowed(action * float(layer.points[-1]))
        able = layer.ranks[self._fits(layer)]
        lower = able[able <= wanted]
        # Where nothing fits below, budgets work against each other: the walk goes on, and its end is worth nothing.
        rank = int(lower[-1]) if len(lower) else int(able[0]) if len(able) else layer.low
        self._last = float(layer.points[rank] / layer.points[-1])
        self._ranks.append(rank)
        return None if len(self._ranks) == len(self._problem.layers) else self._state()

    def reward(self) -> float:
        """Minus the error of the network whose ranks were chosen."""
        ranks = tuple(self._ranks)
        value = self._accuracy(ranks) if self._problem.fits(ranks) else 0.0
        self.episodes.append((ranks, value))
        return value - 1.0

    def _fits(self, layer: SearchLayer) -> np.ndarray:
        at, fits = len(self._ranks), np.ones(len(layer.ranks), bool)
        for name, budget in self._problem.budgets.items():
            spent = self._problem.cost(name, self._ranks)
            fits &= layer.costs[name][layer.ranks] + spent + self._least[name][at] <= budget
        return fits

    def _state(self) -> np.ndarray:
        at = len(self._ranks)
        more = [self._saved() / self._all, self._behind[at] / self._all, self._last]
        return np.concatenate([self._fixed[at], more]).astype(np.float32)

    def _saved(self) -> float:
        """What the layers before save."""
        paid = sum(float(x.costs[self._resource][r]) for x, r in zip(self._problem.layers, self._ranks))
        return float(self._whole[: len(self._ranks)].sum()) - paid


class ChannelWalk(RankWalk):
    """One episode chooses how many channels every layer reads; what that saves in the layers that make them counts too.

    Parameters
    ----------
    problem : ChannelProblem
    accuracy : callable of numbers of channels
    """

    def __init__(self, problem: ChannelProblem, accuracy: AccuracyOf) -> None:
        super().__init__(problem, accuracy)
        self._channels = problem
        self._lowest, self._highest = (np.array([getattr(x, e) for x in problem.layers]) for e in ("low", "max_rank"))
        # No layer's costs are its own: the parts are of all that is counted.
        self._all = float(problem.costs_of(self._resource, self._highest[None])[0]) or 1.0

    def first_action(self) -> float:
        """The same part of all channels that the budget leaves."""
        parts = np.linspace(0.05, 0.95, 91)
        rows = np.maximum(self._lowest, np.round(parts[:, None] * self._highest).astype(int))
        fits = self._channels.costs_of(self._resource, rows) <= self._budget
        return float(parts[fits][-1]) if fits.any() else float(parts[0])

    def _fits(self, layer: SearchLayer) -> np.ndarray:
        at, fits = len(self._ranks), np.ones(len(layer.ranks), bool)
        rows = np.repeat(self._lowest[None], len(layer.ranks), axis=0)
        rows[:, :at], rows[:, at] = self._ranks, layer.ranks
        for name, budget in self._channels.budgets.items():
            fits &= self._channels.costs_of(name, rows) <= budget
        return fits

    def _saved(self) -> float:
        chosen = np.array([*self._ranks, *self._highest[len(self._ranks) :]])
        return self._all - float(self._channels.costs_of(self._resource, chosen[None])[0])


def _whole(layer: SearchLayer, resource: str) -> int:
    """Cost at the last place, where a pair costs what the layer costs."""
    return int(layer.costs[resource][-1])


def _shape(layer: SearchLayer) -> tuple[float, ...]:
    """Output and input channels, height, width, stride, kernel; zeros where the layer is not known."""
    known = layer.described
    if known is None:
        return (0.0,) * 6
    height, width = known.input if known.convolution is not None else (1, 1)
    stride = known.convolution.stride[0] if known.convolution is not None else 1
    kernel = known.kernel[0] if known.convolution is not None else 1
    return tuple(map(float, (known.out_channels, known.in_channels, height, width, stride, kernel)))
