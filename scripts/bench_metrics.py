"""Measured metrics of ResNet-56 on 1,000 training images: the authors' way against this engine, in one run.

The authors' way emits a network and starts one stock ``caffe test`` process for each (layer, rank), BLAS on all cores; ten
pairs spread over the depth are timed and scaled up. A second figure runs two such processes at once with one BLAS thread
each, which is the best that this way can do. The engine measures all 54 layers x 4 ranks, its workers on all cores, without
a store. Both use the same Caffe and BLAS kernels, unless ``--against PREFIX`` names another build of Caffe for the
authors' way. ENC_CAFFE_DATA names the folder with the data.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, Optional

import numpy as np

from enc_caffe import pipeline
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.installation import find_caffe
from enc_caffe.measuring.layers import ORIGINAL, Pair
from enc_caffe.measuring.subject import early_counts, layer_counts
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.wanted import can_be_wanted
from enc_caffe.plan import Plan
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.choice import Workers

MODEL = Path(__file__).resolve().parent.parent / "prototxt" / "resnet56" / "train_val.prototxt"


@contextlib.contextmanager
def caffe_at(prefix: Optional[Path]) -> Iterator[None]:
    """Another build of Caffe for the programs that are started meanwhile."""
    before = os.environ.get("CAFFE_ROOT")
    if prefix is not None:
        os.environ["CAFFE_ROOT"] = str(prefix)
    find_caffe.cache_clear()
    try:
        yield
    finally:
        if prefix is not None:
            os.environ.pop("CAFFE_ROOT") if before is None else os.environ.update(CAFFE_ROOT=before)
        find_caffe.cache_clear()


def authors_way(loaded: pipeline.LoadedNetwork, weights: Path, lmdb: Path, pair: Pair, images: int, folder: Path, threads: int) -> int:  # fmt: skip
    """Correct images by emission and one stock process."""
    out = folder / f"{pair[0]}-{pair[1]}"
    pipeline.emit(loaded, weights, Plan("ResNet-56", {pair[0]: pair[1]}), out, test_lmdb=lmdb)
    result = caffe_test(
        out / "train_val.prototxt", out / "compressed.caffemodel", images // 50, out / "log", threads=threads
    )
    return round(result["Accuracy"] * images)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1000, help="a multiple of 50")
    parser.add_argument("--pairs", type=int, default=10, help="pairs of the authors' way that are timed")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="PREFIX",
        help="another build of Caffe (a folder of scripts/build_caffe.sh) for the authors' way",
    )
    args = parser.parse_args()
    folder = data_folder()
    if folder is None:
        print("ENC_CAFFE_DATA must name the folder with res56.caffemodel and the CIFAR-10 images", file=sys.stderr)
        return 1
    weights, cores = folder / "res56.caffemodel", os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as temporary:
        work, lmdb = Path(temporary), Path(temporary) / "lmdb"
        with np.load(folder / "cifar10_subset.npz", allow_pickle=False) as data:
            images, labels = data["train_images"][: args.images], data["train_labels"][: args.images].astype(np.int64)
        write_lmdb(lmdb, from_arrays(images, labels)[1])
        loaded = pipeline.load(MODEL, lmdb)
        table = pipeline.pca_metrics(loaded, weights)
        # Every layer but the first, every sampled rank but r_max; a layer whose samples coincide has fewer.
        pairs = [(m.name, m.form(r)) for m in table.layers[1:] for r in m.measure_at if r < m.max_rank]
        some = [pairs[round(i)] for i in np.linspace(0, len(pairs) - 1, args.pairs)]

        with caffe_at(args.against):
            start = time.perf_counter()
            stock = {p: authors_way(loaded, weights, lmdb, p, args.images, work / "a", cores) for p in some}
            one = (time.perf_counter() - start) / len(some) * len(pairs)

            start = time.perf_counter()
            with ThreadPoolExecutor(cores) as pool:
                list(pool.map(lambda p: authors_way(loaded, weights, lmdb, p, args.images, work / "b", 1), some))
            several = (time.perf_counter() - start) / len(some) * len(pairs)

        start = time.perf_counter()
        with Workers(cores).executor() as executor:
            made = images_of(loaded, weights, lmdb, executor)
            found = layer_counts(made, pairs)
        ours = time.perf_counter() - start

        start = time.perf_counter()
        with Workers(cores).executor() as executor:
            _, ended = early_counts(images_of(loaded, weights, lmdb, executor), pairs, can_be_wanted(table))
        early = time.perf_counter() - start
    rows = [
        [f"one caffe test process for each pair, {cores} BLAS threads", f"{one:,.0f}", f"{one / ours:.2f}"],
        [f"{cores} such processes at once, 1 BLAS thread each", f"{several:,.0f}", f"{several / ours:.2f}"],
        [f"this engine, {cores} workers", f"{ours:,.0f}", "1"],
        [f"the same with --early ({len(ended)} forms ended)", f"{early:,.0f}", f"{early / ours:.2f}"],
    ]
    print_table(f"ResNet-56, {args.images} images, {len(pairs)} pairs; the first two scaled up from {len(some)}",
                ["way", "seconds", "ratio"], rows)  # fmt: skip
    print(
        f"{len(pairs) * args.images / ours:,.0f} images x pairs a second; the original has {found[ORIGINAL].correct} correct"
    )
    worst = max(abs(found[p].correct - c) for p, c in stock.items())
    print(f"correct counts of the {len(some)} pairs differ by {worst} images at most from stock caffe test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
