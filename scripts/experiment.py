"""The paper's experiments: ``experiment.py resnet56-50``, ``vgg16-25``, ..., ``table1`` to ``table4``, ``fig2``, ``fig3``, ``fig6``, ``fig7``, ``paper``.

With ``--metrics METRICS.json`` alone it searches, prints the ranks (beside the published ones, where ENC_CAFFE_DATA has
them) and says what it skips. With images it does all of it: a part of the training images, metrics, search, emission,
accuracies, and with ``--finetune 1`` fine-tuning. What was finished is not done again. Settings of an experiment are in
prototxt/NETWORK/EXPERIMENT.toml; a path of such a file of your own works as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from enc_caffe.errors import EncError
from enc_caffe.experiments import paper
from enc_caffe.experiments.inputs import Choices
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="an experiment, a table, a figure, or paper")
    parser.add_argument(
        "--method", default="", help="map, model, inf or several: map,model (default: the experiment's)"
    )
    parser.add_argument("--metrics", type=Path, help="metrics file to search, instead of measuring")
    parser.add_argument("--weights", type=Path, help="caffemodel (default: the public one, downloaded)")
    parser.add_argument("--imagenet_lmdb", type=Path, help="training images")
    parser.add_argument("--test_lmdb", type=Path, help="validation images")
    parser.add_argument("--any_images", action="store_true", help="take LMDBs that are not ImageNet's size and labels")
    parser.add_argument("--finetune", type=int, choices=(0, 1), default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gpu", default="", help="0,1 or all")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    methods = tuple(m for m in args.method.split(",") if m)
    choices = Choices(
        methods, args.metrics, args.weights, args.imagenet_lmdb, args.test_lmdb, args.any_images, bool(args.finetune),
        Workers(args.workers, args.gpu), args.gpu,
    )  # fmt: skip
    try:
        paper.run(args.name, ROOT, choices, args.out or Path("outputs") / Path(args.name).stem)
    except EncError as exc:
        print(f"experiment: {exc}", file=sys.stderr)
        return exc.exit_status
    except KeyboardInterrupt:
        print("experiment: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(stoppable("experiment", main))
