"""What scores say: right images, cross-entropy, divergence from the original's scores; sums over images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np

#: Top-1 to top-5 are counted by default.
TOPS = 5
#: An output whose variance is a smaller part of its mean square is the same for all images, but for rounding.
CONSTANT = 1e-9


@dataclass(frozen=True)
class Counts:
    """Sums over images.

    Attributes
    ----------
    images : int
    right : tuple of int
        Images whose label is among the k best scores, k = 1, 2, ...
    cross_entropy : float
    divergence : float
        From the original, in nats; where there are no class scores the squared error of each output as a part of what that output
        varies by (:func:`count`).
    """

    images: int
    right: tuple[int, ...]
    cross_entropy: float
    divergence: float

    @classmethod
    def none(cls, tops: int = TOPS) -> Counts:
        """Of no image."""
        return cls(0, (0,) * tops, 0.0, 0.0)

    @classmethod
    def of_row(cls, row: list[Any]) -> Counts:
        """From what :meth:`row` gave."""
        return cls(row[0], tuple(row[1]), row[2], row[3])

    @property
    def correct(self) -> int:
        """Right by top-1."""
        return self.right[0]

    @property
    def correct_5(self) -> int:
        """Right by top-5."""
        return self.right[TOPS - 1]

    def __add__(self, other: Counts) -> Counts:
        right = tuple(a + b for a, b in zip(self.right, other.right))
        return Counts(
            self.images + other.images,
            right,
            self.cross_entropy + other.cross_entropy,
            self.divergence + other.divergence,
        )

    def row(self) -> list[Any]:
        """As JSON data."""
        return [self.images, list(self.right), self.cross_entropy, self.divergence]


def top_k_counts(scores: np.ndarray, labels: np.ndarray, top_k: tuple[int, ...]) -> list[int]:
    """Images (N, classes) whose label's score is beaten or equalled by fewer than k others, as Caffe's Accuracy counts."""
    own = scores[np.arange(len(labels)), labels]
    better = np.sum(scores >= own[:, None], axis=1) - 1
    # A NaN score is better than nothing, itself included, so better would be -1.
    return [int(np.sum((better < k) & (better >= 0))) for k in top_k]


#: What divergences are counted in: those of class scores, and those of other outputs.
NATS, ERROR = "nats", "squared error over the outputs' variance"


def counted(value: float, unit: str) -> str:
    """A divergence with its unit, for a person: ``0.1044 nats``; without a unit, which older files do not have, the number alone."""
    return f"{value:.4g} ({unit})" if unit == ERROR else f"{value:.4g} {unit}".rstrip()


def cross_entropy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Summed cross-entropy of the softmax of scores (N, classes)."""
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.sum(log_sum - shifted[np.arange(len(labels)), labels]))


#: Number of values of each output and the size of its changes, in their order.
Units = tuple[tuple[int, float], ...]


def count(
    scores: np.ndarray, whole: np.ndarray, labels: Optional[np.ndarray], softmax: bool = True, tops: int = TOPS,
    units: Units = (),
) -> Counts:  # fmt: skip
    """Counts from scores (n, classes) and those of the original network; without a softmax the divergence is squared error.

    With ``units`` it is the mean over the outputs of their mean squared error over their unit.
    """
    right, entropy = (0,) * tops, 0.0
    if labels is not None:
        right = tuple(top_k_counts(scores, labels, tuple(range(1, tops + 1))))
        entropy = cross_entropy(scores, labels)
    if softmax:
        apart = divergence(whole, scores)
    else:
        apart = squared_error(whole, scores, units or ((scores.shape[1], 1.0),))
    return Counts(len(scores), right, entropy, apart)


def squared_error(whole: np.ndarray, scores: np.ndarray, units: Units) -> float:
    """Summed over images (n, values): the mean over the outputs of their mean squared error over their unit."""
    total, at = 0.0, 0
    for size, unit in units:
        apart = (whole[:, at : at + size] - scores[:, at : at + size]) ** 2
        total += float(np.sum(np.mean(apart, axis=1))) / (unit * len(units))
        at += size
    return total


def units_of(scores: np.ndarray, sizes: Sequence[int]) -> Units:
    """Sizes of outputs with their units: the variance of an output's values (n, values) over the images.

    The unit of an output that is the same for all images is its mean square, or 1 where it is 0.
    """
    found, at = [], 0
    for size in sizes:
        part = np.asarray(scores[:, at : at + size], np.float64)
        power = float(np.mean(part**2))
        variance = float(np.mean((part - part.mean(axis=0)) ** 2))
        found.append((size, variance if variance > CONSTANT * power else power or 1.0))
        at += size
    return tuple(found)


def divergence(whole: np.ndarray, scores: np.ndarray) -> float:
    """Summed Kullback-Leibler divergence of softmax(scores) from softmax(whole), in nats."""
    first, second = _log_softmax(whole), _log_softmax(scores)
    with np.errstate(invalid="ignore"):
        return float(np.sum(np.exp(first) * (first - second)))


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
