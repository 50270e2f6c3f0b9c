"""An experiment from a metrics file alone: the search, beside the published ranks where they are known."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Optional

from enc_caffe.errors import MetricsError
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.experiments.inputs import IMAGENET, Choices
from enc_caffe.experiments.run import command, plain
from enc_caffe.experiments.settings import COUNTED, Experiment
from enc_caffe.files.jsonfile import write_json
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.planning import plan_ratios, search_plan
from enc_caffe.pipeline.reporting import EXPERIMENT, sha256, versions
from enc_caffe.plan import write_plan
from enc_caffe.report.paper import BASELINES
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.plans import show_found
from enc_caffe.terminal.tables import print_table

SKIPPED = "without weights and images no network is emitted, no accuracy measured, nothing fine-tuned: these steps are skipped."


def published_ranks(x: Experiment, method: str) -> tuple[Optional[dict[str, int]], dict[str, Any]]:
    """Ranks of the authors' run by this method, where ENC_CAFFE_DATA has them; and what is known of it."""
    about, folder = dict(x.published.get(method, {})), data_folder()
    if not about or folder is None or not (folder / "published_ranks.json").is_file():
        return None, about
    runs = {p["id"]: p["ranks"] for p in json.loads((folder / "published_ranks.json").read_text())}
    return runs.get(about["id"]), about


def options_for(x: Experiment, method: str, published: Optional[dict[str, Any]]) -> SearchOptions:
    """The experiment's settings, or those of the published run, met at what its ranks cost."""
    settings = {**COUNTED, **x.search, "method": method}
    if published:
        # The authors' runs have margins and a density of their own, which their preset knows.
        own = ("density", "space_margin", "complexity_margin")
        settings = {k: v for k, v in settings.items() if k not in own}
        settings.update(preset="published", target_flops=published["complexity"], metric=published.get("metric", settings.get("metric", "pca")))  # fmt: skip
    return SearchOptions(**settings)


def run(x: Experiment, choices: Choices, out: Path) -> dict[str, Any]:
    """Search by every method and print; writes ranks, metrics, and ``experiment.json`` for the report."""
    assert choices.metrics is not None
    table = read_metrics(choices.metrics)
    if table.network in BASELINES and table.network != x.network:
        raise MetricsError(f"{choices.metrics}: metrics of {table.network}, but {x.name} is of {x.network}")
    out.mkdir(parents=True, exist_ok=True)
    networks: list[dict[str, Any]] = [
        {"method": "original", "label": "original", "macs": {"paper": 1.0, "exact": 1.0}, "parameters": 1.0}
    ]
    for number, method in enumerate(choices.methods or (x.method,)):
        networks += _one(x, table, method, out, first=number == 0)
    write_metrics(out / "metrics.json", table)
    data = {
        "format": EXPERIMENT, "name": x.name, "title": f"{x.network}: {x.name}", "network": x.network,
        "images": f"Metrics: {table.source}", "networks": networks, "remarks": [SKIPPED[0].upper() + SKIPPED[1:]],
        "commands": [command()], "versions": versions(), "files": {"metrics given": sha256(choices.metrics)},
    }  # fmt: skip
    write_json(out / "experiment.json", data)
    print(SKIPPED)
    if x.data == "imagenet":
        print(IMAGENET)
    return data


def _one(x: Experiment, table: MetricsTable, wanted: str, out: Path, first: bool) -> list[dict[str, Any]]:
    method = wanted
    if method == "inf":
        print("ENC-Inf evaluates its candidates on images; without them this is ENC-Model, its first candidate")
        method = "model"
    theirs, about = published_ranks(x, method)
    options = options_for(x, method, about if theirs is not None else None)
    found = search_plan(table, options)
    headers, rows = ["layer", "rank", "r_max"], []
    for m in table.layers:
        row = [m.name, str(found.plan.ranks.get(m.name, "whole")), str(m.max_rank)]
        if theirs is not None:
            row += [str(theirs.get(m.name, "whole")), str(found.plan.ranks.get(m.name, 0) - theirs.get(m.name, 0))]
        rows.append(row)
    if theirs is not None:
        headers += ["published", "difference"]
    print_table(f"{x.network}, {options.method}, metric {options.metric}", headers, rows)
    ratios = plan_ratios(table, found.plan)
    print(
        f"MACs {ratios['paper']:.4f} (paper convention), {ratios['exact']:.4f} (exact) of the {len(table.layers)} layers"
    )
    show_found(found)
    if theirs is not None and set(theirs) >= {y.name for y in found.problem.layers}:
        score = found.problem.score([theirs[y.name] for y in found.problem.layers])
        print(
            f"objective of the published ranks over that of these: {math.exp(score - found.result.log_objective):.4f}"
        )
    for name in (f"ranks-{method}.json", *(["ranks.json"] if first else [])):
        write_plan(out / name, found.plan)
        print(f"written to {out / name}")
    return [{
        "method": method, "ranks": f"ranks-{method}.json", "options": plain(options), "macs": ratios,
        "parameters": found.plan.about.params_ratio,
    }]  # fmt: skip
