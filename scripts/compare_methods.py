"""All search methods at equal MACs on the paper's ResNet-56, with real evaluations and no fine-tuning.

Methods that evaluate choose by the first ``--choose`` training images; every plan is then reported on all test images that are there
(9,980 of CIFAR-10's sheets, or 1,017 of the subset). Strides are placed exactly, factors are the plain SVD's. ``--metrics`` may name measured metrics
(``enc-caffe metrics --lmdb``), which adds the methods that need them. Results are kept in a store: an interrupted run goes
on where it was. ENC_CAFFE_DATA names the folder with the data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enc_caffe import pipeline
from enc_caffe.errors import EncError
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.experiments.inputs import cifar_parts, count
from enc_caffe.files.output import atomic_file
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.planning import Found, search_plan
from enc_caffe.search.methods import EVALUATING
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.workers.choice import Workers

MODEL = Path(__file__).resolve().parent.parent / "prototxt" / "resnet56" / "train_val.prototxt"
TARGETS = (0.3, 0.4, 0.5, 0.6)
#: Name, and what differs from the defaults; the last entry says that measured metrics are needed.
METHODS: tuple[tuple[str, dict[str, object], bool], ...] = (
    ("uniform", {"method": "uniform"}, False),
    ("VBMF ranks, scaled [13]", {"method": "vbmf"}, False),
    ("PCA energy, greedy [16]", {"method": "energy"}, False),
    ("ARS [18], A_p", {"method": "ars"}, False),
    ("random, best of 20", {"method": "random"}, False),
    ("ENC-Map, y_p", {"method": "map"}, False),
    ("ENC-Model, A_p, paper's space", {"method": "model", "solver": "space", "density": 0.5, "complexity_margin": 0.002}, False),
    ("ENC-Model, A_p, exact", {"method": "model"}, False),
    ("ENC-Inf, A_p, exact, 20 best", {"method": "inf"}, False),
    ("ENC-Map, y_m", {"method": "map", "metric": "measured"}, True),
    ("ENC-Model, A_m, exact", {"method": "model", "metric": "measured"}, True),
    ("ENC-Model, A_c, exact", {"method": "model", "metric": "combined"}, True),
    ("least summed divergence, exact", {"method": "model", "metric": "divergence"}, True),
)  # fmt: skip


def run(args: argparse.Namespace, data: Path) -> str:
    """Search, evaluate, and the table as Markdown."""
    args.out.mkdir(parents=True, exist_ok=True)
    choose_by, report_on = cifar_parts(args.out, args.choose)
    weights = data / "res56.caffemodel"
    loaded = pipeline.load(MODEL, choose_by)
    table = pipeline.pca_metrics(loaded, weights)
    measured = read_metrics(args.metrics) if args.metrics else None
    methods = [m for m in METHODS if measured is not None or not m[2]]
    lines = [
        "| method | " + " | ".join(f"{t:.2f}" for t in TARGETS) + " | evaluations |", "|---|" + "---|" * (len(TARGETS) + 1),
    ]  # fmt: skip
    with ResultStore(args.out / "results.sqlite") as store, Workers(args.workers).executor() as executor:
        chooser, reporter = (
            PlanEvaluator(images_of(loaded, weights, p, executor, store)) for p in (choose_by, report_on)
        )  # fmt: skip
        with progress_bar("searches", len(methods) * len(TARGETS)) as bar:
            for row, (name, changes, needs) in enumerate(methods):
                cells, evaluations = [], 0
                for column, target in enumerate(TARGETS):
                    bar(row * len(TARGETS) + column, len(methods) * len(TARGETS))
                    options = SearchOptions(target_flops=target, count="paper", **changes)  # type: ignore[arg-type]
                    used = measured if needs and measured is not None else table
                    found = search_plan(used, options, chooser if options.method in EVALUATING else None)
                    evaluations = max(evaluations, len(found.result.evaluated))
                    cells.append(cell(found, reporter))
                lines.append(f"| {name} | " + " | ".join(cells) + f" | {evaluations or '-'} |")
                print(lines[-1], flush=True)
        whole = reporter({})
    return (
        "\n".join([*lines, "", f"The original has {100 * whole:.2f}, all of them on {count(report_on):,} test images."])
        + "\n"
    )


def cell(found: Found, reporter: PlanEvaluator) -> str:
    """Accuracy on the reported images in percent, and in brackets on those that chose."""
    accuracy = f"{100 * reporter(found.plan.forms):.2f}"
    return accuracy if not found.result.evaluated else f"{accuracy} ({100 * (found.result.accuracy or 0):.2f})"


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", type=int, default=1000, help="training images to choose by (default: 1000)")
    parser.add_argument("--metrics", type=Path, help="measured metrics of the same caffemodel")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/compare"))
    args = parser.parse_args()
    data = data_folder()
    if data is None:
        print("ENC_CAFFE_DATA must name the folder with res56.caffemodel and the CIFAR-10 images", file=sys.stderr)
        return 1
    try:
        text = run(args, data)
        with atomic_file(args.out / "table.md") as handle:
            handle.write(text.encode())
    except EncError as exc:
        print(f"compare_methods: {exc}", file=sys.stderr)
        return exc.exit_status
    print(text.splitlines()[-1])
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("compare_methods", main))
