"""Searches and forms beside each other, by hand-made runs."""

from __future__ import annotations

import pytest

from enc_caffe.report import beside
from enc_caffe.report.rows import LayerCost, Network, Points, Run


def layer(name: str, form: str, rank) -> LayerCost:
    return LayerCost(name, form, "", "", "", rank, 9, (10, 5), (10, 5))


def test_a_learning_curve_is_means_of_ten_and_the_best_so_far() -> None:
    values = [0.1] * 10 + [0.3] * 5 + [0.7] + [0.5] * 4 + [0.4, 0.6]
    n = Network("ADC", "adc", learning=values, target=0.5)
    assert beside.learning_curve(n) == [(10, pytest.approx(10)), (20, pytest.approx(42)), (22, pytest.approx(50))]
    assert beside.best_so_far(n) == [(1, 10), (11, 30), (16, 70), (22, 70)]
    (section,) = beside.learning(Run("r", "", "net", networks=[n]), "learning-r")
    (chart,) = section.charts
    assert (
        "begins at 10.0 %" in chart.words and "best 70.0 % of 22 episodes, first reached in episode 16" in chart.words
    )
    assert isinstance(chart.drawing, Points) and [s.hollow for s in chart.drawing.series] == [False, True]
    assert chart.drawing.series[1].points == [(1, 10), (11, 10), (11, 30), (16, 30), (16, 70), (22, 70)]
    assert list(beside.learning(Run("r", "", "net", networks=[Network("x", "x")]), "n")) == []


def test_forms_of_one_target_stand_side_by_side() -> None:
    networks = [
        Network("one", "a", target=0.5, layers=[layer("c1", "spatial:4", 4), layer("c2", "whole", None)]),
        Network("two", "b", target=0.5, layers=[layer("c1", "tucker2:2x3", None)]),
        Network("three", "c", target=0.5, layers=[layer("c2", "spatial:7", 7)]),
        Network("else", "c", target=0.3, layers=[layer("c2", "spatial:7", 7)]),
    ]
    (section,) = beside.ranks(Run("r", "", "net", networks=networks))
    (table,) = section.tables
    assert table.headers == ["layer", "one", "two", "three"]
    assert table.rows == [["c1", "4", "tucker2:2x3", "whole"], ["c2", "whole", "whole", "7"]]


def test_cells_of_a_search() -> None:
    assert beside.search_cells(Network("x", "x")) == ["-", "-"]
    assert beside.search_cells(Network("x", "x", evaluations=0, search_seconds=0.0123)) == ["0", "0.0123"]
    assert beside.search_cells(Network("x", "x", evaluations=400, search_seconds=1234.5)) == ["400", "1,234"]
