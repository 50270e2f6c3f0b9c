"""What the ways to decompose, the metrics and the number of images are worth, on the paper's ResNet-56 without training.

``plans``: random plans at equal MACs, evaluated as whole networks on the test images; how well each network metric ranks
them (Spearman's correlation), by the number of images that it was measured on. ``images``: the network of ``--quality
best`` (without refinement, unless ``--refine``) for several targets, chosen by 100 to 5,085 training images and reported on
the 1,017 test images. ``finetune``: two epochs of stock ``caffe train`` on all 5,085 training images for the networks of
``images`` at some targets, and for the original. Results are kept in a store: an interrupted run goes on. ENC_CAFFE_DATA names the folder with the
data.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from compare_methods import MODEL, lmdbs
from scipy.stats import spearmanr

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer, Decomposition
from enc_caffe.errors import EncError
from enc_caffe.experiments import run as experiment
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.experiments.inputs import Choices, gather
from enc_caffe.experiments.run import Laboratory
from enc_caffe.experiments.settings import read_experiment
from enc_caffe.experiments.steps import Steps
from enc_caffe.files.jsonfile import write_json
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.choosing import Chooser
from enc_caffe.pipeline.measurement import images_of, measured_metrics
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.plan import Plan
from enc_caffe.report import figures
from enc_caffe.search import random_search
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import stage_bars
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (0.65, 0.5065, 0.4, 0.3)
METRICS = ("pca", "measured", "combined", "divergence", "loss")


class Study:
    """The network, its images and workers."""

    def __init__(self, out: Path, data: Path, executor: Any, store: ResultStore, bars: Any) -> None:
        self.out, self.data, self.executor, self.store, self.bars = out, data, executor, store, bars
        self.weights = data / "res56.caffemodel"
        self.loaded = pipeline.load(MODEL, lmdbs(out, data, 100)[0])
        self.plain = pipeline.pca_metrics(self.loaded, self.weights)
        self.test = self.subject(lmdbs(out, data, 100)[1])

    def subject(self, lmdb: Path) -> Any:
        """The network on some images."""
        return images_of(self.loaded, self.weights, lmdb, self.executor, self.store)

    def metrics(self, number: int, kind: str, dense: bool = False) -> MetricsTable:
        """Metrics measured on the first training images with factors of this kind."""
        images = self.subject(lmdbs(self.out, self.data, number)[0])
        decomposer = None if kind == "svd" else Decomposer(images, Decomposition(kind), progress=self.bars)
        return measured_metrics(
            images, self.plain, default_only=True, decomposer=decomposer,
            progress=lambda done, all_: self.bars(f"{kind} metrics on {number} images", done, all_), dense=dense,
        )  # fmt: skip

    def best(
        self, number: int, metrics_on: int, target: float, recalibrate: str, refine: int = 0
    ) -> tuple[Chooser, Plan]:
        """The network of ``--quality best``: what made it, and its plan."""
        table = self.metrics(min(number, metrics_on), "weighted", dense=True)
        chooser = Chooser(
            self.subject(lmdbs(self.out, self.data, number)[0]),
            Decomposition("asymmetric", frozenset(recalibrate.split(","))), "exact",
            lambda what, done, all_: self.bars(f"{number} images, {target}: {what}", done, all_),
        )  # fmt: skip
        found = search_plan(
            table, SearchOptions(method="model", metric="divergence", target_flops=target, count="paper")
        )
        found = chooser.refined(table, found, refine) if refine else found
        chooser.settle(found.plan.forms)
        return chooser, found.plan


def plans(study: Study, numbers: list[int], target: float, number: int, kind: str) -> list[str]:
    """Rank correlation of the metrics with whole networks, as rows of a table."""
    base = SearchOptions(method="model", target_flops=target, count="paper")
    rng, problem = np.random.default_rng(0), build_problem(study.plain, base, None)
    chosen = list(dict.fromkeys(random_search.plan(problem, rng) for _ in range(number)))
    decomposer = Decomposer(study.subject(lmdbs(study.out, study.data, 1000)[0]), Decomposition(kind))
    judge = PlanEvaluator(
        study.test, blobs_of=decomposer.blobs, name=decomposer.name(),
        reference=Decomposer(study.test, Decomposition()).reference(),
    )  # fmt: skip
    counts = []
    for at, ranks in enumerate(chosen):
        study.bars(f"{kind} random plans", at, len(chosen))
        counts.append(judge.counts({x.name: x.forms[r] for x, r in zip(problem.layers, ranks)}))
    accuracy = [c.correct / c.images for c in counts]
    apart = [c.divergence / c.images for c in counts]
    rows = [
        f"{len(chosen)} random plans at {target} of the MACs, {kind} factors: accuracy {100 * min(accuracy):.1f} to {100 * max(accuracy):.1f}"
    ]
    for images in [0, *numbers]:
        table = study.plain if images == 0 else study.metrics(images, kind)
        for metric in METRICS:
            if (metric == "pca") != (images == 0):
                continue
            scored = build_problem(table, replace(base, metric=metric), None)
            values = [scored.score(ranks) for ranks in chosen]
            first, second = spearmanr(values, accuracy).statistic, spearmanr(values, [-d for d in apart]).statistic
            rows.append(f"| {metric} | {images or '-'} | {first:.2f} | {second:.2f} |")
    return rows


def by_images(
    study: Study, numbers: list[int], metrics_on: int, refine: int, recalibrate: str, targets: list[float]
) -> list[dict[str, Any]]:
    """Accuracy of the networks of ``--quality best`` by target and number of images."""
    rows = []
    judge = PlanEvaluator(study.test)
    original = judge.counts({})
    for number in numbers:
        for target in targets:
            start = time.perf_counter()
            chooser, plan = study.best(number, metrics_on, target, recalibrate, refine)
            decomposer, forms = chooser.decomposer, plan.forms
            tested = PlanEvaluator(study.test, blobs_of=decomposer.blobs, name=decomposer.name() + [number])
            counts = tested.counts(forms)
            costs = pipeline.costs(study.loaded, forms)
            whole = pipeline.costs(study.loaded, {})
            rows.append({
                "images": number, "target": target, "correct": counts.correct, "of": counts.images,
                "original": original.correct, "divergence": chooser.evaluator.divergence(forms),
                "decomposition": decomposer.how.words(), "refined": plan.about.refined,
                "macs": {c: costs[c, "decomposable"].macs / whole[c, "decomposable"].macs for c in ("paper", "exact")},
                "seconds": time.perf_counter() - start,
            })  # fmt: skip
            r = rows[-1]
            print(
                f"| {number} | {target} | {r['macs']['paper']:.4f} | {r['macs']['exact']:.4f} | {counts.correct / counts.images:.4f} | "
                f"{r['divergence']:.4f} | {r['decomposition']} |", flush=True,
            )  # fmt: skip
    return rows


def plot(out: Path) -> None:
    """Accuracy over images, of all that ``images`` has written in the folder."""
    rows = [row for path in sorted(out.glob("images-*.json")) for row in json.loads(path.read_text())["rows"]]
    curves = {}
    for target in sorted({r["target"] for r in rows}, reverse=True):
        own = sorted((r["images"], 100 * r["correct"] / r["of"]) for r in rows if r["target"] == target)
        curves[f"{target} of the MACs"] = ([x for x, _ in own], [y for _, y in own])
    figure = figures.pareto(curves, "top-1 accuracy on 1,017 test images, %", "ResNet-56, no training")
    figure.axes[0].set_xscale("log")
    figure.axes[0].set_xlabel("unlabelled training images")
    figure.axes[0].axhline(100 * rows[0]["original"] / rows[0]["of"], color="grey", linewidth=0.8, linestyle="--")
    figures.save(figure, out / "accuracy_by_images.svg")


def finetuned(
    study: Study, number: int, recalibrate: str, targets: list[float], workers: Workers
) -> list[dict[str, Any]]:
    """Accuracies before and after two epochs, of the original and of the networks of ``--quality best``."""

    def bar(done: int, all_: int, what: str) -> None:
        study.bars(what, done, all_)

    x, choices = read_experiment("resnet56-50", ROOT), Choices(finetune=True, workers=workers)
    out = study.out / "finetune"
    steps = Steps(out / "steps", print)
    lab = Laboratory(x, choices, out, steps, gather(x, choices, out, steps, bar), study.executor, study.store, bar)
    rows = [{"target": 1.0, **experiment.original(lab)}]
    for target in targets:
        chooser, plan = study.best(number, 1000, target, recalibrate)
        folder, costs = experiment.written(lab, plan, f"best-{target}", "exact", chooser.decomposer.blobs(plan.forms))
        files = folder / "train_val.prototxt", folder / "compressed.caffemodel"
        rows.append({
            "target": target, **costs, "score": experiment.score(lab, f"best-{target}", *files),
            "finetuned": experiment.tuned(lab, f"best-{target}", folder),
        })  # fmt: skip
    for row in rows:
        score, after = row["score"], row["finetuned"]["score"]
        print(f"| {row['target']} | {score['correct']['1']} | {after['correct']['1']} | of {score['images']} |")
    return rows


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("plans", "images", "finetune"))
    parser.add_argument("--numbers", default="100,300,1000", help="training images (default: 100,300,1000)")
    parser.add_argument(
        "--metrics_on", type=int, default=1000, help="images: metrics on so many at most (default: 1000)"
    )
    parser.add_argument("--refine", type=int, default=0, help="images: evaluations of whole networks (default: 0)")
    parser.add_argument("--recalibrate", default="auto", help="images: as of compress (default: auto)")
    parser.add_argument("--plans", type=int, default=120, help="plans: how many (default: 120)")
    parser.add_argument("--target", type=float, default=0.4, help="plans: part of the MACs (default: 0.4)")
    parser.add_argument("--targets", default="", help="images, finetune: parts of the MACs (default: all, 0.5065,0.4)")
    parser.add_argument("--kind", default="svd", help="plans: svd (default) or weighted")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/study"))
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        print("ENC_CAFFE_DATA must name the folder with res56.caffemodel and the CIFAR-10 images", file=sys.stderr)
        return 1
    numbers = [int(n) for n in args.numbers.split(",")]
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with (
            ResultStore(args.out / "results.sqlite") as store,
            Workers(args.workers).executor() as executor,
            stage_bars() as bars,
        ):
            study = Study(args.out, data, executor, store, bars)
            targets = [float(t) for t in args.targets.split(",") if t]
            if args.what == "finetune":
                rows = finetuned(study, numbers[-1], args.recalibrate, targets or [0.5065, 0.4], Workers(args.workers))
                write_json(args.out / "finetune.json", {"rows": rows})
            elif args.what == "plans":
                print("\n".join(plans(study, numbers, args.target, args.plans, args.kind)))
            else:
                rows = by_images(
                    study, numbers, args.metrics_on, args.refine, args.recalibrate, targets or list(TARGETS)
                )
                write_json(args.out / f"images-{args.numbers}.json", {"rows": rows})
                plot(args.out)
    except EncError as exc:
        print(f"study_quality: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
