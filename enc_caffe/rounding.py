"""Rounding of ranks: halves go up, as the published ranks have it (9.5 of VGG-16's first layer became 10)."""

from __future__ import annotations

import math


def round_half_up(value: float) -> int:
    """Nearest integer, halves up; Python's own ``round`` sends halves to the even neighbour."""
    return math.floor(value + 0.5)
