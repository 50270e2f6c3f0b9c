"""``enc-caffe metrics plot``: y_p and y_m of every layer over the rank, with the sampled points (Figure 2)."""

from __future__ import annotations

import argparse

import numpy as np

from enc_caffe.errors import MetricsError
from enc_caffe.files.output import check_parent
from enc_caffe.metrics.files import read_metrics
from enc_caffe.report import figures


def run(args: argparse.Namespace) -> None:
    """Draw one figure."""
    check_parent(args.out)
    table = read_metrics(args.metrics)
    panels = []
    for m in table.layers:
        curves: dict[str, figures.Curve] = {"y_p": (np.arange(m.max_rank + 1), m.energy, None)}
        try:
            ranks, values = m.measured_points(table.baseline_accuracy)
        except MetricsError:
            pass
        else:
            curves["y_m"] = (np.arange(m.max_rank + 1), m.measured(table.baseline_accuracy), (ranks, values))
        panels.append((m.name if m.paper else f"{m.name}, {m.scheme}", curves))
    figures.save(figures.layer_curves(panels, f"{table.network}: {table.source}"), args.out)
    print(f"written to {args.out}")
