"""From runs to a report: which tables and charts there are, and what stands in them."""

from __future__ import annotations

from typing import Iterable, Optional, Sequence

from enc_caffe.form import WHOLE
from enc_caffe.report import beside
from enc_caffe.report.paper import BASELINES, METHODS, PaperResult, of_network, result_for
from enc_caffe.report.rows import (
    Chart,
    MetricCurves,
    Network,
    Points,
    RankBars,
    Report,
    Run,
    Section,
    Series,
    Table,
    TrainingCurves,
)

NOTHING = "-"
AXIS_MACS = "MACs, part of the original's"


def report_of(runs: Sequence[Run]) -> Report:
    """The whole report of one or more runs."""
    title = runs[0].title if len(runs) == 1 else "enc-caffe: " + ", ".join(r.name for r in runs)
    sections = [s for s in (_summary(runs), _accuracies(runs), _latency(runs)) if s is not None]
    for run in runs:
        sections += _of_run(run, f"{run.name}: " if len(runs) > 1 else "")
    sections.append(_made(runs))
    return Report(title, tuple(dict.fromkeys(r.images for r in runs if r.images)), sections)


def _percent(value: Optional[float], digits: int = 2) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _loss(network: Network, original: Optional[Network], tuned: bool, k: int = 1) -> Optional[float]:
    """Percentage points of top-k accuracy lost against the original; below 0 is a gain."""
    score = network.finetuned if tuned else network.score
    base = original.score.percent(k) if original is not None and original.score is not None else None
    value = score.percent(k) if score is not None else None
    return None if base is None or value is None else base - value


def paper_row(run: Run, network: Network) -> Optional[PaperResult]:
    """What the paper has for this network; its strides stand as in ``published``, where a run has both."""
    if network.target is None:
        return None
    both = {n.placement for n in run.networks if n.method == network.method}
    if len(both) > 1 and network.placement != "published":
        return None
    return result_for(run.network, network.target, network.method)


def summary_table(run: Run) -> Table:
    """One row a network: costs, accuracies, and the paper's."""
    original = run.original
    tuned = any(n.finetuned for n in run.networks)
    scored = any(n.score for n in run.networks)
    papers = [paper_row(run, n) for n in run.networks]
    known = any(papers)
    ks = sorted({k for n in run.networks if n.score for k in n.score.correct}) or [1]
    headers = ["network", "MACs, paper conv.", "MACs, exact"]
    if any(n.parameters is not None for n in run.networks):
        headers.append("parameters")
    if scored:
        headers += [f"top-{k} %" for k in ks] + ["loss"]
    if tuned:
        iterations = {n.iterations for n in run.networks if n.finetuned}
        (same,) = iterations if len(iterations) == 1 else (None,)
        headers += ["fine-tuned %" if same is None else f"after {same} iterations %", "loss, tuned"]
    if beside.has_searches(run):
        headers += ["evaluations", "search s"]
    if known:
        headers += ["paper: loss", *(["paper: tuned"] if any(p and p.after != (None, None) for p in papers) else [])]
    rows = []
    for network, paper in zip(run.networks, papers):
        row = [network.label, *(_ratio(network.macs.get(c)) for c in ("paper", "exact"))]
        if "parameters" in headers:
            row.append(_ratio(network.parameters))
        if scored:
            row += [_percent(network.score.percent(k)) if network.score else NOTHING for k in ks]
            row.append(NOTHING if network is original else _percent(_loss(network, original, False)))
        if tuned:
            row.append(_percent(network.finetuned.percent()) if network.finetuned else NOTHING)
            row.append(_percent(_loss(network, original, True)))
        if "evaluations" in headers:
            row += beside.search_cells(network)
        if known:
            row.append(_paper_loss(run, network, paper))
            if "paper: tuned" in headers:
                row.append(_percent(paper.after[0], 1) if paper else NOTHING)
        rows.append(row)
    note = "MACs and parameters are parts of the original's."
    if scored or known:
        note += f" Loss: percentage points of top-1 accuracy below the original, {'here and ' if scored else ''}in the paper."
    return Table(run.title, headers, rows, note=note)


def _ratio(value: Optional[float]) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _paper_loss(run: Run, network: Network, paper: Optional[PaperResult]) -> str:
    if network.method == "original" and run.network in BASELINES:
        return f"({BASELINES[run.network][0]:.1f} %)"
    return _percent(paper.before[0], 1) if paper else NOTHING


def _summary(runs: Sequence[Run]) -> Optional[Section]:
    tables = [summary_table(run) for run in runs if run.networks]
    remarks = [line for run in runs for line in run.remarks]
    return Section("Summary", remarks, tables) if tables or remarks else None


def accuracy_points(runs: Sequence[Run], network: str) -> list[Series]:
    """Accuracy lost over MACs: ours by method, without and with fine-tuning, and the paper's."""
    ours: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in runs:
        for n in run.networks if run.network == network else ():
            for tuned, words in ((False, ""), (True, " (fine-tuned)")):
                lost = _loss(n, run.original, tuned)
                if lost is not None and n.method != "original":
                    family = METHODS.get(n.method, n.label)
                    key = (family + (f", {n.placement} strides" if n.placement else "") + words, family)
                    ours.setdefault(key, []).append((n.macs.get("exact", n.macs.get("paper", 0.0)), -lost))
    series = [Series(label, sorted(points), family, line=len(points) > 1) for (label, family), points in ours.items()]
    for words, at in (("", "before"), (" (fine-tuned)", "after")):
        theirs: dict[str, list[tuple[float, float]]] = {}
        for p in of_network(network):
            value = getattr(p, at)[0]
            if value is not None and p.method is not None:
                theirs.setdefault(p.policy, []).append((p.macs, -value))
        series += [
            Series(f"{policy}, paper{words}", sorted(points), policy, hollow=True) for policy, points in theirs.items()
        ]
    return series if ours else []


def _accuracies(runs: Sequence[Run]) -> Optional[Section]:
    charts = []
    for network in dict.fromkeys(r.network for r in runs):
        series = accuracy_points(runs, network)
        if series:
            words = f"Change of top-1 accuracy over MACs, {network}: " + "; ".join(
                f"{s.label} " + ", ".join(f"{y:+.2f} at {x:.3f}" for x, y in s.points) for s in series
            )
            drawing = Points(AXIS_MACS, "top-1 accuracy against the original, points", series)
            charts.append(Chart(_name("accuracy", network), f"{network}: accuracy over MACs", words, drawing))
    theirs = any(s.hollow for c in charts if isinstance(c.drawing, Points) for s in c.drawing.series)
    text = ["Filled: measured here. Hollow: the paper's Tables I to IV, on its own test images."] if theirs else []
    return Section("Accuracy over MACs (Figure 6)", text, (), charts) if charts else None


def _latency(runs: Sequence[Run]) -> Optional[Section]:
    times = [t for run in runs for t in run.times]
    if not times:
        return None
    names = list(dict.fromkeys(t.network for t in times))
    series = [Series(n, [(t.macs, t.convolutions) for t in times if t.network == n], line=True) for n in names]
    rows = [[t.network, f"{t.macs:.4f}", f"{t.convolutions:.3f}", f"{t.convolutions / t.macs:.2f}", f"{t.whole:.3f}"] for t in times]  # fmt: skip
    table = Table(
        "Time over the original's", ["network", "MACs", "convolutions' time", "time / MACs", "whole pass"], rows,
        note="MACs (exact convention) and time are parts of the original's; stock caffe time, one image.",
    )  # fmt: skip
    words = "Time of the convolutions over MACs: " + "; ".join(f"{r[0]} {r[2]} at {r[1]}" for r in rows)
    drawing = Points(AXIS_MACS, "time of the convolutions, part of the original's", series, diagonal=True)
    return Section("Latency (Figure 7)", (), [table], [Chart("latency", "Time over MACs", words, drawing)])


def _name(*parts: str) -> str:
    # File and element names: nothing but letters, digits and dashes.
    text = "-".join(parts).lower()
    return "-".join("".join(c if c.isascii() and c.isalnum() else " " for c in text).split())


def _of_run(run: Run, prefix: str) -> Iterable[Section]:
    charts, tables, drawn = [], [], set()
    for network in run.networks:
        if not network.layers:
            continue
        forms = tuple(layer.form for layer in network.layers)
        if forms not in drawn:
            drawn.add(forms)
            charts.append(_bars(run, network))
        tables.append(_layers(network))
    if charts:
        text = ["A bar is the space from R_min to R_max that ENC-Map gives at the target less and plus its margin."]
        yield Section(f"{prefix}Ranks per layer (Figure 3)", text if _bounded(run) else (), (), charts)
    yield from beside.ranks(run)
    yield from beside.learning(run, _name("learning", run.name))
    if tables:
        text = ["MACs of one image in the exact convention; parameters without biases."]
        if any(layer.times for n in run.networks for layer in n.layers):
            text += ["Milliseconds of a layer, whole and in its form, are the latency table's."]
        yield Section(f"{prefix}Layers before and after", text, tables)
    if run.curves:
        drawing = MetricCurves(run.curves)
        words = f"y_p{' and y_m' if any(c.measured is not None for c in run.curves) else ''} of {len(run.curves)} layers over their rank"
        yield Section(f"{prefix}Layer metrics (Figure 2)", (), (), [Chart(_name("metrics", run.name), "Metrics of every layer", words, drawing)])  # fmt: skip
    trained = [n.training for n in run.networks if n.training is not None]
    if trained:
        rows = [
            [t.name, str(t.losses[-1][0]) if t.losses else NOTHING, f"{t.losses[-1][1]:.4f}" if t.losses else NOTHING,
             "; ".join(f"{k} {v[-1][1]:.4f}" for k, v in t.tests.items() if v) or NOTHING]
            for t in trained
        ]  # fmt: skip
        table = Table("From Caffe's log", ["network", "last iteration", "loss", "test outputs"], rows)
        words = "Training loss and test accuracy over the iterations: " + "; ".join(
            f"{r[0]} ends with loss {r[2]}" for r in rows
        )
        chart = Chart(_name("training", run.name), "Loss and accuracy", words, TrainingCurves(trained))
        yield Section(f"{prefix}Fine-tuning", (), [table], [chart] if any(t.losses for t in trained) else ())


def _bounded(run: Run) -> bool:
    return any(layer.lowest is not None for n in run.networks for layer in n.layers)


def _bars(run: Run, network: Network) -> Chart:
    layers = network.layers
    bounded = any(layer.lowest is not None for layer in layers)
    if len({x.form.partition(":")[0] for x in layers} - {WHOLE.scheme}) > 2 or any(
        x.rank is None and x.form != str(WHOLE) for x in layers
    ):
        return _mixture(run, network)
    drawing = RankBars(
        [x.name for x in layers], [x.rank for x in layers], [x.max_rank for x in layers],
        [x.lowest for x in layers] if bounded else None, [x.highest for x in layers] if bounded else None,
    )  # fmt: skip
    words = "Rank of r_max by layer: " + ", ".join(
        f"{x.name} {'whole' if x.rank is None else x.rank} of {x.max_rank}" for x in layers
    )
    # Networks with the same ranks share a chart, so the strides are no part of its name.
    label = METHODS.get(network.method, network.label)
    where = "" if network.target is None else f" at {network.target:.4g} of the MACs"
    return Chart(_name("ranks", run.name, network.label), f"{label}{where}", words, drawing)


def _mixture(run: Run, network: Network) -> Chart:
    """Parts of the MACs that are left, where layers have forms of several schemes."""
    layers, label = network.layers, METHODS.get(network.method, network.label)
    drawing = RankBars(
        [f"{x.name}  {x.form}" for x in layers], [None if x.form == str(WHOLE) else x.macs[1] for x in layers],
        [max(1, x.macs[0]) for x in layers], axis="MACs / MACs before",
    )  # fmt: skip
    words = "MACs left by layer: " + ", ".join(f"{x.name} {x.form} {x.macs[1] / max(1, x.macs[0]):.2f}" for x in layers)
    where = "" if network.target is None else f" at {network.target:.4g} of the MACs"
    return Chart(_name("ranks", run.name, network.label), f"{label}{where}", words, drawing)


def _layers(network: Network) -> Table:
    rows, timed = [], any(x.times for x in network.layers)
    for x in network.layers:
        rank = x.form if x.rank is None else f"{x.form} of {x.max_rank}"
        rows.append([x.name, x.before, x.after, x.output, rank, *_change(x.macs), *_change(x.parameters)])
        rows[-1] += _times(x.times) if timed else []
    total = [sum(x.macs[i] for x in network.layers) for i in (0, 1)]
    weights = [sum(x.parameters[i] for x in network.layers) for i in (0, 1)]
    rows.append(["all of these", "", "", "", "", *_change((total[0], total[1])), *_change((weights[0], weights[1]))])
    headers = ["layer", "before", "after", "output", "form", "MACs before", "after", "part", "parameters before", "after", "part"]  # fmt: skip
    if timed:
        known = [x.times for x in network.layers if x.times]
        rows[-1] += _times((sum(t[0] for t in known), sum(t[1] for t in known)))
        headers += ["ms before", "after", "part"]
    return Table(network.label, headers, rows, left=4, folded=True)


def _times(pair: Optional[tuple[int, int]]) -> list[str]:
    if pair is None:
        return [NOTHING] * 3
    return [f"{pair[0] / 1e6:.3f}", f"{pair[1] / 1e6:.3f}", f"{pair[1] / pair[0]:.3f}"]


def _change(pair: tuple[int, int]) -> list[str]:
    return [f"{pair[0]:,}", f"{pair[1]:,}", f"{pair[1] / pair[0]:.3f}" if pair[0] else NOTHING]


def _made(runs: Sequence[Run]) -> Section:
    tables, code = [], []
    for run in runs:
        code += [c for c in run.commands if c not in code]
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        if run.versions:
            tables.append(
                Table(f"{prefix}versions", ["what", "which"], [[k, v] for k, v in run.versions.items()], left=2)
            )
        if run.files:
            tables.append(Table(f"{prefix}SHA-256", ["file", "hash"], [[k, v] for k, v in run.files.items()], left=2))
        found = [(n.label, k, v) for n in run.networks for k, v in n.details]
        if found:
            tables.append(
                Table(f"{prefix}searches", ["network", "what", "value"], [list(r) for r in found], left=3, folded=True)
            )
    return Section("How it was made", (), tables, (), code)
