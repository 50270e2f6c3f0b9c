"""What a distillation without labels adds: accuracy of ResNet-56 before and after, at several parts of the MACs.

    scripts/study_distill.py --targets 0.3,0.2 --images 5085 --iterations 1000

ENC_CAFFE_DATA names the folder with the network and CIFAR-10. Ranks and factors are chosen by 1,000 of the training images (--choose), as
--quality best chooses them but without refinement; the distillation trains on --images of them, padded by 4 pixels and cropped at
random, a tenth held out. No label is read. The test images are looked at once, for the table. A run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from enc_caffe.caffe_io import sources
from enc_caffe.caffe_io.datum import stratified, write_lmdb
from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.caffe_io.sheets import read_sheets
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.errors import EncError
from enc_caffe.experiments.fetch import data_folder
from enc_caffe.files.jsonfile import write_json
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.compression import compress
from enc_caffe.pipeline.making import Making, Output
from enc_caffe.pipeline.source import Resources, Source
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.progress import stage_bars
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.terminal.tables import print_table
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent
#: Zero pixels around the images that are cropped at random.
PAD = 4


def images(data: Path, out: Path, choose: int, train: int) -> tuple[Path, Path, Path]:
    """LMDBs of the images that choose, that train and that report."""
    paths = out / f"choose_{choose}_lmdb", out / f"train_{train}_lmdb", out / "test_lmdb"
    for path, part, number, pad in zip(paths, ("train", "train", "test"), (choose, train, None), (0, PAD, 0)):
        if not path.is_dir():
            pixels, labels = read_sheets(data / "cifar10" / part)
            kept = np.arange(len(labels)) if number is None else np.sort(stratified(labels, number))
            write_lmdb(path, sources.from_arrays(pixels[kept], labels[kept], pad)[1])
    return paths


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default="0.3,0.2")
    parser.add_argument("--count", choices=("all", "paper"), default="paper")
    parser.add_argument("--metric", default="divergence")
    parser.add_argument("--schemes", default="all")
    parser.add_argument("--choose", type=int, default=1000)
    parser.add_argument("--images", type=int, default=5085)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--temperature", type=float, default=Distillation.temperature)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "study_distill")
    args = parser.parse_args()
    data = data_folder()
    if data is None or not (data / "cifar10" / "test").is_dir():
        print("give ENC_CAFFE_DATA, a folder with res56.caffemodel and cifar10/", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    choose, train, test = images(data, args.out, args.choose, args.images)
    source = Source(ROOT / "prototxt/resnet56/train_val.prototxt", data / "res56.caffemodel")
    making, rows = Making(Decomposition("asymmetric", frozenset({"bias"})), dense=True), []
    try:
        with ResultStore(args.out / "results.sqlite") as store, stage_bars() as bars:
            for target in map(float, args.targets.split(",")):
                options = SearchOptions("model", args.metric, target, schemes=args.schemes, count=args.count)
                row: dict[str, object] = {"target": target}
                for name, iterations in (("before", 0), ("after", args.iterations)):
                    held = Distillation(args.temperature, lmdb=train)
                    result = compress(
                        source, choose, args.out / f"{target:g}-{name}", options, replace(making, iterations=iterations),
                        Resources(Workers(args.workers), store), Output(test, force=True, distillation=held), progress=bars,
                        notice=lambda line: print(line, file=sys.stderr),
                    )  # fmt: skip
                    assert result.before is not None and result.after is not None
                    row.update({
                        "original": result.before.accuracy(1), name: result.after.accuracy(1), f"{name}_divergence": result.divergence,
                        "macs": result.emitted.ratio("exact", "all"),
                    })  # fmt: skip
                rows.append(row)
                write_json(args.out / "study.json", {"format": "enc-caffe-study-distill/1", "rows": rows})
                print(json.dumps(row), flush=True)
    except EncError as exc:
        print(exc, file=sys.stderr)
        return 1
    print_table(
        f"ResNet-56, top-1 accuracy on the test images; {args.images} unlabelled images, {args.iterations} iterations",
        ["target", "of all MACs", "original", "before", "after", "divergence before", "after"],
        [[f"{r['target']:g}", *(f"{r[k]:.4f}" for k in ("macs", "original", "before", "after", "before_divergence", "after_divergence"))]
         for r in rows], left=0,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("study_distill.py", main))
