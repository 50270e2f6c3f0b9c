"""What a make target stands for: one experiment, a table of the paper, one of its figures, or all of them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Optional

from enc_caffe.errors import EncError, UsageError
from enc_caffe.experiments import figures, from_metrics
from enc_caffe.experiments import run as with_images
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.experiments.inputs import Choices, announce, check_given
from enc_caffe.experiments.policies import command_for, measured, on_resnet56
from enc_caffe.experiments.settings import Experiment, experiments, read_experiment
from enc_caffe.measuring.store import ResultStore, default_store
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.report.paper import RESULTS, PaperResult
from enc_caffe.report.render import write_report
from enc_caffe.report.rows import Run
from enc_caffe.report.sections import paper_row, report_of, summary_table
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.tables import print_table

#: Experiments of a table, and the methods that the table has of ours.
TABLES: dict[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "table1": (("resnet56-50", ("inf", "model", "map")), ("vgg16-25", ("inf", "model", "map")), ("alexnet-37", ("inf", "model"))),
    "table2": (("vgg16-20", ("inf",)),),
    "table3": (("resnet56-55", ("map",)), ("vgg16-24", ("model",)), ("alexnet-31", ("inf",))),
    "table4": tuple((f"vgg16-{n}", ("model",)) for n in (57, 41, 39, 33)),
}  # fmt: skip
NUMERALS = {"table1": "I", "table2": "II", "table3": "III", "table4": "IV"}
#: Tables with other groups' methods, which stand beside ours on ResNet-56 (``make rivals``).
BESIDE = ("table1", "table2")
#: Where ENC_CAFFE_DATA may have metrics of a network.
METRICS = {"VGG-16": "vgg16.json", "ResNet-56": "res56.json"}


def say(line: str) -> None:
    """A line of progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def run(name: str, root: Path, choices: Choices, out: Path) -> None:
    """Run what ``name`` stands for, print its table, and write its report into ``out/report``."""
    if name == "paper":
        for each in (*TABLES, *figures.FIGURES):
            say(f"== {each}")
            _run_or_say(each, root, choices, out / each)
    elif name in TABLES:
        table(name, root, choices, out)
    elif name in figures.FIGURES:
        report = figures.FIGURES[name](root, choices, out, say, metrics_for)
        write_report(report, out / "report", force=True)
        print(f"report: {out / 'report' / 'report.html'}")
    else:
        x = _experiment(name, root)
        experiment(x, choices, out)
        finish(out)


def _experiment(name: str, root: Path) -> Experiment:
    try:
        return read_experiment(name, root)
    except UsageError as exc:
        words = (*TABLES, *figures.FIGURES, "paper")
        if name.endswith(".toml") or name in experiments(root):
            raise
        raise UsageError(f"{exc}; tables and figures: {', '.join(words)}") from None


def _run_or_say(name: str, root: Path, choices: Choices, out: Path) -> None:
    try:
        run(name, root, choices, out)
    except EncError as exc:
        say(f"{name} is skipped: {exc}")


def experiment(x: Experiment, choices: Choices, out: Path) -> None:
    """With images where they are given (or can be had); from metrics alone where only those are."""
    only_metrics = choices.metrics is not None and choices.test_lmdb is None
    if only_metrics and (x.data == "imagenet" or not choices.finetune):
        say(
            f"{x.name}: downloads nothing; needs {choices.metrics}; takes seconds; no images, so only the search is done"
        )
        from_metrics.run(x, choices, out)
        return
    check_given(x, choices)
    announce(x, choices, say)
    with ResultStore(default_store(), say) as store, progress_bar(x.name, None) as bar:
        with_images.run(x, choices, out, store, bar, say)


def finish(out: Path) -> Run:
    """The table on standard output, and the report."""
    found = read_run(out)
    shown = summary_table(found)
    if any(n.score for n in found.networks):
        print(f"{found.title}; {found.images}")
        print_table("", list(shown.headers), [list(r) for r in shown.rows])
        print(shown.note)
        for line in found.remarks:
            print(line)
    write_report(report_of([found]), out / "report", force=True)
    print(f"report: {out / 'report' / 'report.html'}")
    return found


def metrics_for(network: str, choices: Choices) -> Optional[Path]:
    """Metrics of a network: the given ones if they are of it, else those in ENC_CAFFE_DATA."""
    if choices.metrics is not None and read_metrics(choices.metrics).network == network:
        return choices.metrics
    local = data_folder()
    path = local / "metrics" / METRICS[network] if local is not None and network in METRICS else None
    return path if path is not None and path.is_file() else None


def table(name: str, root: Path, choices: Choices, out: Path) -> None:
    """Every experiment of a table that can run with what there is, and one table beside the paper's rows."""
    runs, skipped = [], []
    say(f"{name}: {', '.join(each for each, _ in TABLES[name])}, each as far as its images or metrics are here")
    for each, methods in TABLES[name]:
        x = read_experiment(each, root)
        own = replace(choices, methods=choices.methods or methods, metrics=None)
        if x.data == "imagenet" and choices.test_lmdb is None:
            own = replace(own, metrics=metrics_for(x.network, choices))
        say(f"-- {each}")
        try:
            experiment(x, own, out / each)
            runs.append(finish(out / each))
        except EncError as exc:
            skipped.append(f"{each}: {str(exc).splitlines()[0]}")
            say(f"{each} is skipped: {exc}")
    rows = [_row(p, runs) for p in RESULTS if p.table == NUMERALS[name]]
    headers = ["network", "policy", "MACs", "paper: loss, top-1/5", "tuned", "here: loss, top-1/5", "tuned"]
    if name in BESIDE:
        match = measured(out.parent / "rivals")
        for row, p in zip(rows, (p for p in RESULTS if p.table == NUMERALS[name])):
            row += [on_resnet56(p.policy, match), command_for(p)]
        headers += ["ResNet-56 here: loss", "the row itself"]
    print_table(f"Table {NUMERALS[name]}: loss of accuracy in percentage points, top-1/top-5", headers, rows, left=2)
    for line in skipped:
        print(f"skipped: {line}")
    if runs:
        write_report(report_of(runs), out / "report", force=True)
        print(f"report: {out / 'report' / 'report.html'}")


def _row(p: PaperResult, runs: list[Run]) -> list[str]:
    ours = ["-", "-"]
    for r in runs:
        for n in r.networks:
            if r.network == p.network and paper_row(r, n) is p:
                base = r.original.score if r.original else None
                ours = [
                    "/".join(
                        "-" if base is None or s is None or s.percent(k) is None else f"{(base.percent(k) or 0) - (s.percent(k) or 0):.2f}"
                        for k in (1, 5)
                    )
                    for s in (n.score, n.finetuned)
                ]  # fmt: skip
    theirs = ["/".join("-" if v is None else f"{v:.1f}" for v in pair) for pair in (p.before, p.after)]
    return [p.network, p.policy, f"{p.macs:.3g}", *theirs, *ours]
