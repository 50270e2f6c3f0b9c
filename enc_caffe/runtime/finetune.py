"""Fine-tuning by stock ``caffe train``: progress, snapshots, and going on where an interrupted run was."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, read_solver, to_text
from enc_caffe.caffe_io.variants import image_shape, solver_param, train_val_net
from enc_caffe.errors import CaffeError, OutputError, UsageError
from enc_caffe.jsonfile import read_json, write_json
from enc_caffe.output import atomic_file
from enc_caffe.runtime.tool import parse_training, run_caffe

Progress = Callable[[int, int, Optional[float]], None]
_SNAPSHOT = re.compile(r"snapshot_iter_(\d+)\.solverstate$")
RESULT = "finetuned.caffemodel"


@dataclass(frozen=True)
class Finetuned:
    """The fine-tuned caffemodel, the last training loss and test outputs, and the iteration it resumed from."""

    weights: Path
    iterations: int
    loss: Optional[float]
    test: dict[str, float]
    resumed_from: int


def latest_snapshot(folder: Path) -> tuple[int, Optional[Path]]:
    """Iteration and solverstate of the newest snapshot whose caffemodel is there too; (0, None) without one."""
    best: tuple[int, Optional[Path]] = (0, None)
    for path in folder.glob("snapshot_iter_*.solverstate"):
        match = _SNAPSHOT.search(path.name)
        if match and path.with_suffix(".caffemodel").is_file() and int(match.group(1)) > best[0]:
            best = int(match.group(1)), path
    return best


def finetune(
    solver: Path,
    weights: Optional[Path],
    out: Path,
    model: Optional[Path] = None,
    train_lmdb: Optional[Path] = None,
    test_lmdb: Optional[Path] = None,
    overrides: Optional[dict[str, Any]] = None,
    gpu: str = "",
    force: bool = False,
    progress: Progress = lambda iteration, iterations, loss: None,
) -> Finetuned:
    """Train a network with stock Caffe from given weights (without: from the solver's random initialisation).

    Parameters
    ----------
    solver : Path
        Its schedule is used; its ``net`` too, unless ``model`` names another.
    out : Path
        Folder for the solver that ran, snapshots, log and ``finetuned.caffemodel``; a run that was interrupted there
        goes on from its newest snapshot.
    overrides : mapping of solver field to value, optional

    Raises
    ------
    CaffeError
        With Caffe's own last line, or where the loss became NaN.
    """
    original = read_solver(Path(solver))
    path = Path(model) if model is not None else _net_of(original, Path(solver))
    net = read_net(path)
    out = Path(out).absolute()
    result = out / RESULT
    if result.exists() and not force:
        raise OutputError(f"{result}: exists already; --force trains again, or name another --out")
    shape = _lmdb_shape(train_lmdb)
    network = describe(net, image_shape(net, shape, None), str(path))
    if weights is not None:
        CaffeModel(Path(weights)).check(network, missing_ok=True)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OutputError(f"{out}: cannot be created ({exc.strerror})") from None
    if force:
        for old in [*out.glob("snapshot_iter_*"), result]:
            old.unlink(missing_ok=True)
    text = to_text(train_val_net(net, network, train_lmdb, test_lmdb))
    _check_same_run(out, text, weights)
    with atomic_file(out / "train_val.prototxt") as handle:
        handle.write(text.encode())
    test_iter = int(original.test_iter[0]) if original.test_iter else 1
    parameters = solver_param(original, str(out / "train_val.prototxt"), str(out / "snapshot"), test_iter, overrides)
    with atomic_file(out / "solver.prototxt") as handle:
        handle.write(to_text(parameters).encode())
    done, state = latest_snapshot(out)
    arguments = ["train", "-solver", str(out / "solver.prototxt")]
    if state is not None:
        arguments += ["-snapshot", str(state)]
    elif weights is not None:
        arguments += ["-weights", str(Path(weights).absolute())]
    if gpu:
        arguments += ["-gpu", gpu]

    def on_line(line: str) -> None:
        for point in parse_training(line):
            if point.loss is not None:
                if not math.isfinite(point.loss):
                    raise CaffeError(
                        f"the training loss became {point.loss} at iteration {point.iteration}; lower base_lr "
                        f"({parameters.base_lr:g} now; --base_lr) and start again with --force"
                    )
                progress(point.iteration, parameters.max_iter, point.loss)

    log = out / "caffe_train.log"
    last = out / f"snapshot_iter_{parameters.max_iter}.caffemodel"
    if not last.is_file():
        run_caffe(arguments, log, on_line)
    progress(parameters.max_iter, parameters.max_iter, None)
    if not last.is_file():
        raise CaffeError(f"caffe train ended without {last.name} (log: {log})")
    partial = result.with_suffix(".part")
    shutil.copyfile(last, partial)
    partial.replace(result)
    points = parse_training(log.read_text(errors="replace")) if log.exists() else []
    losses = [p.loss for p in points if p.loss is not None]
    tests = [p.test for p in points if p.test]
    return Finetuned(result, parameters.max_iter, losses[-1] if losses else None, tests[-1] if tests else {}, done)


def _check_same_run(out: Path, net: str, weights: Optional[Path]) -> None:
    """Refuse to go on from snapshots of another network or other weights; the schedule may have changed."""
    this = {"format": "enc-caffe-finetune/1", "net": hashlib.sha256(net.encode()).hexdigest(), "weights": None}
    if weights is not None:
        digest = hashlib.sha256()
        with open(weights, "rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
        this["weights"] = digest.hexdigest()
    record = out / "finetune.json"
    if record.is_file() and latest_snapshot(out)[1] is not None:
        before = read_json(record, "enc-caffe-finetune/1", OutputError)
        for what in ("net", "weights"):
            if before.get(what) != this[what]:
                raise OutputError(
                    f"{out}: holds snapshots of another run (its {what} differ); --force starts anew, or name another --out"
                )
    write_json(record, this)


def _net_of(solver: Any, path: Path) -> Path:
    if not solver.net:
        raise UsageError(f"{path}: names no net; give --model")
    for place in (Path(solver.net), path.parent / solver.net):
        if place.is_file():
            return place
    raise UsageError(f"{path}: its net {solver.net} does not exist; give --model")


def _lmdb_shape(path: Optional[Path]) -> Any:
    if path is None:
        return None
    from enc_caffe.caffe_io.datum import ImageLmdb

    images = ImageLmdb(Path(path))
    try:
        return images.first_shape()
    finally:
        images.close()
