"""At which ranks a layer is measured: sampling schemes behind one signature.

A scheme takes the singular values of every group, the sides of one group's matrix and r_max, and returns increasing
ranks that end at r_max.
"""

from __future__ import annotations

from typing import Callable, Sequence

import numpy as np

from enc_caffe.errors import UsageError
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.rounding import round_half_up

#: Parts of a layer's MACs at which forms of several ranks are measured.
PARTS = (0.08, 0.15, 0.25, 0.4, 0.65)

Sampler = Callable[[Sequence[np.ndarray], "tuple[int, int]", int], "list[int]"]


def lowest_rank(max_rank: int) -> int:
    """A tenth of r_max, at least 1: below it no layer is sampled or searched in the published runs."""
    return max(1, round_half_up(max_rank / 10))


def vbmf_samples(singular_values: Sequence[np.ndarray], shape: tuple[int, int], max_rank: int) -> list[int]:
    """The five ranks of METHOD section 3 to measure at, placed by the VBMF rank estimate q (largest over the groups).

    Halves go to the even neighbour and the second rank is the middle of the first and third as rounded: so the ranks
    of all 55 layers of the published ResNet-56 metrics come out.
    """
    q = _estimated_rank(singular_values, shape, max_rank)
    tenth, quarter = round(max_rank / 10), round(q / 4)
    return _bounded((tenth, round((quarter + tenth) / 2), quarter, round(q / 2), max_rank), max_rank)


def energy_samples(singular_values: Sequence[np.ndarray], shape: tuple[int, int], max_rank: int) -> list[int]:
    """The five ranks with q itself and the middle between q and r_max: the curve of the PCA energy needs them.

    The published ResNet-56 metrics have these seven; PCA energy costs nothing at the two more.
    """
    q = _estimated_rank(singular_values, shape, max_rank)
    return _bounded((*vbmf_samples(singular_values, shape, max_rank), q, round((q + max_rank) / 2)), max_rank)


def _estimated_rank(singular_values: Sequence[np.ndarray], shape: tuple[int, int], max_rank: int) -> int:
    return min(max_rank, max(estimate(s, *shape).rank for s in singular_values))


def _bounded(ranks: Sequence[int], max_rank: int) -> list[int]:
    floor = lowest_rank(max_rank)
    return sorted({max(floor, min(max_rank, r)) for r in ranks})


def even_samples(number: int) -> Sampler:
    """``number`` ranks, evenly spaced from a tenth of r_max to r_max."""

    def sampler(singular_values: Sequence[np.ndarray], shape: tuple[int, int], max_rank: int) -> list[int]:
        return sorted({round_half_up(r) for r in np.linspace(lowest_rank(max_rank), max_rank, number)})

    return sampler


def listed_samples(fractions: Sequence[float]) -> Sampler:
    """The user's own list of fractions of r_max; r_max itself is always measured."""

    def sampler(singular_values: Sequence[np.ndarray], shape: tuple[int, int], max_rank: int) -> list[int]:
        return sorted({min(max_rank, max(1, round_half_up(f * max_rank))) for f in fractions} | {max_rank})

    return sampler


def sampler_from(text: str) -> Sampler:
    """``vbmf``, ``even`` or ``even:N``, or a list of fractions of r_max such as ``0.1,0.25,0.5``."""
    if text == "vbmf":
        return energy_samples
    head, _, tail = text.partition(":")
    try:
        if head == "even":
            number = int(tail or 5)
            if number >= 2:
                return even_samples(number)
        else:
            fractions = [float(part) for part in text.split(",")]
            if all(0 < f <= 1 for f in fractions):
                return listed_samples(fractions)
    except ValueError:
        pass
    raise UsageError(f"--samples {text}: vbmf, even, even:N (N of 2 or more), or fractions in (0, 1] such as 0.1,0.5")


def ladder_samples(costs: Sequence[int], whole_cost: int) -> list[int]:
    """Places of a ladder of forms to measure at: those whose cost is nearest to :data:`PARTS` of the whole layer's, and the last.

    Parameters
    ----------
    costs : sequence of int
        MACs of the forms at places 1, 2, ...
    """
    parts = np.asarray(costs, dtype=float) / whole_cost
    return sorted({int(np.argmin(np.abs(parts - p))) + 1 for p in PARTS} | {len(parts)})
