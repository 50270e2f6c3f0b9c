"""The demo: train a small CNN on handwritten digits, compress it, fine-tune it, and test it, all with stock Caffe."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from sklearn.datasets import load_digits

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.caffe_tools.finetune import RESULT, finetune
from enc_caffe.caffe_tools.programs import caffe_test, caffe_time
from enc_caffe.complexity import network_complexity
from enc_caffe.errors import EncError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.measuring.store import ResultStore
from enc_caffe.metrics.files import write_metrics
from enc_caffe.pipeline.compression import compress
from enc_caffe.pipeline.making import Output, of_quality
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.pipeline.reporting import EXPERIMENT, sha256, versions
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.plan import read_plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import progress_bar, stage_bars
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent
TARGETS = (0.5, 0.25)
# Every fifth image is for testing: 1,797 images give 1,437 for training and 360 for testing.
TEST_EVERY = 5
FINETUNE_ITERATIONS = 200


@dataclass
class Row:
    """One network of the table."""

    name: str
    macs: int
    weights: int
    before: float
    best: float
    after: float
    milliseconds: float
    seconds: float
    record: dict[str, Any]


def make_lmdbs(out: Path) -> tuple[Path, Path]:
    """LMDBs of scikit-learn's digits, 8x8 pixels with values 0 to 16."""
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    test = np.arange(len(images)) % TEST_EVERY == 0
    paths = []
    for name, part in (("train", ~test), ("test", test)):
        path = out / f"digits_{name}_lmdb"
        if not path.exists():
            write_lmdb(path, from_arrays(images[part], labels[part])[1])
        paths.append(path)
    return paths[0], paths[1]


def train(
    what: str, solver: Path, weights: Path | None, out: Path, lmdbs: tuple[Path, Path], **options: object
) -> Path:
    """Stock ``caffe train``; a finished result is taken as it is."""
    if not (out / RESULT).is_file():
        with progress_bar(what, None) as bar:
            finetune(
                solver, weights, out, None, *lmdbs, overrides=dict(options),
                progress=lambda step: bar(step.iteration, step.iterations, step.words()),
            )  # fmt: skip
    return out / RESULT


def tested(model: Path, weights: Path, lmdb: Path, log: Path) -> float:
    """Accuracy by stock ``caffe test`` over all test images."""
    return caffe_test(model, weights, -(-count(lmdb) // 45), log)["accuracy"]


def without_training(model: Path, weights: Path, lmdbs: tuple[Path, Path], target: float, out: Path) -> float:
    """Accuracy of what ``compress --quality best`` makes by the training images, their labels not looked at."""
    search, making = of_quality("best")
    options = SearchOptions(target_flops=target, **search)
    with ResultStore(out / "results.sqlite") as store, stage_bars() as bars:
        made = compress(
            Source(model, weights), lmdbs[0], out / f"best-{round(100 * target)}", options, making,
            Resources(Workers(2), store), Output(lmdbs[1], lmdbs[0], force=True), progress=bars,
        )  # fmt: skip
    assert made.after is not None
    return made.after.accuracy()


def timed(deploy: Path, log: Path) -> float:
    """Milliseconds of a forward pass of one image by stock ``caffe time``, one BLAS thread."""
    return caffe_time(deploy, 200, log, threads=1).forward_ms


def run(out: Path) -> list[Row]:
    """All stages; what a former run finished is not done again."""
    out.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    lmdbs = make_lmdbs(out)
    log = out / "caffe.log"
    weights = train("training the original", ROOT / "prototxt/digits/solver.prototxt", None, out / "original", lmdbs)
    model = out / "original" / "train_val.prototxt"
    loaded = pipeline.load(model, lmdbs[1])
    deploy = out / "original" / "deploy.prototxt"
    deploy.write_text(to_text(deploy_net(read_net(model), loaded.network)))
    cost = network_complexity(loaded.network, {})
    accuracy = tested(model, weights, lmdbs[1], log)
    images = count(lmdbs[1])
    entry = {
        "method": "original",
        "label": "original",
        "macs": {"paper": 1.0, "exact": 1.0},
        "parameters": 1.0,
        "score": counted(accuracy, images),
    }
    rows = [
        Row("original", cost.macs, cost.parameters, accuracy, accuracy, accuracy, timed(deploy, log), time.perf_counter() - start, entry)
    ]  # fmt: skip
    table = pipeline.pca_metrics(loaded, weights)
    write_metrics(out / "metrics.json", table)
    for target in TARGETS:
        start = time.perf_counter()
        folder = out / f"compressed-{round(100 * target)}"
        options: dict[str, Any] = {"method": "map", "metric": "pca", "target_flops": target, "first_layer": "search"}
        plan = search_plan(table, SearchOptions(**options)).plan
        # A fine-tuned network of other ranks, from a former state of things, is of no use.
        if (folder / "ranks.json").is_file() and read_plan(folder / "ranks.json").forms != plan.forms:
            shutil.rmtree(out / f"finetuned-{round(100 * target)}", ignore_errors=True)
        solver = {"max_iter": FINETUNE_ITERATIONS, "base_lr": 0.005, "stepsize": 150, "snapshot": FINETUNE_ITERATIONS}
        emitted = pipeline.emit(
            loaded, weights, plan, folder, force=True, solver=out / "original" / "solver.prototxt",
            train_lmdb=lmdbs[0], test_lmdb=lmdbs[1], solver_overrides=solver,
        )  # fmt: skip
        before = tested(folder / "train_val.prototxt", folder / "compressed.caffemodel", lmdbs[1], log)
        tuned = train(
            f"fine-tuning at {target:.0%} of the MACs", folder / "solver.prototxt", folder / "compressed.caffemodel",
            out / f"finetuned-{round(100 * target)}", lmdbs,
        )  # fmt: skip
        after = tested(folder / "train_val.prototxt", tuned, lmdbs[1], log)
        best = without_training(model, weights, lmdbs, target, out)
        cost = emitted.after["exact", "all"]
        milliseconds = timed(folder / "deploy.prototxt", log)
        rows.append(
            Row(
                f"{target:.0%} of the MACs",
                cost.macs,
                cost.parameters,
                before,
                best,
                after,
                milliseconds,
                time.perf_counter() - start,
                {
                    "method": "map", "label": f"ENC-Map at {target:.0%}", "ranks": f"{folder.name}/ranks.json", "folder": folder.name,
                    "macs": {"exact": emitted.ratio("exact", "all"), "paper": emitted.ratio("paper", "all")},
                    "options": options, "parameters": emitted.parameter_ratio("all"), "score": counted(before, images),
                    "finetuned": {"folder": f"finetuned-{round(100 * target)}", "score": counted(after, images)},
                },
            )
        )  # fmt: skip
    write_json(out / "experiment.json", {
        "format": EXPERIMENT, "name": "demo", "title": "Handwritten digits: the demo", "network": table.network,
        "images": f"Accuracy by stock caffe test on {images} test images; MACs and parameters of all layers",
        "networks": [r.record for r in rows], "versions": versions(), "commands": ["make demo"],
        "files": {f"{f.parent.name}/{f.name}": sha256(f) for f in (weights, *sorted(out.glob("compressed-*/compressed.caffemodel")))},
    })  # fmt: skip
    return rows


def counted(accuracy: float, images: int) -> dict[str, Any]:
    """An accuracy of ``caffe test`` as the number of right images."""
    return {"images": images, "correct": {"1": round(accuracy * images)}}


def count(lmdb: Path) -> int:
    """Images of an LMDB."""
    images = ImageLmdb(lmdb)
    number = len(images)
    images.close()
    return number


def main() -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("outputs/demo"))
    parser.add_argument("--again", action="store_true", help="forget what a former run finished")
    args = parser.parse_args()
    if args.again and args.out.exists():
        shutil.rmtree(args.out)
    start = time.perf_counter()
    try:
        rows = run(args.out)
    except EncError as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return exc.exit_status
    print_table(
        "handwritten digits: accuracy on 360 test images by ENC-Map (PCA energy), fine-tuned, and without training by --quality best; "
        "MACs and weights of all layers (exact convention)",
        ["network", "MACs", "weights", "ENC-Map", "fine-tuned", "--quality best", "caffe time, ms", "seconds"],
        [
            [r.name, f"{r.macs:,} ({r.macs / rows[0].macs:.2f})", f"{r.weights:,} ({r.weights / rows[0].weights:.2f})",
             f"{r.before:.4f}", f"{r.after:.4f}", f"{r.best:.4f}", f"{r.milliseconds:.3f}", f"{r.seconds:.1f}"]
            for r in rows
        ],
    )  # fmt: skip
    Console(markup=False, highlight=False, soft_wrap=True).print(
        f"{time.perf_counter() - start:.0f} s in all. In {args.out}: original/, compressed-50/, compressed-25/ (prototxt, caffemodel, "
        "solver, ranks), finetuned-50/, finetuned-25/ (finetuned.caffemodel), best-50/, best-25/"
    )
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("demo", main))
