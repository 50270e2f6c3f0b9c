"""The paper's ResNet-56 on CIFAR-10: original, uniform and ENC-Map networks beside the paper's figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.sources import from_arrays, from_cifar10
from enc_caffe.cli.common import print_table, progress_bar
from enc_caffe.errors import EncError
from enc_caffe.fetch import RESOURCES, cifar10_folder, data_folder, fetch
from enc_caffe.metrics.table import write_metrics
from enc_caffe.plan import write_plan
from enc_caffe.planning import search_plan
from enc_caffe.runtime.evaluate import evaluate
from enc_caffe.runtime.executor import CaffeExecutor
from enc_caffe.runtime.stopping import stoppable
from enc_caffe.search.options import SearchOptions

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "prototxt" / "resnet56" / "train_val.prototxt"
SUBSET = "cifar10_subset.npz"
# Table I of the paper, ResNet-56 at 50% of the MACs, no fine-tuning: 93.1 less 12.7 and 3.3 points.
PAPER = {"original": "93.1", "uniform": "80.4", "map": "89.8"}


def make_test_lmdb(out: Path) -> tuple[Path, str]:
    """LMDB of the test images, and in words which images they are."""
    local = data_folder()
    if local is not None and (local / SUBSET).is_file():
        with np.load(local / SUBSET, allow_pickle=False) as data:
            images, labels = data["test_images"], data["test_labels"].astype(np.int64)
        path, words = (
            out / "cifar10_subset_test_lmdb",
            f"a SUBSET of CIFAR-10: {len(images):,} of its 10,000 test images",
        )
        if not path.exists():
            write_lmdb(path, from_arrays(images, labels)[1])
        return path, words
    path = out / "cifar10_test_lmdb"
    if not path.exists():
        write_lmdb(path, from_cifar10(cifar10_folder(), "test")[1])
    return path, "CIFAR-10's 10,000 test images"


def run(target: float, out: Path, workers: int) -> None:
    """Compress by both methods, evaluate with both stride placements, print."""
    out.mkdir(parents=True, exist_ok=True)
    weights = fetch(RESOURCES["res56.caffemodel"])
    lmdb, words = make_test_lmdb(out)
    images = ImageLmdb(lmdb)
    number = len(images)
    images.close()
    print(f"ResNet-56 at {target:.0%} of the MACs; accuracy on {words}; no fine-tuning")
    loaded = pipeline.load(MODEL, lmdb)
    table = pipeline.pca_metrics(loaded, weights)
    write_metrics(out / "metrics.json", table)
    jobs = [("original", None, MODEL, weights, "1.0000", "1.0000")]
    for method in ("uniform", "map"):
        plan = search_plan(table, SearchOptions(method, "pca", target)).plan
        write_plan(out / f"ranks-{method}.json", plan)
        for placement in ("published", "exact"):
            folder = out / f"{method}-{placement}"
            emitted = pipeline.emit(
                loaded,
                weights,
                plan,
                folder,
                placement,
                force=True,
                test_lmdb=lmdb,
                solver=MODEL.parent / "solver.prototxt",
            )
            jobs.append((method, placement, folder / "train_val.prototxt", folder / "compressed.caffemodel",
                         f"{emitted.ratio('paper', 'decomposable'):.4f}", f"{emitted.ratio('exact', 'decomposable'):.4f}"))  # fmt: skip
    rows = []
    with CaffeExecutor(workers, 1) as executor, progress_bar("images", number * len(jobs)) as bar:
        for i, (method, placement, prototxt, caffemodel, paper, exact) in enumerate(jobs):
            result = evaluate(
                prototxt, caffemodel, lmdb, executor=executor,
                progress=lambda done, all_, i=i: bar(i * all_ + done, len(jobs) * all_),
            )  # fmt: skip
            known = (
                PAPER[method]
                if method == "original" or (abs(target - 0.5) < 1e-9 and placement == "published")
                else "-"
            )
            rows.append([{"map": "ENC-Map"}.get(method, method), placement or "-", paper, exact,
                         f"{100 * result.accuracy():.2f} ({result.correct[1]}/{result.images})", known])  # fmt: skip
    print_table(
        "", ["ranks", "strides", "MACs, paper convention", "MACs, exact", "top-1 %", "paper, top-1 %"], rows, left=2
    )
    print(
        "MACs are of the 55 3x3 convolutions; the first one stays whole, as in the paper. The paper's accuracies are on"
    )
    print(
        "all 10,000 test images. 'published' puts both strides on the first layer of a pair, 'exact' keeps the function."
    )
    print(f"Networks, ranks and metrics are in {out}")


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target_flops", type=float, default=0.5)
    parser.add_argument("--out", type=Path, default=Path("outputs/resnet56-50"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    try:
        run(args.target_flops, args.out, args.workers)
    except EncError as exc:
        print(f"resnet56: {exc}", file=sys.stderr)
        return exc.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("resnet56", main))
