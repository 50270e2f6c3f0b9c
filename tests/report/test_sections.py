"""What a report says: rows against the paper, charts that are there, and the paper's own values."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from enc_caffe.report.paper import RESULTS, result_for
from enc_caffe.report.rows import LayerCost, Network, Run, Score, TimePoint, Training
from enc_caffe.report.sections import accuracy_points, report_of, summary_table

LAYERS = (
    LayerCost("a", "spatial:2", "3→8, 3x3", "3→2, 3x1 + 2→8, 1x3", "4x4", 2, 6, (100, 50), (10, 5), 1, 3),
    LayerCost("b", "whole", "8→8, 3x3", "8→8, 3x3", "4x4", None, 12, (200, 200), (20, 20)),
)


def a_run() -> Run:
    """A made-up run of ResNet-56 with both placements, fine-tuned once."""
    return Run(
        "half", "Half of it", "ResNet-56", "Accuracy on 200 images",
        [
            Network("original", "original", macs={"paper": 1.0, "exact": 1.0}, score=Score(200, {1: 190})),
            Network("ENC-Map, published strides", "map", "published", {"paper": 0.5, "exact": 0.5}, 0.4, Score(200, {1: 180}),
                    Score(200, {1: 191}), layers=LAYERS, target=0.5,
                    training=Training("t", [(0, 1.0), (10, 0.5)], {"accuracy": [(10, 0.9)]})),
            Network("ENC-Map, exact strides", "map", "exact", {"paper": 0.5, "exact": 0.51}, 0.4, Score(200, {1: 185}), layers=LAYERS, target=0.5),
        ],
        times=[TimePoint("ResNet-56", 0.5, 0.6, 0.8)], commands=["make it"], versions={"enc-caffe": "1"}, files={"weights": "abc"},
    )  # fmt: skip


def test_the_summary_has_losses_beside_the_papers() -> None:
    table = summary_table(a_run())
    rows = {row[0]: dict(zip(table.headers, row)) for row in table.rows}
    assert rows["original"]["top-1 %"] == "95.00" and rows["original"]["loss"] == "-"
    assert rows["ENC-Map, published strides"]["loss"] == "5.00"
    # 191 of 200 is half a point more than the original has.
    assert rows["ENC-Map, published strides"]["loss, tuned"] == "-0.50"
    assert rows["ENC-Map, published strides"]["paper: loss"] == "3.3"
    # The paper's networks have their strides as published: its row stands beside that one alone.
    assert rows["ENC-Map, exact strides"]["paper: loss"] == "-"


def test_points_of_figure_6_are_ours_and_the_papers() -> None:
    series = {s.label: s for s in accuracy_points([a_run()], "ResNet-56")}
    assert series["ENC-Map, exact strides"].points == [(0.51, -2.5)]
    assert series["ENC-Map, published strides (fine-tuned)"].points == [(0.5, 0.5)]
    theirs = series["ENC-Map, paper (fine-tuned)"]
    assert theirs.hollow and theirs.points == [(0.5, -0.1), (0.55, 0.1)]
    assert accuracy_points([a_run()], "VGG-16") == []


def test_every_part_of_the_run_is_in_the_report() -> None:
    report = report_of([a_run()])
    assert [s.title for s in report.sections] == [
        "Summary", "Accuracy over MACs (Figure 6)", "Latency (Figure 7)", "Ranks per layer (Figure 3)",
        "Layers before and after", "Fine-tuning", "How it was made",
    ]  # fmt: skip
    names = [c.name for s in report.sections for c in s.charts]
    # Both placements have the same ranks: one chart of them.
    assert len(names) == len(set(names)) == 4
    layers = next(s for s in report.sections if s.title.startswith("Layers")).tables[0]
    assert layers.rows[-1][5:8] == ["300", "250", "0.833"]
    two = report_of([a_run(), Run("other", "Other", "VGG-16")])
    assert any(s.title == "half: Fine-tuning" for s in two.sections)


@pytest.mark.parametrize(
    ("network", "macs", "method", "before", "after"),
    [("VGG-16", 0.25, "inf", 10.7, -0.6), ("VGG-16", 0.2523, "map", 14.5, -0.2), ("ResNet-56", 0.5, "uniform", 12.7, 0.2),
     ("ResNet-56", 0.55, "map", None, -0.1), ("AlexNet", 0.375, "model", None, -0.1)],
)  # fmt: skip
def test_the_papers_values_as_method_section_8_has_them(
    network: str, macs: float, method: str, before: float | None, after: float
) -> None:
    found = result_for(network, macs, method)
    assert found is not None and (found.before[0], found.after[0]) == (before, after)


def test_the_paper_has_no_row_where_it_has_none() -> None:
    assert result_for("ResNet-56", 0.4, "map") is None and result_for("ResNet-56", 0.5, "random") is None
    assert len(RESULTS) == len({(r.table, r.network, r.macs, r.policy) for r in RESULTS}) == 27


def test_a_name_cannot_leave_the_folder_of_figures() -> None:
    run = a_run()
    evil = replace(run, name="../../x", networks=[replace(n, label="../" + n.label) for n in run.networks])
    for section in report_of([evil]).sections:
        for chart in section.charts:
            assert re.fullmatch(r"[a-z0-9-]+", chart.name)
