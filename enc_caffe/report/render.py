"""A report as one HTML file that needs no network, as Markdown, and its charts as SVG and PDF files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from enc_caffe.errors import UsageError
from enc_caffe.files.output import atomic_folder
from enc_caffe.report import charts
from enc_caffe.report.rows import Chart, Report

_MARKDOWN = re.compile(r"([\\`*_{}\[\]|~#])")
KINDS = ("svg", "pdf")


def _environment(html: bool) -> Any:
    try:
        import jinja2
    except ImportError:
        raise UsageError("reports need Matplotlib and Jinja2: pip install 'enc-caffe[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("enc_caffe.report"), autoescape=html, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = markdown
    environment.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-")
    return environment


def markdown(text: Any) -> str:
    """Text as Markdown shows it literally: no markup, no HTML, one line."""
    escaped = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(_MARKDOWN.sub(r"\\\1", escaped).split())


def html_page(report: Report) -> str:
    """The page; every name in it is escaped."""
    import markupsafe

    def draw(chart: Chart) -> Any:
        return markupsafe.Markup(charts.inline_svg(chart))

    return str(_environment(True).get_template("report.html.j2").render(report=report, draw=draw, kinds=KINDS))


def markdown_page(report: Report) -> str:
    """The same as Markdown; its charts are the files in ``figures/``."""
    return str(_environment(False).get_template("report.md.j2").render(report=report))


def all_charts(report: Report) -> list[Chart]:
    """Every chart in the order of the page."""
    return [chart for section in report.sections for chart in section.charts]


def write_report(report: Report, out: Path, force: bool = False) -> None:
    """Write ``report.html``, ``report.md`` and ``figures/``; the folder appears whole or not at all.

    Raises
    ------
    UsageError
        Without Jinja2 or Matplotlib.
    OutputError
        If the folder exists (without ``force``) or cannot be written.
    """
    with atomic_folder(Path(out), force) as work:
        (work / "figures").mkdir()
        for chart in all_charts(report):
            for kind in KINDS:
                (work / "figures" / f"{chart.name}.{kind}").write_bytes(charts.file_bytes(chart, kind))
        (work / "report.html").write_text(html_page(report), encoding="utf-8")
        (work / "report.md").write_text(markdown_page(report), encoding="utf-8")
