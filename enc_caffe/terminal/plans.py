"""Plans and sweeps as a person reads them."""

from __future__ import annotations

import math
from typing import Optional

from enc_caffe.decomposition import form_cost
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline import planning
from enc_caffe.pipeline.planning import Found, SweepPoint
from enc_caffe.plan import Plan
from enc_caffe.terminal.tables import print_table


def show_plan(table: MetricsTable, plan: Plan) -> None:
    """Forms of all layers and the plan's costs in both conventions."""
    rows, left = [], table.widths(plan.forms)
    for layer, curves in table.by_layer():
        form = plan.forms.get(layer.name, WHOLE)
        own = next((m for m in curves if m.scheme == form.scheme), None)
        part = form_cost(layer, form, outputs=left.get(layer.name))[0] / form_cost(layer, WHOLE)[0]
        alone = Form(form.scheme, form.ranks)
        energy = "" if own is None or form.inside else f"{own.energy_of(alone):.4f}"
        rows.append(
            [
                layer.name,
                str(form),
                str(own.max_rank) if own is not None and not own.ladder else "",
                f"{part:.3f}",
                energy,
            ]
        )
    about = plan.about
    print_table(
        f"{plan.network}: forms by {about.method} ({about.solver}), metric {about.metric}",
        ["layer", "form", "r_max", "MACs left", "PCA energy"],
        rows,
        left=2,
    )
    ratios = planning.plan_ratios(table, plan)
    latency = f", latency {about.latency_ratio:.4f}" if about.latency_ratio is not None else ""
    print(
        f"MACs {ratios['paper']:.4f} (paper convention), {ratios['exact']:.4f} (exact){latency} of the {len(rows)} layers that the "
        f"metrics list; MACs {about.flops_ratio:.4f} ({about.convention}) and parameters {about.params_ratio:.4f} of {about.counted}"
    )


def show_found(found: Found) -> None:
    """Objective, candidates, optimality and time."""
    about, result = found.plan.about, found.result
    if about.proven_optimal:
        proof = "proven optimal"
    elif about.gap is None:
        proof = "no bound on the optimum is known"
    else:
        proof = f"the optimum is at most {_factor(about.gap)} times as large"
    number = f"{result.candidates:,} candidate{'s' if result.candidates > 1 else ''}"
    if about.solver == "exact":
        every = sum(math.log10(len(x.choices)) for x in found.problem.layers)
        number = f"all 10^{every:.1f} configurations"
    print(f"objective {about.objective:.4g}, {proof}; {number}; {(about.search_seconds or 0.0) * 1000:.1f} ms")
    if result.accuracy is not None:
        print(f"accuracy {result.accuracy:.4f}")
    if result.evaluated:
        first = f", the first of them with {result.evaluated[0][1]:.4f}" if about.method == "inf" else ""
        print(f"{len(result.evaluated)} plans evaluated{first}")
    if result.note:
        print(result.note)


def _factor(gap: float) -> str:
    factor = math.exp(min(gap, 700.0))
    return f"{factor:.6g}" if factor < 1e6 else f"{factor:.1e}"


def show_sweep(table: MetricsTable, points: list[SweepPoint]) -> None:
    """One row a target."""
    rows = []
    for p in points:
        if p.found is None:
            rows.append([f"{p.target:.4g}", "cannot be reached", "", "", "", "", ""])
            continue
        ratios, about = planning.plan_ratios(table, p.found.plan), p.found.plan.about
        accuracy: Optional[float] = planning.predicted(p.found)
        gap = "proven" if about.proven_optimal else "" if about.gap is None else _factor(about.gap)
        rows.append([
            f"{p.target:.4g}", f"{ratios['paper']:.4f}", f"{ratios['exact']:.4f}", f"{about.params_ratio:.4f}",
            f"{about.objective:.4g}", gap, "" if accuracy is None else f"{accuracy:.4f}",
        ])  # fmt: skip
    print_table(
        f"{table.network}: {len(points)} targets",
        ["target", "MACs, paper", "MACs, exact", "parameters", "objective", "optimum/objective at most", "accuracy"],
        rows, left=0,
    )  # fmt: skip
