"""Fine-tuning by stock ``caffe train``: progress, snapshots, going on where an interrupted run was, and a last ``caffe test``."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping, Optional

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import batch_size, data_layers
from enc_caffe.caffe_io.distill import has_teacher, write_student
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.inputs import size_images
from enc_caffe.caffe_io.lacking import untrained_notice
from enc_caffe.caffe_io.prototxt import read_commented, read_solver, to_text, verbatim_text
from enc_caffe.caffe_io.sizing import sized_network
from enc_caffe.caffe_io.states import by_phase, staged
from enc_caffe.caffe_io.variants import deploy_net, solver_param, train_val_net, train_val_or_same, unread
from enc_caffe.caffe_tools.holding import check_beside, check_held_out, held_out, hold_beside
from enc_caffe.caffe_tools.labels import check_images
from enc_caffe.caffe_tools.mixing import Mixtures, check_mixable, put_mixtures
from enc_caffe.caffe_tools.programs import caffe_test, parse_training
from enc_caffe.caffe_tools.schedule import in_short
from enc_caffe.caffe_tools.selection import RATES, SHORT, SWEPT, Selection, criterion, forget_others, sweep
from enc_caffe.caffe_tools.training import LOG, Files, Step, check_same_run, digests, run_training
from enc_caffe.errors import CaffeError, NetworkError, OutputError, PrototxtError, UnknownSizeError, UsageError
from enc_caffe.files.output import atomic_file, claimed, sweep_folder
from enc_caffe.network import Network
from enc_caffe.shapes import Shape
from enc_caffe.workers.limits import check_device, check_runs

RESULT = "finetuned.caffemodel"
#: What is beside it: the network that trains where it is not the one that is tested, and short trainings.
TRAINED, RATES_FOLDER = "training.prototxt", "rates"


@dataclass(frozen=True)
class Finetuned:
    """The fine-tuned caffemodel, the last training loss, what it was tested on, and the iteration it resumed from.

    ``test`` are the outputs of stock ``caffe test`` on ``images`` images, each counted once where ``exactly``; empty where
    the network has no test images. Where held-out images chose, ``chosen`` says what and by which outputs.
    """

    weights: Path
    iterations: int
    loss: Optional[float]
    test: dict[str, float]
    resumed_from: int
    images: int = 0
    exactly: bool = True
    chosen: str = ""


def _check_writes(net: Any, path: Path) -> None:
    """A training writes into its folder alone."""
    for layer in net.layer:
        if layer.type == "HDF5Output":
            raise PrototxtError(
                f"{path}: layer '{layer.name}' (HDF5Output) would write to '{layer.hdf5_output_param.file_name}'; "
                "remove it, a training writes into its own folder alone"
            )


def _check_reads(net: Any, path: Path) -> None:
    """The program ``caffe`` gives a MemoryData layer nothing: it stops at the first pass."""
    for layer in net.layer:
        if layer.type == "MemoryData":
            raise PrototxtError(
                f"{path}: layer '{layer.name}' (MemoryData) gets its images from a program of yours, and caffe train gives it none; "
                "put Data layers of LMDBs in its place (enc-caffe data arrays makes an LMDB of arrays), or train by that program"
            )


def _check_sources(net: Any, path: Path, given: Mapping[str, Optional[Path]]) -> None:
    """Raise UsageError for an LMDB, by phase, whose place is that of a layer that reads none."""
    for phase, first in unread(net, given).items():
        flag = f"--{phase.lower()}_lmdb"
        raise UsageError(
            f"{flag} {given[phase]}: layer '{first.name}' ({first.type}) of {path} brings the images of the {phase} phase, and reads no LMDB; leave "
            f"{flag} out, or put a Data layer there"
        )


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
    selection: Optional[Selection] = None,
    notice: Callable[[str], None] = lambda line: None,
    test: bool = True,
    mixtures: int = 0,
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
        then ends with the same weights as one that was not (a resumed Caffe does not know which images it had seen). Not where
        ``lr_policy`` is ``poly``, whose rate is known only to a ``caffe train`` that goes on to the end.
    python_layers : bool
        Whether the prototxt may have them (:func:`enc_caffe.caffe_io.prototxt.read_net`).
    input_shapes : mapping of top to full shape, optional
        Of data layers whose tops no image size describes.
    selection : Selection, optional
        Held-out images that choose a snapshot, the start among them, and perhaps the learning rate.
    notice : callable of a line that a person should read
        Hears of layers that begin with their fillers' values.
    test : bool
        Whether ``caffe test`` runs in the end.
    mixtures : int
        Train on so many mixtures of the images that are left after some were held out (:mod:`enc_caffe.caffe_io.mixtures`), where the
        network distils without labels; 0 trains on the images as they are.

    Where the network is one that distils (:mod:`enc_caffe.caffe_io.distill`), the student is taken out in the end: the results are
    those of the ``train_val.prototxt`` beside it.

    Raises
    ------
    CaffeError
        With Caffe's own last line, or where the training diverged.
    """
    _check_schedule(overrides or {})
    if gpu and not re.fullmatch(r"all|\d+(,\d+)*", gpu):
        raise UsageError(f"--gpu {gpu}: all, or numbers of devices such as 0,1 are needed")
    original = read_solver(Path(solver))
    path = Path(model) if model is not None else _net_of(original, Path(solver))
    net, comments = read_commented(path, python_layers)
    given = original
    net, original = by_phase(net, given) or (net, given)
    # As everywhere, --gpu says where it computes.
    if original.HasField("solver_mode") and not gpu:
        if original.solver_mode == original.GPU:
            notice(f"{solver}: solver_mode is GPU, but --gpu was not given: training runs on the CPU")
        original.solver_mode = original.CPU
    _check_writes(net, path)
    _check_reads(net, path)
    _check_sources(_staged(net, original), path, {"TRAIN": train_lmdb, "TEST": test_lmdb})
    if mixtures:
        check_mixable(_staged(net, original), path, mixtures)
    out = Path(out).absolute()
    result = out / RESULT
    if result.exists() and not force:
        raise OutputError(f"{result}: exists already; --force trains again, or name another --out")
    shape = _lmdb_shape(train_lmdb)
    size_images(net, str(path), None, shape, input_shapes or {})
    network = _sized(_staged(net, original), path, shape, input_shapes)
    check_runs(network, str(path), training=True)
    check_device(_staged(net, original), str(path), "gpu" if gpu else "cpu", ("TRAIN", "TEST"))
    if weights is not None:
        start = CaffeModel(Path(weights))
        start.check(network, missing_ok=True)
        for line in untrained_notice(_staged(net, original), str(path), start, ("TRAIN", "TEST")):
            notice(line)
    own_path, own = path, net
    if has_teacher(net):
        own_path, (own, comments) = _student_of(path, python_layers)
        own, _ = by_phase(own, given) or (own, given)
    own_network = network if own is net else _sized(_staged(own, original), own_path, shape, input_shapes)
    # Trained weights are in the caffemodel, whatever filled them first.
    try:
        trained = train_val_net(net, network, train_lmdb, test_lmdb)
    except NetworkError as exc:
        # Images that are distilled by are those of one input.
        several = sum(len(x.top) for x in net.layer if x.type == "Input") > 1
        distilled = ", or train it by the original's outputs: compress --distill, then finetune --distill"
        raise NetworkError(
            f"{path}: has no data layer, and no loss can be added: {exc}",
            f"give a train_val.prototxt with {'data layers and ' if several else ''}a loss as --model{'' if several else distilled}",
        ) from None
    check_images(_staged(trained, original), network, str(path))
    deploy = verbatim_text(for_inference(deploy_net(_staged(own, original), own_network)), comments)
    # A student may have no loss of its own; then its outputs are tested by those of the original alone.
    tests_by = to_text(train_val_or_same(own, own_network, train_lmdb, test_lmdb)[0])
    with claimed(out):
        try:
            out.mkdir(parents=True, exist_ok=True)
            sweep_folder(out)
            if force:
                for old in [*out.glob("snapshot_iter_*"), result, out / LOG]:
                    old.unlink(missing_ok=True)
                shutil.rmtree(out / RATES_FOLDER, ignore_errors=True)
            train, by, held, batches = train_val_net(net, network, train_lmdb, test_lmdb), None, 0, 1
            if selection is not None:
                check_held_out(net, str(path))
                check_beside(train, selection.lmdb is None)
                by = criterion(_staged(net, original), str(path))
                trained_on, held_lmdb, held = held_out(train, selection, out)
                train = train_val_net(net, network, trained_on or train_lmdb, held_lmdb)
                hold_beside(train, out)
                tests = data_layers(train, "TEST")
                if not tests:
                    raise UsageError(f"{path}: the TEST phase has no data layer that could bring held-out images")
                size, batches = covering(held, batch_size(tests[0]))
                for layer in tests:
                    if layer.type == "Data":
                        layer.data_param.batch_size = size
            mixed: Optional[Mixtures] = put_mixtures(train, mixtures, out) if mixtures else None
            name = "train_val.prototxt" if own is net and by is None else TRAINED
            files = Files(to_text(train), name, tests_by, deploy, own is not net, by, held, batches)
            if mixed is not None:
                check_same_run(out, files.train, weights)
                mixed.make(lambda done, all_: progress(Step(done, all_, what="mixtures of images")))
            if selection is not None and selection.sweep:
                overrides = {
                    **(overrides or {}),
                    "base_lr": _swept(out, original, files, weights, overrides, gpu, progress),
                }
            made = _trained(out, original, files, weights, overrides, gpu, repeatable, progress, test)
            if mixed is not None:
                mixed.remove()
            return made
        except OSError as exc:
            raise OutputError(f"{out}: cannot be written ({exc.strerror})") from None


def _check_schedule(overrides: Mapping[str, Any]) -> None:
    """Raise UsageError for numbers that Caffe would abort on, or train backwards by."""
    for name, least in (("max_iter", 1), ("snapshot", 0)):
        if overrides.get(name, least) < least:
            raise UsageError(f"--{name} {overrides[name]}: {least} or more is needed")
    rate = overrides.get("base_lr", 1.0)
    if not 0 < rate < math.inf:
        raise UsageError(f"--base_lr {rate:g}: a number above 0 is needed")


def _staged(net: Any, solver: Any) -> Any:
    """A copy of the network with the states of the first of the solver's test nets."""
    return staged(net, next(iter(solver.test_state), None))


def _sized(net: Any, path: Path, shape: Optional[Shape], given: Optional[Mapping[str, Shape]]) -> Network:
    """The network's description; where nothing says how large images are, the flags that a training has."""
    try:
        return sized_network(net, str(path), shape, None, given)
    except UnknownSizeError as exc:
        remedy = "--train_lmdb and --test_lmdb, or --top_shape TOP=N,... for each of its tops"
        raise UnknownSizeError(exc.why, remedy) from None


def _student_of(path: Path, python_layers: bool) -> tuple[Path, tuple[Any, str]]:
    """The path of the student alone; its network and comments."""
    own = path.parent / "train_val.prototxt"
    if not own.is_file():
        raise UsageError(
            f"{path}: trains a student beside its teacher, and {own}, which says what the student is, does not exist"
        )
    return own, read_commented(own, python_layers)


def _swept(
    out: Path, original: Any, files: Files, weights: Optional[Path], overrides: Optional[dict[str, Any]], gpu: str,
    progress: Callable[[Step], None],
) -> float:  # fmt: skip
    """The learning rate whose short training ends best on the held-out images."""
    assert files.by is not None
    schedule = solver_param(original, "", "", 1, overrides)
    steps = max(1, min(int(schedule.max_iter), max(SHORT, int(schedule.max_iter) // SWEPT)))
    by, at = files.by, 0

    def value(rate: float) -> tuple[float, ...]:
        folder = out / RATES_FOLDER / f"{rate:g}-{steps}"
        folder.mkdir(parents=True, exist_ok=True)
        own = {**(overrides or {}), "base_lr": rate, **in_short(schedule, steps)}

        def show(step: Step) -> None:
            progress(Step(at * steps + step.iteration, RATES * steps, step.loss, {**step.test, "base_lr": rate}))

        try:
            return by.key(run_training(folder, original, files, weights, own, gpu, False, show).end)
        except CaffeError as exc:
            if "diverged" not in str(exc):
                raise
            return by.key({})

    def done(tried: int, all_: int) -> None:
        nonlocal at
        at = tried

    about = {
        **digests(files.train, weights),
        "iterations": steps,
        "solver": to_text(schedule),
        "rates": "as in the whole",
    }
    record = out / RATES_FOLDER / "rates.json"
    forget_others(out / RATES_FOLDER, record, about)
    return sweep(float(schedule.base_lr), value, record, done, about)[0]


def _trained(
    out: Path, original: Any, files: Files, weights: Optional[Path], overrides: Optional[dict[str, Any]], gpu: str,
    repeatable: bool, progress: Callable[[Step], None], test: bool,
) -> Finetuned:  # fmt: skip
    result = out / RESULT
    run = run_training(out, original, files, weights, overrides, gpu, repeatable, progress)
    iteration, held = run.best
    chosen = out / f"snapshot_iter_{iteration}.caffemodel" if iteration else weights
    assert chosen is not None
    partial = result.with_suffix(".part")
    if files.distills:
        write_student(partial, chosen)
    else:
        shutil.copyfile(chosen, partial)
    with atomic_file(out / "train_val.prototxt") as handle:
        handle.write(files.test.encode())
    outputs, images, exactly = tested(out, partial, gpu) if test else ({}, 0, True)
    with atomic_file(out / "deploy.prototxt") as handle:
        handle.write(files.deploy.encode(errors="surrogateescape"))
    partial.replace(result)
    log = out / LOG
    points = parse_training(log.read_text(errors="replace")) if log.exists() else []
    losses = [p.loss for p in points if p.loss is not None]
    words = ""
    if files.by is not None:
        which = f"the snapshot of iteration {iteration}" if iteration else "the start: no snapshot is better"
        words = (
            f"{which}, base_lr {run.parameters.base_lr:g}; on {files.held_out} held-out images {files.by.words(held)}"
        )
    return Finetuned(
        result,
        run.parameters.max_iter,
        losses[-1] if losses else None,
        outputs,
        run.resumed_from,
        images,
        exactly,
        words,
    )


def covering(images: int, batch: int) -> tuple[int, int]:
    """Batch size and number of batches that meet every image once, near the given batch size; else a few are met twice."""
    near = [b for b in range(max(1, batch // 4), 4 * batch + 1) if images % b == 0]
    size = min(near, key=lambda b: abs(b - batch), default=batch)
    return size, -(-images // size)


def tested(out: Path, weights: Path, gpu: str = "") -> tuple[dict[str, float], int, bool]:
    """Stock ``caffe test`` of weights on the TEST images of ``out/train_val.prototxt``: outputs, images, each met once."""
    net, _ = read_commented(out / "train_val.prototxt", python_layers=True)
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
