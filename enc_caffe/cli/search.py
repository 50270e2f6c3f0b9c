"""``enc-caffe search``: ranks for a budget, from a metrics file alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from enc_caffe import pipeline
from enc_caffe.cli.common import add_search, print_table
from enc_caffe.metrics.table import MetricsTable, read_metrics
from enc_caffe.output import check_parent
from enc_caffe.plan import RankPlan, write_plan


def register(commands: Any) -> None:
    """Add the command."""
    p: argparse.ArgumentParser = commands.add_parser("search", help="ranks of all layers for a budget of MACs")
    p.add_argument("metrics", type=Path, metavar="METRICS.json")
    add_search(p)
    p.add_argument("--out", type=Path, required=True, metavar="RANKS.json")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Search, print and write the plan."""
    check_parent(args.out)
    table = read_metrics(args.metrics)
    plan, _ = pipeline.search_plan(
        table, args.method, args.metric, args.target_flops, args.first_layer, args.floor, args.convention
    )
    write_plan(args.out, plan)
    show_plan(table, plan)
    print(f"written to {args.out}")


def show_plan(table: MetricsTable, plan: RankPlan) -> None:
    """Ranks of all layers and the plan's costs in both conventions."""
    rows = [
        [m.name, plan.schemes.get(m.name, "whole"), str(plan.ranks.get(m.name, "")), str(m.max_rank),
         f"{m.energy[plan.ranks[m.name]]:.4f}" if m.name in plan.ranks else ""]
        for m in table.layers
    ]  # fmt: skip
    print_table(
        f"{plan.network}: ranks by {plan.about['method']}, metric {plan.about['metric']}",
        ["layer", "scheme", "rank", "r_max", "PCA energy"],
        rows,
        left=2,
    )
    ratios = pipeline.plan_ratios(table, plan)
    print(
        f"MACs {ratios['paper']:.4f} (paper convention), {ratios['exact']:.4f} (exact) and parameters "
        f"{plan.about['params_ratio']:.4f} of the {len(table.layers)} layers that the metrics list; "
        f"objective {plan.about['objective']:.4g}; {plan.about['search_seconds'] * 1000:.1f} ms"
    )
