"""All schemes against each one alone: accuracy at equal parts of ALL MACs, and which form every layer took.

    scripts/study_forms.py resnet56 --targets 0.5065,0.3,0.2,0.15
    scripts/study_forms.py squeezenet --targets 0.8,0.65,0.5

ENC_CAFFE_DATA names the folder with the networks and images. Forms are chosen by divergences that gradients predict (--metric
divergence: that are measured) on a few training images with factors of least output error; accuracies are of the test (ResNet-56) or
validation (SqueezeNet) images, which are looked at for the table alone. Networks are made by asymmetric reconstruction with biases
(--decomposition asymmetric --recalibrate bias), without refinement and training; --plain leaves that out. What was measured stays in
the store: a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.datum import stratified, write_lmdb
from enc_caffe.caffe_io.sheets import read_sheets
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.forecast import Forecast
from enc_caffe.decomposition import form_cost, schemes
from enc_caffe.errors import EncError, InfeasibleError
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.files.jsonfile import write_json
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.forecasting import PREDICTED, Predictor, predicted_metrics
from enc_caffe.pipeline.measurement import images_of, measured_metrics
from enc_caffe.pipeline.planning import Found, search_plan
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import stage_bars
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Subject:
    """A network of the study, and how its images are made: those that choose, and those that report."""

    model: Callable[[Path], Path]
    weights: str
    images: Callable[[Path, Path, int, int], tuple[Path, Path]]


def _cifar10(data: Path, out: Path, number: int, seed: int) -> tuple[Path, Path]:
    paths = out / f"train_{number}_{seed}_lmdb", out / "test_lmdb"
    for path, part in zip(paths, ("train", "test")):
        if not path.is_dir():
            pixels, labels = read_sheets(data / "cifar10" / part)
            kept = np.sort(stratified(labels, number, seed)) if part == "train" else np.arange(len(labels))
            write_lmdb(path, sources.from_arrays(pixels[kept], labels[kept])[1])
    return paths


def _imagenet(data: Path, out: Path, number: int, seed: int) -> tuple[Path, Path]:
    import cv2

    paths = out / f"calibration_{number}_{seed}_lmdb", out / "val_lmdb"
    for path, part in zip(paths, ("calibration", "val")):
        if path.is_dir():
            continue
        rows = [line.split() for line in (data / "imagenet" / f"{part}.txt").read_text().splitlines()]
        if part == "calibration":
            kept = np.sort(np.random.default_rng(seed).choice(len(rows), number, replace=False))
            rows = [rows[i] for i in kept]
        pixels = np.stack(
            [np.asarray(cv2.imread(str(data / "imagenet" / name))).transpose(2, 0, 1) for name, _ in rows]
        )
        write_lmdb(path, sources.from_arrays(pixels, np.array([int(label) for _, label in rows]))[1])
    return paths


SUBJECTS = {
    "resnet56": Subject(lambda data: ROOT / "prototxt/resnet56/train_val.prototxt", "res56.caffemodel", _cifar10),
    "squeezenet": Subject(
        lambda data: data / "squeezenet/squeezenet_v1.1_train_val.prototxt", "squeezenet/squeezenet_v1.1.caffemodel", _imagenet
    ),
}  # fmt: skip


class Study:
    """One network with its images and workers."""

    def __init__(self, subject: Subject, data: Path, out: Path, number: int, executor: Any, store: ResultStore, bars: Any,
                 plain: bool = False, metric: str = "fisher", seed: int = 0) -> None:  # fmt: skip
        self.subject, self.data, self.executor, self.store, self.bars = subject, data, executor, store, bars
        self.chosen_by, self.reported_on = subject.images(data, out, number, seed)
        self.weights = data / subject.weights
        loaded = self.load("all")
        self.choosing, self.reporting = (
            images_of(loaded, self.weights, p, executor, store) for p in (self.chosen_by, self.reported_on)
        )
        # Factors that predictions are of; under asymmetric reconstruction cross terms are left out, as --quality best does.
        self.metric, self.how = metric, Decomposition("weighted" if plain else "asymmetric_fisher")
        self.making = self.how if plain else Decomposition("asymmetric", frozenset({"bias"}))

    def load(self, asked: Any) -> pipeline.LoadedNetwork:
        """The network, each layer with these schemes."""
        return pipeline.load(self.subject.model(self.data), self.chosen_by, schemes=asked)

    def metrics(self, asked: Any) -> tuple[MetricsTable, Callable[[SearchOptions], Found]]:
        """Divergences of the forms of these schemes, and the search by them."""
        table = pipeline.pca_metrics(self.load(asked), self.weights)
        words = asked if isinstance(asked, str) else ",".join(asked)
        decomposer = Decomposer(self.choosing, self.how, progress=self.bars)
        if self.metric in PREDICTED:
            forecast = Forecast(decomposer, [m.name for m in table.layers], self.bars)
            table = predicted_metrics(table, forecast)
            return table, lambda options: Predictor(options, forecast)(table)
        table = measured_metrics(
            self.choosing, table, default_only=True, decomposer=decomposer,
            progress=lambda done, all_: self.bars(f"{words}: images x forms", done, all_),
        )  # fmt: skip
        return table, lambda options: search_plan(table, options)

    def accuracy(self, forms: dict[str, Form]) -> tuple[int, int, float]:
        """Right images of all, and the divergence on the images that chose."""
        maker = Decomposer(self.choosing, self.making, progress=self.bars)
        name = [*maker.name(), "made on", self.store.file_digest(self.chosen_by / "data.mdb")]
        tester = PlanEvaluator(
            self.reporting, blobs_of=maker.blobs, name=name,
            progress=lambda plans, done, all_: self.bars("test images", done, all_),
        )  # fmt: skip
        chooser = PlanEvaluator(self.choosing, blobs_of=maker.blobs, name=maker.name(), reference=maker.reference())
        counts = tester.counts(forms)
        return counts.correct, counts.images, chooser.divergence(forms)


def options(target: float, asked: Any, metric: str) -> SearchOptions:
    """The exact optimum by summed divergence at a part of ALL MACs."""
    return SearchOptions("model", metric, target, schemes=asked)


def run(study: Study, targets: list[float], single: list[str]) -> dict[str, Any]:
    """Rows by scheme and target, and the forms of all layers."""
    original = study.accuracy({})
    print(f"original: {original[0]} of {original[1]} right", flush=True)
    rows: list[dict[str, Any]] = []
    layers: dict[str, Any] = {}
    for asked in ["all", *((name,) for name in single)]:
        words = asked if isinstance(asked, str) else asked[0]
        table, search = study.metrics(asked)
        for target in targets:
            row: dict[str, Any] = {"schemes": words, "target": target}
            try:
                found = search(options(target, asked, study.metric))
            except InfeasibleError as exc:
                row["error"] = str(exc)
                print(f"| {words} | {target} | cannot be reached: {exc} |", flush=True)
                rows.append(row)
                continue
            right, images, apart = study.accuracy(dict(found.plan.forms))
            row.update(
                macs=found.plan.about.flops_ratio, right=right, of=images, summed=-found.result.log_objective,
                divergence=apart, seconds=found.plan.about.search_seconds,
            )  # fmt: skip
            rows.append(row)
            print(
                f"| {words} | {target} | {row['macs']:.4f} | {right / images:.4f} | {row['summed']:.4f} | {apart:.4f} |",
                flush=True,
            )
            if words == "all":
                layers[str(target)] = taken(table, target, found, study.metric)
    return {"original": original[:2], "rows": rows, "layers": layers, "images": study.choosing.look.images}


def taken(table: MetricsTable, target: float, found: Found, metric: str) -> list[dict[str, Any]]:
    """Every layer's form, and the best one of another scheme at the same cost or less: what it would have lost."""
    problem = build_problem(table, options(target, "all", metric))
    searched = {x.name: x for x in problem.layers}
    rows = []
    for layer, curves in table.by_layer():
        form = found.plan.forms.get(layer.name, WHOLE)
        whole, cost = form_cost(layer, WHOLE)[0], form_cost(layer, form)[0]
        own = searched.get(layer.name)
        loss = 0.0
        if form != WHOLE and own is not None:
            loss = -float(np.log(own.metric[own.forms.index(form, 1)]))
        rival: Optional[tuple[float, str]] = None
        for m in curves:
            if m.scheme == form.scheme or all(v is None for v in m.series(f"sampled_{metric}")):
                continue
            values = m.surrogate(metric)
            for place, other in enumerate(m.forms, 1):
                if form_cost(layer, other)[0] <= cost:
                    found_loss = -float(np.log(max(values[place], 1e-300)))
                    if rival is None or found_loss < rival[0]:
                        rival = (found_loss, str(other))
        rows.append({"layer": layer.name, "form": str(form), "part": cost / whole, "loss": loss, "rival": rival})
    return rows


def arguments(doc: str, targets: str, images: int) -> argparse.ArgumentParser:
    """What every study of these networks is asked for."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=tuple(SUBJECTS))
    parser.add_argument("--targets", default=targets, help=f"parts of the MACs (default: {targets})")
    parser.add_argument("--images", type=int, default=images, help=f"training images that choose (default: {images})")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="folder (default: outputs/STUDY-NETWORK)")
    return parser


def studied(name: str, args: argparse.Namespace, do: Callable[[Study, Path], None], **more: Any) -> int:
    """Do something with the network that the arguments name; the exit status."""
    data, out = data_folder(), args.out or Path("outputs") / f"{name}-{args.network}"
    if data is None:
        print("ENC_CAFFE_DATA must name the folder with the networks and images", file=sys.stderr)
        return 1
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (
            ResultStore(out / "results.sqlite") as store,
            Workers(args.workers).executor() as executor,
            stage_bars() as bars,
        ):
            do(Study(SUBJECTS[args.network], data, out, args.images, executor, store, bars, **more), out)
    except EncError as exc:
        print(f"study_{name}: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


def main() -> int:
    """Run."""
    parser = arguments(__doc__ or "", "0.5", 300)
    parser.add_argument("--single", default="", help="schemes to try alone (default: all that take a convolution)")
    parser.add_argument("--metric", choices=("fisher", "divergence"), default="fisher", help="(default: fisher)")
    parser.add_argument("--plain", action="store_true", help="factors of least output error alone, no calibration")
    args = parser.parse_args()
    single = [s for s in args.single.split(",") if s] if args.single != "none" else []
    if not args.single:
        single = [n for n in schemes() if n != "inner_product"]

    def do(study: Study, out: Path) -> None:
        found = run(study, [float(t) for t in args.targets.split(",")], single)
        write_json(out / "forms.json", json.loads(json.dumps(found)))

    return studied("forms", args, do, plain=args.plain, metric=args.metric)


if __name__ == "__main__":
    sys.exit(stoppable("study_forms", main))
