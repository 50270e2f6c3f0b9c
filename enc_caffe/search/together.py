"""Plans by what all their layers change in the scores together: cross terms that a sum over layers leaves out.

Every form has a vector, its change of the scores over all images, such that half of the squared length is the divergence that it
makes alone, to second order. Vectors add up, so that half of the squared length of their sum is the divergence of a whole plan,
which errors that cancel make smaller and errors that agree make larger. The least sum over layers is found exactly and is where
this begins; from there pairs of layers change their forms together while the whole becomes smaller. It ends in a local optimum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Sequence

import numpy as np

from enc_caffe.search.problem import SearchProblem

#: Changes that are looked at closely in a round, best first by the quadratic form, and rounds at most.
CLOSELY, MOST_ROUNDS = 48, 400
#: What a round must gain, as a part of the value.
LEAST = 1e-4


@dataclass(frozen=True)
class Vectors:
    """Vectors of one searched layer's forms.

    Attributes
    ----------
    places : ndarray of int
        Places of the layer's axis whose vectors are known, among those that are allowed.
    vectors : ndarray, shape (places, D), float32
    """

    places: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class Descent:
    """Where a descent ended.

    Attributes
    ----------
    ranks : tuple of int
    before, after : float
        Value of the start and of ``ranks``.
    rounds : int
    """

    ranks: tuple[int, ...]
    before: float
    after: float
    rounds: int


def descend(
    problem: SearchProblem,
    layers: Sequence[Vectors],
    start: Sequence[int],
    value_of: Callable[[Sequence[int]], float],
    rest: Optional[np.ndarray] = None,
    cross: float = 1.0,
) -> Descent:
    """Forms of pairs of layers changed together, within the budgets, while the value falls.

    Parameters
    ----------
    problem : SearchProblem
    layers : sequence of Vectors, in the order of ``problem.layers``
    start : sequence of int
        Places whose vectors are all known.
    value_of : callable of places
        What is to fall; the quadratic form proposes changes, this decides.
    rest : ndarray, shape (D,), optional
        Sum of the vectors of fixed forms.
    cross : float
        What cross terms are multiplied by in the quadratic form: below 1 they are trusted less than what each layer does alone.
    """
    space = _Space(problem, layers, rest, cross)
    at = space.index(start)
    best = before = value_of(tuple(start))
    rounds = 0
    while rounds < MOST_ROUNDS:
        rounds += 1
        tried = [(value_of(space.ranks(new)), new) for new in space.proposals(at)]
        value, new = min(tried, key=lambda t: t[0], default=(np.inf, at))
        if not value < best * (1.0 - LEAST):
            break
        best, at = value, new
    return Descent(space.ranks(at), before, best, rounds)


class _Space:
    """All known forms in one row, their products with each other and their costs."""

    def __init__(
        self, problem: SearchProblem, layers: Sequence[Vectors], rest: Optional[np.ndarray], cross: float
    ) -> None:  # fmt: skip
        self.layers = layers
        self.first = np.cumsum([0, *(len(x.places) for x in layers)])
        self.owner = np.repeat(np.arange(len(layers)), np.diff(self.first))
        rows = np.concatenate([x.vectors for x in layers])
        self.products = np.asarray(rows @ rows.T, np.float64)
        self.products[self.owner[:, None] != self.owner[None]] *= cross
        self.toward = np.zeros(len(rows)) if rest is None else cross * np.asarray(rows @ rest, np.float64)
        self.budgets = list(problem.budgets.items())
        self.spent = [problem.fixed_costs.get(name, 0) for name, _ in self.budgets]
        self.costs = [
            np.concatenate([x.costs[name][own.places] for x, own in zip(problem.layers, layers)]).astype(float)
            for name, _ in self.budgets
        ]  # fmt: skip

    def index(self, ranks: Sequence[int]) -> np.ndarray:
        """Rows of the forms at these places."""
        found = [int(np.flatnonzero(x.places == r)[0]) for x, r in zip(self.layers, ranks)]
        return np.asarray(self.first[:-1] + found)

    def ranks(self, at: np.ndarray) -> tuple[int, ...]:
        """Places of rows."""
        return tuple(int(x.places[i - first]) for x, i, first in zip(self.layers, at, self.first))

    def proposals(self, at: np.ndarray) -> list[np.ndarray]:
        """Plans that differ in one or two layers, those first that gain most by the quadratic form."""
        old = at[self.owner]
        products = self.products
        # What changing one layer's form alone adds to half of the squared length.
        pull = products[:, at].sum(axis=1) + self.toward
        alone = (
            pull
            - pull[old]
            + 0.5 * (np.diag(products) - 2 * products[np.arange(len(old)), old] + np.diag(products)[old])
        )
        both = products - products[:, old] - products[old] + products[np.ix_(old, old)]
        gain = alone[:, None] + alone[None] + both
        gain[self.owner[:, None] >= self.owner[None]] = np.inf
        single = np.where(np.arange(len(old)) == old, np.inf, alone)
        for (_, budget), spent, costs in zip(self.budgets, self.spent, self.costs):
            room = budget - spent - costs[at].sum()
            change = costs - costs[old]
            gain[change[:, None] + change[None] > room] = np.inf
            single[change > room] = np.inf
        flat = gain.reshape(-1)
        number = min(CLOSELY, len(flat))
        near = np.argpartition(flat, number - 1)[:number]
        pairs = [(float(flat[i]), divmod(int(i), len(old))) for i in near if flat[i] < np.inf]
        ones = [(float(single[i]), (int(i), int(i))) for i in np.argsort(single)[:CLOSELY] if single[i] < np.inf]
        found = []
        for _, rows in sorted(pairs + ones)[:CLOSELY]:
            new = at.copy()
            for i in rows:
                new[self.owner[i]] = i
            if not np.array_equal(new, at):
                found.append(new)
        return found
