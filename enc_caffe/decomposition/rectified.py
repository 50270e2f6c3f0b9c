"""Low-rank responses whose error counts behind the ReLU: min |r(y) - r(M x + b)|^2 over M of a rank, r(v) = max(v, 0).

y are the responses that are wanted and x those that the original weights give on the inputs that come, (O, n) both: from compressed
layers before it, the asymmetric case. Source: Zhang, Zou, He, Sun (IEEE TPAMI 38, 2016; [16] of the paper), sections 3.2 and 3.3: with responses
z of their own in between,

    min over M, b, z of  |r(y) - r(z)|^2 + penalty |z - M x - b|^2,

one solves for z, element by element, and for M and b, which is reduced-rank regression, in turns, 25 times at a penalty of 0.01 and 25 times
at 1. As in :mod:`regression` a small multiple of |M - 1|^2 stands beside it, so that full rank stays exact where nothing is known of a direction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Sequence

import numpy as np

from enc_caffe.decomposition.regression import RIDGE, Moments, reduced_rank

#: Penalties and how many turns each has.
SCHEDULE: tuple[tuple[float, int], ...] = ((0.01, 25), (1.0, 25))


@dataclass(frozen=True)
class Turn:
    """Where the alternation stands after one turn.

    Attributes
    ----------
    penalty : float
    responses : ndarray, shape (O, n)
        z.
    matrix : ndarray, shape (O, O)
        M.
    constant : ndarray, shape (O,)
        b.
    """

    penalty: float
    responses: np.ndarray
    matrix: np.ndarray
    constant: np.ndarray

    def given(self, inputs: np.ndarray) -> np.ndarray:
        """M x + b."""
        return np.asarray(self.matrix @ inputs + self.constant[:, None])


def rectified_error(wanted: np.ndarray, given: np.ndarray) -> float:
    """|r(y) - r(v)|^2, the mean over the columns of (O, n)."""
    return float(np.sum((np.maximum(wanted, 0.0) - np.maximum(given, 0.0)) ** 2) / wanted.shape[1])


def penalised(wanted: np.ndarray, inputs: np.ndarray, turn: Turn) -> float:
    """What the turns make small, the multiple of |M - 1|^2 included."""
    apart = np.sum((turn.responses - turn.given(inputs)) ** 2) / inputs.shape[1]
    kept = ridge_of(inputs) * np.sum((turn.matrix - np.eye(len(inputs))) ** 2)
    return rectified_error(wanted, turn.responses) + turn.penalty * float(apart + kept)


def ridge_of(inputs: np.ndarray) -> float:
    """The multiple of |M - 1|^2: a part of the mean variance of x."""
    return RIDGE * float(np.mean(np.var(inputs, axis=1))) or 1.0


def between(wanted: np.ndarray, given: np.ndarray, penalty: float) -> np.ndarray:
    """z of least (r(y) - r(z))^2 + penalty (z - v)^2, element by element: the better of the best z <= 0 and the best z >= 0."""
    right = np.maximum(wanted, 0.0)
    below, above = np.minimum(given, 0.0), np.maximum((penalty * given + right) / (penalty + 1.0), 0.0)
    cost_below = right**2 + penalty * (below - given) ** 2
    cost_above = (right - above) ** 2 + penalty * (above - given) ** 2
    return np.asarray(np.where(cost_below < cost_above, below, above))


def linear_fit(inputs: np.ndarray, responses: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """M (O, O) of a rank and b (O,) of least |z - M x - b|^2."""
    x, z = inputs.mean(axis=1), responses.mean(axis=1)
    apart = inputs - x[:, None]
    eye = ridge_of(inputs) * np.eye(len(inputs))
    known = Moments(apart @ apart.T / inputs.shape[1] + eye, apart @ responses.T / inputs.shape[1] + eye)
    left, right = reduced_rank(known, rank)
    return left @ right, z - left @ (right @ x)


def turns(
    wanted: np.ndarray, inputs: np.ndarray, rank: int, schedule: Sequence[tuple[float, int]] = SCHEDULE
) -> Iterator[Turn]:
    """The alternation, from the linear solution on; every turn solves for z, then for M and b.

    Parameters
    ----------
    wanted, inputs : ndarray, shape (O, n), float64
    rank : int
        Of M.
    """
    matrix, constant = linear_fit(inputs, wanted, rank)
    turn = Turn(schedule[0][0], np.asarray(wanted), matrix, constant)
    yield turn
    for penalty, number in schedule:
        for _ in range(number):
            responses = between(wanted, turn.given(inputs), penalty)
            turn = Turn(penalty, responses, *linear_fit(inputs, responses, rank))
            yield turn


def rectified_fit(wanted: np.ndarray, inputs: np.ndarray, rank: int) -> tuple[Turn, Turn]:
    """The linear solution, and the turn whose M and b are least wrong behind the ReLU (the linear one where none is better)."""
    passed = list(turns(wanted, inputs, rank))
    return passed[0], min(passed, key=lambda t: rectified_error(wanted, t.given(inputs)))
