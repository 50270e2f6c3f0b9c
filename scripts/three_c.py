"""3C of He, Zhang and Sun (ICCV 2017): spatial factorisation, then channel factorisation, then channel pruning, each at a cube root.

    scripts/three_c.py --model train_val.prototxt --weights net.caffemodel --lmdb choose --test_lmdb test --target_flops 0.5 --out DIR

Every step is one enc-caffe compress of the network that the step before has written (DIR/1_spatial, DIR/2_channel, DIR/3_prune), and may use
the cube root of the target of ITS network's MACs. What a step measured stays in the store: a run that was interrupted goes on, and a step whose
folder is there is not made again; DIR/three_c.json says what it was made of. Further flags are handed on to every step, such as --decomposition
asymmetric.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from enc_caffe.cli import main as enc_caffe
from enc_caffe.errors import EncError, UsageError
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.terminal.tables import print_table

FORMAT = "enc-caffe-three-c/1"
#: Steps in their order, and the schemes of each.
STEPS = (("1_spatial", "spatial"), ("2_channel", "channel"), ("3_prune", "prune_lasso"))


def run(args: argparse.Namespace, more: list[str]) -> int:
    """All steps, and a table of what each left."""
    if not 0 < args.target_flops <= 1:
        print(f"three_c.py: --target_flops {args.target_flops}: a part in (0, 1] is needed", file=sys.stderr)
        return 2
    for flag in ("model", "weights", "lmdb", "test_lmdb"):
        if not getattr(args, flag).exists():
            print(f"three_c.py: --{flag} {getattr(args, flag)}: no such file or folder", file=sys.stderr)
            return 1
    try:
        _same(args, more)
        return _steps(args, more)
    except EncError as exc:
        print(f"three_c.py: {exc}", file=sys.stderr)
        return exc.exit_status


def _same(args: argparse.Namespace, more: list[str]) -> None:
    """Keep what the run is of; UsageError where the folder has steps of another one."""
    about: dict[str, Any] = {"format": FORMAT, "target_flops": args.target_flops, "flags": more}
    about.update({f: str(getattr(args, f).absolute()) for f in ("model", "weights", "lmdb", "test_lmdb")})
    path = args.out / "three_c.json"
    if not path.is_file():
        if any((args.out / name).exists() for name, _ in STEPS):
            raise UsageError(f"{args.out}: has steps, and nothing says of what; name another --out, or remove them")
        args.out.mkdir(parents=True, exist_ok=True)
        write_json(path, about)
        return
    before = read_json(path, FORMAT, UsageError)
    for key, value in about.items():
        if before.get(key) != value:
            raise UsageError(
                f"{path}: its steps are of {key} {before.get(key)}, asked for is {value}; name another --out"
            )


def _steps(args: argparse.Namespace, more: list[str]) -> int:
    part = args.target_flops ** (1 / len(STEPS))
    model, weights, rows, ratio = args.model, args.weights, [], 1.0
    for name, schemes in STEPS:
        out = args.out / name
        if not (out / "evaluation.json").is_file():
            status = enc_caffe([
                "compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(args.lmdb), "--test_lmdb", str(args.test_lmdb),
                "--method", "model", "--metric", "fisher", "--decomposition", "weighted", "--schemes", schemes, "--target_flops", f"{part:.6f}",
                "--out", str(out), *more,
            ])  # fmt: skip
            if status:
                return status
        data = read_json(out / "evaluation.json", "enc-caffe-compression/1", UsageError)
        try:
            ratio *= data["macs"]["exact, all"]
            correct = data.get("compressed", {}).get("correct")
            rows.append([name, f"{ratio:.4f}", "" if correct is None else f"{_first(correct) / data['images']:.4f}"])
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise UsageError(
                f"{out / 'evaluation.json'}: is damaged ({exc!r}); remove {out}, and the step is made again"
            ) from None
        model, weights = out / "train_val.prototxt", out / "compressed.caffemodel"
    print_table("3C", ["step", "MACs of the original (exact, all)", "top-1"], rows, left=1)
    return 0


def _first(correct: object) -> int:
    """Top-1 of what an evaluation counted."""
    return int(next(iter(correct.values())) if isinstance(correct, dict) else correct)  # type: ignore[call-overload, arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for flag in ("model", "weights", "lmdb", "test_lmdb", "out"):
        parser.add_argument(f"--{flag}", type=Path, required=True)
    parser.add_argument("--target_flops", type=float, required=True, help="part of the original's MACs, all layers")
    sys.exit(run(*parser.parse_known_args()))
