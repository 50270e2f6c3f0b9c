"""The paper's figures from what is here: metrics (2), rank bounds (3), accuracy over MACs (6), latency (7)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Mapping, Optional

from enc_caffe import pipeline
from enc_caffe.errors import UsageError
from enc_caffe.experiments import run as laboratory
from enc_caffe.experiments import timing
from enc_caffe.experiments.inputs import Choices, announce, gather
from enc_caffe.experiments.run import plain
from enc_caffe.experiments.settings import Experiment, read_experiment
from enc_caffe.experiments.steps import Steps
from enc_caffe.files.jsonfile import write_json
from enc_caffe.form import Form
from enc_caffe.measuring.store import ResultStore, default_store
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.planning import plan_ratios, predicted, search_plan, sweep
from enc_caffe.pipeline.reporting import EXPERIMENT, label_of, read_run, versions
from enc_caffe.plan import write_plan
from enc_caffe.report.rows import Chart, Network, Points, Report, Run, Score, Section, Series, Table
from enc_caffe.report.sections import AXIS_MACS, report_of
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.tables import print_table

Say = Callable[[str], None]
MetricsFor = Callable[[str, Choices], Optional[Path]]
NETWORKS = ("VGG-16", "ResNet-56", "AlexNet")
#: Parts of the MACs at which Figure 6 is measured, and predicted.
TARGETS = (0.3, 0.4, 0.5, 0.6, 0.7)
NONE = "no metrics are at hand: give METRICS=FILE (enc-caffe metrics writes one), or ENC_CAFFE_DATA with metrics/"


def fig2(root: Path, choices: Choices, out: Path, say: Say, metrics_for: MetricsFor) -> Report:
    """y_p and y_m of every layer of the networks whose metrics are at hand."""
    say("fig2: downloads nothing; needs metrics; takes seconds")
    found = {n: m for n in NETWORKS if (m := metrics_for(n, choices)) is not None}
    if not found:
        raise UsageError(NONE)
    runs = []
    for name, path in found.items():
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        write_metrics(folder / "metrics.json", read_metrics(path))
        runs.append(replace(read_run(folder), name=name))
    print(f"Figure 2: metrics of {', '.join(found)}")
    return report_of(runs)


def fig3(root: Path, choices: Choices, out: Path, say: Say, metrics_for: MetricsFor) -> Report:
    """R_min, R_max and the ranks of VGG-16 at 25% +- 10% of the MACs."""
    say("fig3: downloads nothing; needs VGG-16's metrics; takes seconds")
    path = metrics_for("VGG-16", choices)
    if path is None:
        raise UsageError(NONE)
    x, table = read_experiment("vgg16-25", root), read_metrics(path)
    options = SearchOptions(**{**x.search, "method": "model", "preset": "paper", "solver": "space"})
    found = search_plan(table, options)
    assert found.result.space is not None
    lowest, highest = found.result.space
    out.mkdir(parents=True, exist_ok=True)
    write_metrics(out / "metrics.json", table)
    write_plan(out / "ranks.json", found.plan)
    entry = {
        "method": "model", "ranks": "ranks.json", "options": plain(options), "macs": plan_ratios(table, found.plan),
        "parameters": found.plan.about.params_ratio,
    }  # fmt: skip
    write_json(out / "experiment.json", {
        "format": EXPERIMENT, "name": "fig3", "title": "VGG-16: Figure 3", "network": "VGG-16", "networks": [entry],
        "images": f"Metrics: {table.source}", "versions": versions(), "commands": [laboratory.command()],
    })  # fmt: skip
    rows = [[y.name, str(low), str(found.plan.ranks[y.name]), str(high), str(y.max_rank)]
            for y, low, high in zip(found.problem.layers, lowest, highest)]  # fmt: skip
    print_table("Figure 3: VGG-16 at 25% of the MACs, margin 10%", ["layer", "R_min", "R_o", "R_max", "r_max"], rows)
    return report_of([read_run(out)])


def fig6(root: Path, choices: Choices, out: Path, say: Say, metrics_for: MetricsFor) -> Report:
    """Accuracy over MACs: ResNet-56 evaluated without fine-tuning; VGG-16 predicted from metrics."""
    x = read_experiment("resnet56-50", root)
    announce(replace(x, name="fig6", takes=f"{len(TARGETS)} networks for each of the methods"), choices, say)
    run = _measured(x, choices, out, say)
    sections = list(report_of([run]).sections)
    path = metrics_for("VGG-16", choices)
    if path is not None:
        sections.insert(-1, _predicted(read_experiment("vgg16-25", root), path))
    return Report("Figure 6: accuracy over MACs", [run.images], sections)


def _measured(x: Experiment, choices: Choices, out: Path, say: Say) -> Run:
    steps = Steps(out / "steps", say)
    networks: list[Network] = []
    with (
        ResultStore(default_store(), say) as store,
        progress_bar("fig6", None) as bar,
        choices.workers.executor() as executor,
    ):
        lab = laboratory.Laboratory(x, choices, out, steps, gather(x, choices, out, steps, bar), executor, store, bar)
        table = laboratory.metrics(replace_metrics(lab))
        loaded = pipeline.load(x.model, lab.inputs.test, None, x.fully_connected)
        tester, chooser = (
            PlanEvaluator(
                images_of(loaded, lab.inputs.weights, lmdb, executor, store),
                progress=lambda plans, done, all_: bar(done, all_, f"plan {plans + 1}"),
            )
            for lmdb in (lab.inputs.test, lab.inputs.partial)
        )  # fmt: skip
        networks.append(Network("original", "original", macs={"paper": 1.0, "exact": 1.0}, score=_score(tester, {})))
        for method in ("uniform", *(choices.methods or ("map", "model"))):
            for target in TARGETS:
                say(f"{method} at {target:g} ...")
                options = replace(x.options(method), target_flops=target)
                plan = search_plan(table, options, chooser if method in EVALUATING else None).plan
                networks.append(
                    Network(label_of(method, None), method, macs=plan_ratios(table, plan), score=_score(tester, plan.forms), target=target)
                )  # fmt: skip
        words = lab.inputs.words
    rows = [
        [n.label, f"{n.macs['paper']:.4f}", f"{n.macs['exact']:.4f}", f"{n.score.percent():.2f}" if n.score else "-"]
        for n in networks
    ]  # fmt: skip
    print_table(
        f"Figure 6, ResNet-56, exact strides, no fine-tuning; {words}",
        ["network", "MACs, paper", "MACs, exact", "top-1 %"],
        rows,
    )
    return Run("fig6", "ResNet-56: accuracy over MACs", "ResNet-56", words[0].upper() + words[1:], networks, versions=versions(), commands=[laboratory.command()])  # fmt: skip


def replace_metrics(lab: laboratory.Laboratory) -> laboratory.Laboratory:
    """The same laboratory with metrics of its own: a given file is of another network, perhaps."""
    return replace(lab, choices=replace(lab.choices, metrics=None))


def _score(evaluator: PlanEvaluator, forms: Mapping[str, Form]) -> Score:
    counts = evaluator.counts(forms)
    return Score(counts.images, {1: counts.correct})


def _predicted(x: Experiment, path: Path) -> Section:
    table, series, rows = read_metrics(path), [], []
    for method in ("map", "model"):
        options = replace(x.options(method), metric="measured" if method == "map" else "combined")
        points = []
        for point in sweep(table, options, [0.2, 0.25, *TARGETS]):
            value = predicted(point.found) if point.found is not None else None
            if point.found is not None and value is not None:
                points.append((plan_ratios(table, point.found.plan)["exact"], 100 * value))
                rows.append([label_of(method, None), f"{points[-1][0]:.4f}", f"{points[-1][1]:.2f}"])
        series.append(Series(label_of(method, None), points, line=True))
    words = "Predicted accuracy over MACs, VGG-16: " + "; ".join(f"{r[0]} {r[2]} at {r[1]}" for r in rows)
    base = f"baseline {100 * table.baseline_accuracy:.2f} %" if table.baseline_accuracy else "baseline taken as 100 %"
    return Section(
        "VGG-16, predicted",
        [f"Not evaluated: the baseline times the product of the layers' measured metrics (A_m), {base}. It leaves out how layers add up."],
        [Table("VGG-16", ["network", "MACs, exact", "predicted %"], rows)],
        [Chart("accuracy-predicted-vgg-16", "VGG-16: predicted accuracy over MACs", words, Points(AXIS_MACS, "predicted accuracy, %", series))],
    )  # fmt: skip


def fig7(root: Path, choices: Choices, out: Path, say: Say, metrics_for: MetricsFor) -> Report:
    """Time of the convolutions over MACs, by stock ``caffe time``."""
    timing.run(root, out, say, lambda name: metrics_for(name, choices))
    return report_of([read_run(out)])


FIGURES = {"fig2": fig2, "fig3": fig3, "fig6": fig6, "fig7": fig7}
