"""Every method of the paper's tables beside each other: ``rivals.py`` on ResNet-56, or on a network of yours.

Each searches at the same MACs, chooses by the same training images, and is tested once on images that had no say. What is finished is
not done again, and evaluations are kept in the store: an interrupted run goes on where it was. ENC_CAFFE_DATA names the
folder with res56.caffemodel and CIFAR-10 (else both are downloaded); with --model, --weights, --lmdb and --test_lmdb any network
with class scores takes its place.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Optional

from enc_caffe.errors import EncError, UsageError
from enc_caffe.experiments import rivals
from enc_caffe.experiments.fetch import RESOURCES, fetch
from enc_caffe.experiments.inputs import cifar_parts, cifar_training
from enc_caffe.experiments.paper import finish, say
from enc_caffe.experiments.retrained import Training
from enc_caffe.measuring.store import ResultStore, default_store
from enc_caffe.pipeline.source import Source
from enc_caffe.search.own import OWN, check
from enc_caffe.terminal.progress import progress_bar
from enc_caffe.terminal.stopping import stoppable
from enc_caffe.workers.choice import Workers

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="", help=f"of {', '.join(r.key for r in rivals.RIVALS)} (default: all)")
    parser.add_argument("--targets", default="0.5,0.3", help="parts of the MACs (default: 0.5,0.3)")
    parser.add_argument("--model", type=Path, help="train_val of another network")
    parser.add_argument("--weights", type=Path, help="caffemodel (default: the paper's ResNet-56)")
    parser.add_argument("--lmdb", type=Path, help="training images to choose by")
    parser.add_argument("--test_lmdb", type=Path, help="images to test on")
    parser.add_argument(
        "--choose", type=int, default=1000, help="of CIFAR-10, training images to choose by (default: 1000)"
    )
    parser.add_argument("--count", choices=("paper", "all"), default="paper", help="what targets are parts of")
    parser.add_argument("--first_layer", default="keep", help="keep (default), half or search")
    parser.add_argument(
        "--finetune",
        type=int,
        metavar="N",
        help="train every network by N iterations, and test it again (default: not)",
    )
    parser.add_argument("--solver", type=Path, help="of --finetune (default: ResNet-56's)")
    parser.add_argument(
        "--train_lmdb", type=Path, help="images of --finetune (default: all training images of CIFAR-10)"
    )
    parser.add_argument(
        "--statistics", type=float, default=0.9, metavar="F",
        help="of --finetune, BatchNorm's moving_average_fraction (default: 0.9; Caffe's 0.999 hardly moves in a short training)",
    )  # fmt: skip
    parser.add_argument(
        "--gpu", default="", metavar="0|all", help="of --finetune, where Caffe trains (default: the CPU)"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--store", type=Path, help="store of results (default: the per-user one)")
    parser.add_argument("--out", type=Path, default=Path("outputs/rivals"))
    for own in OWN.values():
        parser.add_argument(own.flag, type=int if own.whole else float, help=f"of {own.methods[0]}: {own.what}")
    args = parser.parse_args()
    try:
        run(args)
    except EncError as exc:
        print(f"rivals: {exc}", file=sys.stderr)
        return exc.exit_status
    except KeyboardInterrupt:
        print("rivals: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace) -> None:
    """The match, its table and its report."""
    names = tuple(m for m in args.method.split(",") if m)
    rivals.chosen(names)
    settings = {name: getattr(args, name) for name in OWN if getattr(args, name) is not None}
    for name in settings:
        if names and not any(m in OWN[name].methods for m in names):
            raise UsageError(
                f"{OWN[name].flag}: belongs to {OWN[name].methods[0]}, which METHOD={args.method} leaves out"
            )
    try:
        targets = [float(t) for t in args.targets.split(",")]
    except ValueError:
        raise UsageError(f"--targets {args.targets}: parts of the MACs such as 0.5,0.3 are needed") from None
    # Before anything is downloaded.
    for target in targets:
        if not 0 < target <= 1:
            raise UsageError(f"--targets {args.targets}: {target} is no part of the MACs in (0, 1]")
    if args.choose < 1:
        raise UsageError(f"--choose {args.choose}: 1 or more images are needed")
    for name, value in settings.items():
        check(OWN[name].methods[0], {name: value})
    given = [f for f in ("model", "weights", "lmdb", "test_lmdb") if getattr(args, f) is not None]
    if args.model is not None and len(given) < 4:
        raise UsageError(f"--model needs --weights, --lmdb and --test_lmdb beside it; given: {', '.join(given)}")
    model = args.model or ROOT / "prototxt" / "resnet56" / "train_val.prototxt"
    weights = args.weights or fetch(RESOURCES["res56.caffemodel"])
    choose, test = args.lmdb, args.test_lmdb
    if choose is None or test is None:
        say(f"rivals: choosing by {args.choose} training images of CIFAR-10")
        made = cifar_parts(args.out, args.choose)
        choose, test = choose or made[0], test or made[1]
    training = _training(args, model)
    source = Source(model, weights)
    network = source.load(choose).network.name
    first = None if args.first_layer == "keep" and args.count == "all" else args.first_layer
    arena = rivals.Arena("rivals", network, source, choose, test, targets, args.count, first, settings, training)
    with ResultStore(args.store or default_store(), say) as store, progress_bar("rivals", None) as bar:
        said = rivals.run(arena, names, args.out, store, Workers(args.workers), bar, say)
    finish(args.out)
    del said


def _training(args: argparse.Namespace, model: Path) -> Optional[Training]:
    """The training that all networks get, where one is asked for."""
    if args.finetune is None:
        given = [f for f in ("solver", "train_lmdb", "gpu") if getattr(args, f)]
        if given:
            raise UsageError(f"--{given[0]}: belongs to --finetune N, which is not given")
        return None
    if args.finetune < 1:
        raise UsageError(f"--finetune {args.finetune}: 1 or more iterations are needed")
    if args.model is not None and (args.solver is None or args.train_lmdb is None):
        raise UsageError("--finetune needs --solver and --train_lmdb beside --model")
    train = args.train_lmdb or cifar_training(args.out)
    return Training(args.finetune, args.solver or model.parent / "solver.prototxt", train, args.statistics, args.gpu)


if __name__ == "__main__":
    sys.exit(stoppable("rivals", main))
