"""``enc-caffe report``: folders of results as one HTML page, the same as Markdown, and figures for papers."""

from __future__ import annotations

import argparse

from enc_caffe.errors import UsageError
from enc_caffe.files.output import check_new
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.report.render import all_charts, write_report
from enc_caffe.report.sections import report_of


def run(args: argparse.Namespace) -> None:
    """Read, write, and say where."""
    if args.out is None and len(args.folders) > 1:
        raise UsageError("report of several folders: name the folder to write by --out")
    out = args.out or args.folders[0] / "report"
    check_new(out, args.force)
    report = report_of([read_run(folder) for folder in args.folders])
    write_report(report, out, args.force)
    print(f"written to {out}: report.html, report.md, and {len(all_charts(report))} figures as SVG and PDF in figures/")
