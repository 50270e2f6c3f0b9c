"""Pages and figures: escaped, self-contained, the same every time."""

from __future__ import annotations

import html.parser
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from enc_caffe.errors import OutputError
from enc_caffe.report.charts import inline_svg
from enc_caffe.report.render import all_charts, html_page, markdown, markdown_page, write_report
from enc_caffe.report.rows import (
    Chart,
    LayerCurve,
    MetricCurves,
    Points,
    RankBars,
    Report,
    Section,
    Series,
    Table,
    Training,
    TrainingCurves,
)

EVIL = "<script>alert(1)</script> & \"'|`*"


def curve(name: str, measured: bool) -> LayerCurve:
    ranks = np.arange(5)
    return LayerCurve(
        name, ranks, ranks / 4, ranks / 4 if measured else None, (np.array([2]), np.array([0.5])) if measured else None
    )


DRAWINGS = {
    "bars": RankBars([EVIL, "b"], [2, None], [4, 4], [1, None], [3, None]),
    "unbounded": RankBars(["a"], [2], [4]),
    "curves": MetricCurves([curve(EVIL, True), curve("b", False)]),
    "many": MetricCurves([curve(f"layer{i}", False) for i in range(20)]),
    "points": Points("x", "y", [Series(EVIL, [(0.5, 1)]), Series("p", [(0.4, 1)], "f", hollow=True)], diagonal=True),
    "training": TrainingCurves(
        [Training(EVIL, [(0, 1.0), (5, 0.5)], {"accuracy": [(5, 0.5)]}), Training("b", [(0, 1.0)], {})]
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_is_well_formed_and_the_same_every_time(name: str) -> None:
    chart = Chart(name, name, "words", DRAWINGS[name])
    text = inline_svg(chart)
    root = ElementTree.fromstring(text)
    ids = [e.get("id") for e in root.iter() if e.get("id")]
    assert len(ids) == len(set(ids)) and all(i.startswith(f"{name}-") for i in ids)
    assert "width" not in root.attrib and root.get("viewBox")
    assert "currentColor" in text and "#000000" not in text and "<script" not in text
    assert text == inline_svg(chart)


class Page(html.parser.HTMLParser):
    """Tags, and every address that a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [
            v or "" for k, v in attrs if k == "src" or (k in ("href", "xlink:href") and tag in ("link", "image"))
        ]


def a_report() -> Report:
    charts = [Chart(name, EVIL, EVIL, drawing) for name, drawing in DRAWINGS.items()]
    table = Table(EVIL, [EVIL, "number"], [[EVIL, "1"]], note=EVIL)
    return Report(
        EVIL, [EVIL], [Section(EVIL, [EVIL], [table, replace(table, folded=True)], charts, [EVIL + "\nsecond"])]
    )


def test_every_name_is_escaped_and_nothing_is_loaded_from_elsewhere() -> None:
    text = html_page(a_report())
    page = Page()
    page.feed(text)
    assert "script" not in page.tags and page.tags.count("svg") == len(DRAWINGS) and page.tags.count("details") == 1
    assert all(address.startswith("data:") for address in page.loaded)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    # No import of a style and no address in one.
    assert not re.search(r"@import|url\((?!#|data:)", text)


def test_markdown_shows_names_literally() -> None:
    assert markdown("a|b *c* <d> `e`\nf") == "a\\|b \\*c\\* &lt;d&gt; \\`e\\` f"
    text = markdown_page(a_report())
    assert "<script>alert" not in text.replace("    <script>alert", "") and "![" in text
    row = next(line for line in text.splitlines() if line.endswith("| 1 |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_files_are_written_whole_and_not_over_others(tmp_path: Path) -> None:
    report = a_report()
    write_report(report, tmp_path / "r")
    names = {p.name for p in (tmp_path / "r" / "figures").iterdir()}
    assert names == {f"{c.name}.{kind}" for c in all_charts(report) for kind in ("svg", "pdf")}
    assert (tmp_path / "r" / "figures" / "bars.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(OutputError, match="exists already"):
        write_report(report, tmp_path / "r")
    before = {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    write_report(report, tmp_path / "r", force=True)
    assert before == {p: p.read_bytes() for p in (tmp_path / "r").rglob("*") if p.is_file()}
