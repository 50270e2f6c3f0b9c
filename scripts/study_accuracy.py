"""What each step of --quality best is worth: ResNet-56 or SqueezeNet at some parts of the MACs, without training.

    scripts/study_accuracy.py resnet56 --targets 0.3,0.2 --count paper --images 1000 --seed 0

ENC_CAFFE_DATA names the folder with the networks and images. Plans are those of least predicted divergence (--metric fisher) over the
paper's scheme alone and over all schemes; each is made in several ways: steps alone, and one step more each time. Everything is chosen by the
training images alone, labels unseen; the test images are looked at for the table. What was computed stays in the store: a run that was
interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

from study_forms import Study, arguments, studied

from enc_caffe.caffe_io.distill import Distillation
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.errors import InfeasibleError
from enc_caffe.files.jsonfile import write_json
from enc_caffe.measuring.subject import PlanEvaluator
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.choosing import Chooser
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.pipeline.planning import Found
from enc_caffe.search.options import SearchOptions
from enc_caffe.terminal.stopping import stoppable

AUTO = frozenset({"auto"})
#: Whole networks that a refinement tries.
TRIED = 6
BLOCKS = Decomposition("asymmetric_fisher", frozenset({"bias"}), "blocks")


@dataclass(frozen=True)
class Way:
    """How the weights are made, how many networks refine the ranks, and whether the network is distilled."""

    how: Decomposition
    refine: int = 0
    distil: bool = False


#: Ways to make a network: steps alone, then each a step more than the one before.
WAYS = {
    "svd": Way(Decomposition()),
    "auto_alone": Way(Decomposition("svd", AUTO)),
    "blocks_alone": Way(Decomposition("svd", frozenset({"bias"}), "blocks")),
    "refined_alone": Way(Decomposition(), refine=TRIED),
    "distilled_alone": Way(Decomposition(), distil=True),
    "weighted": Way(Decomposition("weighted")),
    "fisher": Way(Decomposition("fisher")),
    "asymmetric": Way(Decomposition("asymmetric", frozenset({"bias"}))),
    "asymmetric_fisher": Way(Decomposition("asymmetric_fisher", frozenset({"bias"}))),
    "auto": Way(Decomposition("asymmetric_fisher", AUTO)),
    "blocks": Way(BLOCKS),
    "weighted_blocks": Way(Decomposition("weighted", frozenset(), "blocks")),
    "refined": Way(BLOCKS, refine=TRIED),
    "distilled": Way(BLOCKS, distil=True),
}


@dataclass(frozen=True)
class Training:
    """Iterations of a distillation, and the GPU that trains (empty: the CPU)."""

    iterations: int
    gpu: str


def scored(
    study: Study, loaded: LoadedNetwork, table: MetricsTable, found: Found, way: Way, training: Training
) -> dict[str, Any]:
    """A network made in one way: its divergence on the images that choose, and the test images that are right."""
    start = time.perf_counter()
    chooser = Chooser(study.choosing, way.how, "exact", study.bars)
    if way.refine:
        found = chooser.refined(table, found, way.refine)
    forms = dict(found.plan.forms)
    chooser.settle(forms)
    blobs, name = chooser.decomposer.blobs(forms), chooser.decomposer.name()
    if way.distil:
        how = Distillation(lmdb=study.chosen_by, between=True)
        blobs, kept = chooser.distilled(loaded, found.plan, blobs, how, training.iterations, training.gpu)
        name = [*name, "distilled", training.iterations, *["gpu"] * bool(training.gpu)]
        print(f"    {kept}", flush=True)
    apart = chooser.evaluator.divergence(forms)
    seconds = time.perf_counter() - start
    tester = PlanEvaluator(
        study.reporting, blobs_of=lambda forms: blobs,
        name=[*name, "made on", study.store.file_digest(study.chosen_by / "data.mdb")],
        progress=lambda plans, done, all_: study.bars("test images", done, all_),
    )  # fmt: skip
    counts = tester.counts(forms)
    return {
        "right": counts.correct, "of": counts.images, "divergence": apart, "making": chooser.words(), "seconds": seconds
    }  # fmt: skip


def rows_of(study: Study, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every plan and way; a line for a plan that cannot be had."""
    for words in args.schemes.split(","):
        asked: Any = words if words == "all" else (words,)
        table, search = study.metrics(asked)
        loaded = study.load(asked)
        for target in map(float, args.targets.split(",")):
            try:
                found = search(SearchOptions("model", "fisher", target, schemes=asked, count=args.count))
            except InfeasibleError as exc:
                print(f"| {words} | {target} | cannot be reached: {exc} |", flush=True)
                continue
            for way in args.ways.split(","):
                training = Training(args.iterations, args.gpu)
                about = {"schemes": words, "target": target, "count": args.count, "images": args.images, "way": way}
                yield {**about, **scored(study, loaded, table, found, WAYS[way], training)}


def main() -> int:
    """Run."""
    parser = arguments(__doc__ or "", "0.3,0.2", 1000)
    parser.add_argument("--count", choices=("all", "paper"), default="paper")
    parser.add_argument("--schemes", default="spatial,all", help="paper's scheme alone, all (default: spatial,all)")
    parser.add_argument("--ways", default=",".join(WAYS), help=f"(default: {','.join(WAYS)})")
    parser.add_argument("--iterations", type=int, default=100, help="of a distillation (default: 100)")
    parser.add_argument("--gpu", default="", help="number of the GPU that distils (default: the CPU distils)")
    parser.add_argument("--seed", type=int, default=0, help="of the images that choose (default: 0)")
    args = parser.parse_args()
    unknown = [w for w in args.ways.split(",") if w not in WAYS]
    if unknown:
        print(f"--ways {unknown[0]}: known are {', '.join(WAYS)}", file=sys.stderr)
        return 2

    def do(study: Study, out: Path) -> None:
        rows = []
        for row in rows_of(study, args):
            rows.append(row)
            write_json(out / f"accuracy-{args.seed}.json", json.loads(json.dumps({"rows": rows})))
            print(
                f"| {row['schemes']} | {row['target']} | {row['way']} | {row['right'] / row['of']:.4f} | {row['divergence']:.4f} | "
                f"{row['making']} | {row['seconds']:.0f} s |", flush=True,
            )  # fmt: skip

    return studied("accuracy", args, do, seed=args.seed)


if __name__ == "__main__":
    sys.exit(stoppable("study_accuracy", main))
