"""Fine-tuning by stock ``caffe train``: progress, snapshots, going on where an interrupted run was, and a last ``caffe test``."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers, set_state
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.prototxt import leading_comments, read_net, read_solver, to_text, verbatim_text
from enc_caffe.caffe_io.variants import deploy_net, sized_network, solver_param, train_val_net
from enc_caffe.caffe_io.wire import fields
from enc_caffe.caffe_tools.programs import caffe_test, parse_training, run_caffe, test_output
from enc_caffe.errors import CaffeError, OutputError, PrototxtError, UsageError, WeightsError
from enc_caffe.files.jsonfile import read_json, write_json
from enc_caffe.files.output import atomic_file, claimed, sweep_folder
from enc_caffe.shapes import Shape
from enc_caffe.workers.limits import check_runs

#: Field of SolverState in ``caffe.proto``.
_CURRENT_STEP = 4
_SNAPSHOT = re.compile(r"snapshot_iter_(\d+)\.solverstate$")
RESULT = "finetuned.caffemodel"
#: Caffe's softmax loss takes no probability below FLT_MIN: a network that diverged stays at -log of it.
SATURATED = 87.3365


@dataclass(frozen=True)
class Step:
    """Where a training is: iterations done and in all, its last loss, and the last outputs of its test net."""

    iteration: int
    iterations: int
    loss: Optional[float] = None
    test: Mapping[str, float] = field(default_factory=dict)

    def words(self) -> str:
        """Loss and test outputs in short."""
        parts = [] if self.loss is None else [f"loss {self.loss:.4g}"]
        return ", ".join(parts + [f"test {k} {v:.4f}" for k, v in self.test.items()])


@dataclass(frozen=True)
class Finetuned:
    """The fine-tuned caffemodel, the last training loss, what it was tested on, and the iteration it resumed from.

    ``test`` are the outputs of stock ``caffe test`` on ``images`` images, each counted once where ``exactly``; empty where
    the network has no test images.
    """

    weights: Path
    iterations: int
    loss: Optional[float]
    test: dict[str, float]
    resumed_from: int
    images: int = 0
    exactly: bool = True


def _check_writes(net: Any, path: Path) -> None:
    """A training writes into its folder alone."""
    for layer in net.layer:
        if layer.type == "HDF5Output":
            raise PrototxtError(
                f"{path}: layer '{layer.name}' (HDF5Output) would write to '{layer.hdf5_output_param.file_name}'; "
                "remove it, a training writes into its own folder alone"
            )


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
    repeatable: bool = False,
    progress: Callable[[Step], None] = lambda step: None,
    python_layers: bool = False,
    input_shapes: Optional[Mapping[str, Shape]] = None,
) -> Finetuned:
    """Train a network with stock Caffe from given weights (without: from the solver's random initialisation).

    Parameters
    ----------
    solver : Path
        Its schedule is used; its ``net`` too, unless ``model`` names another.
    out : Path
        Folder for the solver that ran, snapshots, log, ``finetuned.caffemodel`` and its ``deploy.prototxt``; a run that was interrupted there
        goes on from its newest snapshot.
    overrides : mapping of solver field to value, optional
    repeatable : bool
        One ``caffe train`` from snapshot to snapshot, each beginning at the first training image: an interrupted run
        then ends with the same weights as one that was not (a resumed Caffe does not know which images it had seen).
    python_layers : bool
        Whether the prototxt may have them (:func:`enc_caffe.caffe_io.prototxt.read_net`).
    input_shapes : mapping of top to full shape, optional
        Of data layers whose tops no image size describes.

    Raises
    ------
    CaffeError
        With Caffe's own last line, or where the training diverged.
    """
    original = read_solver(Path(solver))
    path = Path(model) if model is not None else _net_of(original, Path(solver))
    net = read_net(path, python_layers)
    _check_writes(net, path)
    out = Path(out).absolute()
    result = out / RESULT
    if result.exists() and not force:
        raise OutputError(f"{result}: exists already; --force trains again, or name another --out")
    shape = _lmdb_shape(train_lmdb)
    staged = type(net)()
    staged.CopyFrom(net)
    for state in original.test_state[:1]:
        # Of several test nets the first; its states are the solver's, the network keeps its own.
        set_state(staged, state.level, state.stage)
    network = sized_network(staged, str(path), shape, None, input_shapes)
    check_runs(network, str(path), training=True)
    if weights is not None:
        CaffeModel(Path(weights)).check(network, missing_ok=True)
    text = to_text(train_val_net(net, network, train_lmdb, test_lmdb))
    # Trained weights are in the caffemodel, whatever filled them first.
    deploy = verbatim_text(for_inference(deploy_net(staged, network)), leading_comments(path))
    with claimed(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
            sweep_folder(out)
            if force:
                for old in [*out.glob("snapshot_iter_*"), result]:
                    old.unlink(missing_ok=True)
            return _trained(out, original, (text, deploy), weights, overrides, gpu, repeatable, progress)
        except OSError as exc:
            raise OutputError(f"{out}: cannot be written ({exc.strerror})") from None


def _trained(
    out: Path, original: Any, texts: tuple[str, str], weights: Optional[Path], overrides: Optional[dict[str, Any]], gpu: str,
    repeatable: bool, progress: Callable[[Step], None],
) -> Finetuned:  # fmt: skip
    result, (text, deploy) = out / RESULT, texts
    _check_same_run(out, text, weights)
    with atomic_file(out / "train_val.prototxt") as handle:
        handle.write(text.encode())
    test_iter = int(original.test_iter[0]) if original.test_iter else 1
    parameters = solver_param(original, str(out / "train_val.prototxt"), str(out / "snapshot"), test_iter, overrides)
    with atomic_file(out / "solver.prototxt") as handle:
        handle.write(to_text(parameters).encode())
    every = int(parameters.snapshot) if repeatable and parameters.snapshot else 1
    done = latest_snapshot(out, every, is_whole)[0]
    last, log = out / f"snapshot_iter_{parameters.max_iter}.caffemodel", out / "caffe_train.log"
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
    test, images, exactly = tested(out, last, gpu)
    with atomic_file(out / "deploy.prototxt") as handle:
        handle.write(deploy.encode(errors="surrogateescape"))
    partial = result.with_suffix(".part")
    shutil.copyfile(last, partial)
    partial.replace(result)
    points = parse_training(log.read_text(errors="replace")) if log.exists() else []
    losses = [p.loss for p in points if p.loss is not None]
    return Finetuned(result, parameters.max_iter, losses[-1] if losses else None, test, done, images, exactly)


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


def covering(images: int, batch: int) -> tuple[int, int]:
    """Batch size and number of batches that meet every image once, near the given batch size; else a few are met twice."""
    near = [b for b in range(max(1, batch // 4), 4 * batch + 1) if images % b == 0]
    size = min(near, key=lambda b: abs(b - batch), default=batch)
    return size, -(-images // size)


def tested(out: Path, weights: Path, gpu: str = "") -> tuple[dict[str, float], int, bool]:
    """Stock ``caffe test`` of weights on the TEST images of ``out/train_val.prototxt``: outputs, images, each met once."""
    net = read_net(out / "train_val.prototxt", python_layers=True)
    layers = [layer for layer in data_layers(net) if layer.type == "Data"]
    if not layers:
        return {}, 0, True
    images = ImageLmdb(Path(layers[0].data_param.source))
    number = len(images)
    images.close()
    size = batch_size(layers[0])
    batches = math.ceil(number / size)
    if {(x.type, batch_size(x)) for x in data_layers(net)} == {("Data", size)}:
        # Layers that bring what belongs together need one batch size.
        size, batches = covering(number, size)
        for layer in layers:
            layer.data_param.batch_size = size
    with atomic_file(out / "test.prototxt") as handle:
        handle.write(to_text(net).encode())
    outputs = caffe_test(out / "test.prototxt", weights, batches, out / "caffe_test.log", gpu)
    return outputs, number, batches * size == number


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
    images = ImageLmdb(Path(path))
    try:
        return images.first_shape()
    finally:
        images.close()
