"""Which metric of single layers tells good networks from bad ones, where layers have many forms.

    scripts/study_metrics.py resnet56 --target 0.4 --plans 120 --images 300

ENC_CAFFE_DATA names the folder with the networks and images. Random plans of mixed forms at one part of ALL MACs are made with factors
of least output error, and judged as whole networks by other images of the training set. Every metric sums over the layers what it knows of
each alone; all of them see the same images that choose. The second table has single layers, by decade of the divergence that was
measured. What was measured stays in the store: a run that was interrupted goes on, and its seconds are then those that were left.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Mapping

import numpy as np
from scipy.stats import spearmanr
from study_forms import Study, arguments, studied

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.forecast import Forecast
from enc_caffe.decomposition import form_cost
from enc_caffe.files.jsonfile import write_json
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.layers import ORIGINAL, Pair
from enc_caffe.measuring.scores import Counts
from enc_caffe.measuring.subject import PlanEvaluator, layer_counts
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.forecasting import SMALL
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.terminal.stopping import stoppable

#: A plan's MACs may be so far from the part that was asked for.
APART = 0.01


@dataclass
class Known:
    """What each metric knows of single layers, and the seconds of the clock that it took."""

    output: Mapping[Pair, float]
    forecast: Forecast
    counts: Mapping[Pair, Counts]
    seconds: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, Callable[[Mapping[str, Form]], float]]:
        """Each metric of a whole plan; the larger, the worse."""
        original = self.counts[ORIGINAL]

        def divergence(pair: Pair) -> float:
            return max(0.0, self.counts[pair].divergence / self.counts[pair].images)

        def right(pair: Pair) -> float:
            return -float(np.log(max(self.counts[pair].correct, 0.5) / original.correct))

        def loss(pair: Pair) -> float:
            return (self.counts[pair].cross_entropy - original.cross_entropy) / original.images

        def decided(pair: Pair) -> float:
            value = self.forecast.predicted(pair)
            return divergence(pair) if value > SMALL else value

        def summed(of: Callable[[Pair], float]) -> Callable[[Mapping[str, Form]], float]:
            return lambda forms: sum(of(pair) for pair in forms.items())

        return {
            "output error": summed(self.output.__getitem__),
            "fisher": summed(self.forecast.predicted),
            "fisher, cross terms": self.forecast.together,
            "fisher+measured": summed(decided),
            "measured accuracy": summed(right),
            "measured cross-entropy": summed(loss),
            "measured divergence": summed(divergence),
        }  # fmt: skip


def known(study: Study, table: MetricsTable) -> Known:
    """All metrics at the sampled forms of all schemes."""
    decomposer = Decomposer(study.choosing, study.how, progress=study.bars)
    pairs = [(m.name, m.form(r)) for m in table.layers for r in (m.measure_at or m.sampled_ranks)]
    seconds, start = {}, time.perf_counter()

    def took(name: str) -> None:
        nonlocal start
        seconds[name], start = time.perf_counter() - start, time.perf_counter()

    output = decomposer.errors(pairs)
    took("output error, and factors")
    forecast = Forecast(decomposer, [m.name for m in table.layers], study.bars)
    forecast.learn(pairs)
    took("fisher")
    counts = layer_counts(
        study.choosing, pairs, lambda done, all_: study.bars("images x forms", done, all_), decomposer.prepare(pairs), decomposer.key()
    )  # fmt: skip
    took("measured")
    return Known(output, forecast, counts, seconds)


def random_plan(table: MetricsTable, target: float, rng: np.random.Generator, least: float) -> dict[str, Form]:
    """Random forms of all layers whose MACs are near a part of those of the whole network, none of less than a part of the layer's own."""
    whole = dict(table.extra)["network_macs"]
    choices = {
        layer.name: [(WHOLE, form_cost(layer, WHOLE)[0])] + [(m.form(r), form_cost(layer, m.form(r))[0]) for m in curves for r in (m.measure_at or m.sampled_ranks)]
        for layer, curves in table.by_layer()
    }  # fmt: skip
    choices = {name: [c for c in own if c[1] >= least * own[0][1]] for name, own in choices.items()}
    fixed = whole - sum(own[0][1] for own in choices.values())
    plan = {name: own[rng.integers(len(own))] for name, own in choices.items()}
    names = list(choices)
    while True:
        apart = (fixed + sum(cost for _, cost in plan.values())) / whole - target
        if abs(apart) <= APART:
            return {name: form for name, (form, _) in plan.items() if form != WHOLE}
        name = names[rng.integers(len(names))]
        better = [c for c in choices[name] if (c[1] < plan[name][1]) == (apart > 0) and c[1] != plan[name][1]]
        if better:
            plan[name] = better[rng.integers(len(better))]


def of_plans(study: Study, table: MetricsTable, found: Known, args: argparse.Namespace, out: Path) -> None:
    """Print how well each metric ranks whole networks."""
    judged_by = study.subject.images(study.data, out, args.judged, args.seed + 1)[0]
    judges = images_of(study.load("all"), study.weights, judged_by, study.executor, study.store)
    maker, own = Decomposer(study.choosing, study.how), Decomposer(judges, study.how)
    name = [*maker.name(), "made on", study.store.file_digest(study.chosen_by / "data.mdb")]
    evaluator = PlanEvaluator(judges, blobs_of=maker.blobs, name=name, reference=own.reference())
    rng, rows = np.random.default_rng(args.seed), []
    metrics = found.metrics()
    for at in range(args.plans):
        study.bars("random plans", at, args.plans)
        forms = random_plan(table, args.target, rng, args.least)
        rows.append((evaluator(forms), evaluator.divergence(forms), *(metric(forms) for metric in metrics.values())))
    study.bars("random plans", args.plans, args.plans)
    values = np.array(rows).T
    print(
        f"{args.plans} random plans at {args.target} of ALL MACs, {args.least} of every layer's at least, judged by "
        f"{judges.look.images} images: accuracy {values[0].min():.3f} to {values[0].max():.3f}, divergence {values[1].min():.3f} to "
        f"{values[1].max():.3f}, their rank correlation {spearmanr(-values[0], values[1])[0]:.2f}\n\n| metric | accuracy | divergence |\n|---|---|---|"
    )
    table_rows = []
    for metric, value in zip(metrics, values[2:]):
        ranked = [-spearmanr(value, values[0])[0], spearmanr(value, values[1])[0]]
        table_rows.append({"metric": metric, "accuracy": ranked[0], "divergence": ranked[1]})
        print(f"| {metric} | {ranked[0]:.2f} | {ranked[1]:.2f} |")
    write_json(out / f"metrics-{args.seed}.json", {"plans": table_rows, "seconds": found.seconds})


def of_layers(found: Known) -> None:
    """Print what is predicted over what is measured for single layers, by decade."""
    pairs = [p for p in found.counts if p is not ORIGINAL and p != ORIGINAL]
    measured = np.array([max(1e-9, found.counts[p].divergence / found.counts[p].images) for p in pairs])
    predicted = np.array([max(1e-12, found.forecast.predicted(p)) for p in pairs])
    output = np.array([found.output[p] for p in pairs])
    print(
        "\n| measured divergence | forms | fisher over measured: median, 10 to 90% | rank correlation: fisher | output error |\n|---|---|---|---|---|"
    )
    for low in (*(10.0**k for k in range(-7, 1)), 0.0):
        inside = (measured >= low) & (measured < 10 * low) if low else np.ones(len(pairs), bool)
        if inside.sum() < 5:
            continue
        ratio = np.percentile(predicted[inside] / measured[inside], [50, 10, 90])
        ranked = [spearmanr(own[inside], measured[inside])[0] for own in (predicted, output)]
        words = f"{low:g} to {10 * low:g}" if low else "all"
        print(
            f"| {words} | {inside.sum()} | {ratio[0]:.2f}, {ratio[1]:.2f} to {ratio[2]:.2f} | {ranked[0]:.2f} | {ranked[1]:.2f} |"
        )


def main() -> int:
    """Run."""
    parser = arguments(__doc__ or "", "", 300)
    parser.add_argument("--target", type=float, default=0.4, help="part of ALL MACs of the plans (default: 0.4)")
    parser.add_argument(
        "--least", type=float, default=0.0, help="part of a layer's own MACs that its forms have at least (default: 0)"
    )
    parser.add_argument("--plans", type=int, default=120, help="how many (default: 120)")
    parser.add_argument("--judged", type=int, default=1000, help="other training images that judge (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of images and plans (default: 0)")
    args = parser.parse_args()

    def do(study: Study, out: Path) -> None:
        table = pipeline.pca_metrics(study.load("all"), study.weights)
        found = known(study, table)
        of_plans(study, table, found, args, out)
        of_layers(found)
        print(
            f"\n{len(found.counts) - 1} forms; seconds: {', '.join(f'{k} {v:.0f}' for k, v in found.seconds.items())}"
        )

    return studied("metrics", args, do, seed=args.seed, plain=True)


if __name__ == "__main__":
    sys.exit(stoppable("study_metrics", main))
