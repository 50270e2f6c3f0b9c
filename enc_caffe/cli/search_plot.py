"""``enc-caffe search plot``: R_min, R_max and R_o of every layer, or the Pareto curves of sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Optional

from enc_caffe.cli.searching import search_options, times_of
from enc_caffe.errors import PlanError, UsageError
from enc_caffe.files.jsonfile import read_json
from enc_caffe.files.output import check_parent
from enc_caffe.form import WHOLE
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline import planning
from enc_caffe.plan import read_plan
from enc_caffe.report import figures
from enc_caffe.search.build import build_problem
from enc_caffe.search.space import make_space


def run(args: argparse.Namespace) -> None:
    """Draw one figure."""
    check_parent(args.out)
    sweeps = [_sweep(path) for path in args.files]
    if all(s is not None for s in sweeps):
        try:
            figure = _pareto([s for s in sweeps if s is not None], args.files)
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise PlanError(f"{args.files[0]}: a field of a sweep is missing or of another kind ({exc!r})") from None
    elif len(args.files) == 1:
        figure = _bounds(args)
    else:
        raise UsageError("search plot takes one METRICS.json, or one or more tables of sweeps")
    figures.save(figure, args.out)
    print(f"written to {args.out}")


def _sweep(path: Path) -> Optional[dict[str, Any]]:
    try:
        return read_json(path, ("enc-caffe-sweep/2", "enc-caffe-sweep/1"), PlanError)
    except PlanError as exc:
        if "enc-caffe-metrics" in str(exc):
            return None
        raise


def _pareto(sweeps: list[dict[str, Any]], files: list[Path]) -> Any:
    reached = [[p for p in s["points"] if "error" not in p] for s in sweeps]
    with_accuracy = all(p.get("accuracy") or p.get("predicted_accuracy") for points in reached for p in points)
    curves = {}
    for data, points, path in zip(sweeps, reached, files):
        values = [p.get("accuracy") or p["predicted_accuracy"] if with_accuracy else p["objective"] for p in points]
        label = f"{data['method']}, {data['metric']}"
        curves[label if label not in curves else f"{label} ({path.stem})"] = (
            [p["flops_ratio"] for p in points],
            values,
        )
    quantity = "accuracy" if with_accuracy else "objective"
    return figures.pareto(curves, quantity, f"{sweeps[0]['network']}: {quantity} over complexity")


def _bounds(args: argparse.Namespace) -> Any:
    table, options, times = read_metrics(args.files[0]), search_options(args), times_of(args)
    problem = build_problem(table, options, times)
    space = make_space(problem)
    plan = read_plan(args.ranks) if args.ranks else planning.search_plan(table, options, None, times).plan
    names = [x.name for x in problem.layers]
    own: list[int] = []
    for layer in problem.layers:
        form = plan.forms.get(layer.name, WHOLE)
        # Files of version 1 may leave the scheme out.
        at = next(
            (i for i, f in enumerate(layer.forms) if i and f.ranks == form.ranks and form.scheme in ("", f.scheme)), 0
        ) or next(
            (i for i, own_ in enumerate(layer.together) if i and all(plan.forms.get(n, WHOLE) == f for n, f in own_)), 0
        )
        own.append(at)
        if not at:
            raise PlanError(
                f"{args.ranks}: layer '{layer.name}' is {form}, which is none of the forms that the search would look at"
            )
    series = {"R_max": space.highest, "R_o": own, "R_min": space.lowest}
    title = f"{table.network}: R_max and R_min at {options.target_flops or options.target_params} +- margin, and the ranks found"
    return figures.rank_bounds(names, series, [x.max_rank for x in problem.layers], title)
