"""One ``caffe train`` from the newest snapshot to its end, and which of its snapshots is best."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.prototxt import to_text
from enc_caffe.caffe_io.variants import solver_param
from enc_caffe.caffe_io.wire import fields
from enc_caffe.caffe_tools.programs import TrainingPoint, parse_training, run_caffe, test_output
from enc_caffe.caffe_tools.selection import Criterion, best
from enc_caffe.errors import CaffeError, OutputError, WeightsError
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.files.output import atomic_file

#: Field of SolverState in ``caffe.proto``.
_CURRENT_STEP = 4
#: Log of ``caffe train`` in the folder of a training.
LOG = "caffe_train.log"
_SNAPSHOT = re.compile(r"snapshot_iter_(\d+)\.solverstate$")
#: Caffe's softmax loss takes no probability below FLT_MIN: a network that diverged stays at -log of it.
SATURATED = 87.3365


@dataclass(frozen=True)
class Step:
    """Where a training is: iterations done and in all, its last loss, and the last outputs of its test net.

    Before it begins images may be made: ``what`` says of what else so many are done.
    """

    iteration: int
    iterations: int
    loss: Optional[float] = None
    test: Mapping[str, float] = field(default_factory=dict)
    what: str = ""

    def words(self) -> str:
        """Loss and test outputs in short."""
        if self.what:
            return self.what
        parts = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        return ", ".join(parts + [f"test {k} {v:.4f}" for k, v in self.test.items()])


@dataclass(frozen=True)
class Files:
    """What a training writes beside its snapshots.

    Attributes
    ----------
    train, name : str
        The network that trains, and its file's name.
    test, deploy : str
        What is tested in the end, and the deploy file.
    distills : bool
        Whether the network that trains has a teacher.
    by : Criterion, optional
        What chooses a snapshot, by ``held_out`` images in so many ``batches``.
    """

    train: str
    name: str
    test: str
    deploy: str
    distills: bool = False
    by: Optional[Criterion] = None
    held_out: int = 0
    batches: int = 1


def is_whole(state: Path) -> bool:
    """Whether a snapshot's solverstate and caffemodel were written to their ends: Caffe writes them in place, and may be killed.

    ``current_step`` is the last field of a SolverState, and Caffe always sets it; the caffemodel is written first.
    """
    try:
        data = state.read_bytes()
        numbers = {number for number, *_ in fields(data, 0, len(data))}
        CaffeModel(state.with_suffix(".caffemodel"))
    except (OSError, WeightsError):
        return False
    return _CURRENT_STEP in numbers


def latest_snapshot(
    folder: Path, every: int = 1, accept: Callable[[Path], bool] = lambda state: True
) -> tuple[int, Optional[Path]]:
    """Iteration (a multiple of ``every``) and solverstate of the newest snapshot that has both files and is accepted;
    (0, None) without one."""
    best: tuple[int, Optional[Path]] = (0, None)
    for path in folder.glob("snapshot_iter_*.solverstate"):
        match = _SNAPSHOT.search(path.name)
        if match is None or not path.with_suffix(".caffemodel").is_file():
            continue
        iteration = int(match.group(1))
        if iteration > best[0] and iteration % every == 0 and accept(path):
            best = iteration, path
    return best


@dataclass(frozen=True)
class Run:
    """What a training left: its parameters, its last weights, where it began, and test outputs of its best and last snapshots."""

    parameters: Any
    last: Path
    resumed_from: int
    best: tuple[int, dict[str, float]]
    end: dict[str, float]


def run_training(
    out: Path, original: Any, files: Files, weights: Optional[Path], overrides: Optional[dict[str, Any]], gpu: str,
    repeatable: bool, progress: Callable[[Step], None],
) -> Run:  # fmt: skip
    """Train to the end, from the newest snapshot there is."""
    check_same_run(out, files.train, weights)
    with atomic_file(out / files.name) as handle:
        handle.write(files.train.encode())
    test_iter = int(original.test_iter[0]) if original.test_iter else 1
    parameters = solver_param(original, str(out / files.name), str(out / "snapshot"), test_iter, overrides)
    if files.by is not None:
        _test_at_snapshots(parameters, files)
    with atomic_file(out / "solver.prototxt") as handle:
        handle.write(to_text(parameters).encode())
    # poly's rate ends at max_iter: a caffe train that stops before needs another one.
    apart = repeatable and parameters.snapshot and parameters.lr_policy != "poly"
    every = int(parameters.snapshot) if apart else 1
    done = latest_snapshot(out, every, is_whole)[0]
    last, log = out / f"snapshot_iter_{parameters.max_iter}.caffemodel", out / LOG
    seen = Step(done, parameters.max_iter)

    def on_line(line: str) -> None:
        nonlocal seen
        for point in parse_training(line):
            if point.loss is not None:
                _refuse_divergence(point.loss, point.iteration, parameters.base_lr)
                seen = replace(seen, iteration=point.iteration, loss=point.loss)
                progress(seen)
        if (output := test_output(line)) is not None:
            seen = replace(seen, test={**seen.test, output[0]: output[1]})
            progress(seen)

    stops = range(done + every, parameters.max_iter, every) if every > 1 else ()
    for stop in (*stops, parameters.max_iter):
        if is_whole(last.with_suffix(".solverstate")):
            break
        part = caffe_solver(out, parameters, stop)
        arguments = ["train", "-solver", str(part)]
        state = latest_snapshot(out, every, is_whole)[1]
        if state is not None:
            arguments += ["-snapshot", str(state)]
        elif weights is not None:
            arguments += ["-weights", str(Path(weights).absolute())]
        run_caffe(arguments + (["-gpu", gpu] if gpu else []), log, on_line)
    if not last.is_file():
        raise CaffeError(f"caffe train ended without {last.name} (log: {log})")
    progress(replace(seen, iteration=parameters.max_iter))
    points = parse_training(log.read_text(errors="replace")) if log.exists() else []
    ends = {p.iteration: p.test for p in points if p.test}
    chosen = _best(out, points, files, weights, int(parameters.max_iter))
    return Run(parameters, last, done, chosen, ends.get(int(parameters.max_iter), {}))


def _test_at_snapshots(parameters: Any, files: Files) -> None:
    """Have the held-out images looked at before the first iteration and at every snapshot."""
    every = int(parameters.snapshot) or int(parameters.test_interval) or int(parameters.max_iter)
    every = min(every, int(parameters.max_iter))
    # The last iteration is one of them.
    parameters.max_iter = max(every, int(parameters.max_iter) // every * every)
    parameters.snapshot = parameters.test_interval = every
    parameters.test_initialization = True
    parameters.test_iter[:] = [files.batches] * max(1, len(parameters.test_state))


def _best(
    out: Path, points: list[TrainingPoint], files: Files, weights: Optional[Path], last: int
) -> tuple[int, dict[str, float]]:  # fmt: skip
    """Iteration of the best snapshot by held-out images and its outputs; without such images the last one."""
    if files.by is None:
        return last, {}

    def known(iteration: int) -> bool:
        return weights is not None if iteration == 0 else (out / f"snapshot_iter_{iteration}.caffemodel").is_file()

    found = best(points, files.by, known)
    if found is None:
        raise CaffeError(f"no snapshot has test outputs that are numbers (log: {out / LOG})")
    return found


def caffe_solver(out: Path, parameters: Any, stop: int) -> Path:
    """The solver in the folder, or beside it one that ends at ``stop``."""
    if stop == parameters.max_iter:
        return out / "solver.prototxt"
    part = type(parameters)()
    part.CopyFrom(parameters)
    part.max_iter = stop
    path = out / "solver_part.prototxt"
    with atomic_file(path) as handle:
        handle.write(to_text(part).encode())
    return path


def _refuse_divergence(loss: float, iteration: int, base_lr: float) -> None:
    if math.isfinite(loss) and abs(loss - SATURATED) > 1e-3:
        return
    what = "is what Caffe gives where no class has any probability" if math.isfinite(loss) else "is no number"
    raise CaffeError(
        f"the training diverged: the training loss became {loss:g} at iteration {iteration}, which {what}; lower base_lr "
        f"({base_lr:g} now; --base_lr) and start again with --force"
    )


def digests(net: str, weights: Optional[Path]) -> dict[str, Optional[str]]:
    """What a training begins with, by content."""
    if weights is None:
        return {"net": hashlib.sha256(net.encode()).hexdigest(), "weights": None}
    digest = hashlib.sha256()
    with open(weights, "rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return {"net": hashlib.sha256(net.encode()).hexdigest(), "weights": digest.hexdigest()}


def check_same_run(out: Path, net: str, weights: Optional[Path]) -> None:
    """Refuse to go on from snapshots of another network or other weights; the schedule may have changed."""
    this = {"format": "enc-caffe-finetune/1", **digests(net, weights)}
    record = out / "finetune.json"
    if record.is_file() and latest_snapshot(out)[1] is not None:
        before = read_json(record, "enc-caffe-finetune/1", OutputError)
        for what in ("net", "weights"):
            if before.get(what) != this[what]:
                raise OutputError(
                    f"{out}: holds snapshots of another run (its {what} differ); --force starts anew, or name another --out"
                )
    write_json(record, this)
