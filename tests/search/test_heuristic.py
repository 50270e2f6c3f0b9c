"""Our hand-made policy: a line over the layers, within the budget."""

from __future__ import annotations

import numpy as np
import pytest

from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import heuristic, uniform
from enc_caffe.search.build import build_problem
from tests.search.tables import entry, options


def ranks(tilt: float, target: float = 0.5) -> tuple[int, ...]:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 64, 8, i) for i in range(5)), 1.0)
    wanted = options(method="heuristic", target_flops=target, first_layer="search", tilt=tilt)
    problem = build_problem(table, wanted)
    found = heuristic.search(problem)
    assert problem.fits(found.ranks)
    if tilt == 0:
        assert found.ranks == uniform.search(problem).ranks
    return found.ranks


def test_parts_fall_along_a_line() -> None:
    # r_max is 96: half of it is 48, of which the ends keep a quarter more and less.
    assert ranks(0.25) == pytest.approx([60, 54, 48, 42, 36], abs=1)
    assert ranks(-0.25) == pytest.approx([36, 42, 48, 54, 60], abs=1)
    ranks(0.0)


def test_steep_lines_end_at_the_bounds() -> None:
    steep = ranks(1.0)
    assert steep[0] > steep[2] > steep[4] == 10
    # Where the first layer is whole the others go on.
    assert ranks(0.5, 0.8)[0] == 96 and np.all(np.diff(ranks(0.5, 0.8)) <= 0)
