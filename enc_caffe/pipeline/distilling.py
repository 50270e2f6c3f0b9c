"""What an emission adds so that stock ``caffe train`` can distil: prototxt, solver and caffemodel of both networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping, Optional

from enc_caffe.caffe_io.blobs import needed_blobs
from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.describe import data_layers
from enc_caffe.caffe_io.distill import Distillation, distill_net, write_both
from enc_caffe.caffe_io.perimage import most_images, per_image
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.prototxt import to_text, write_prototxt
from enc_caffe.caffe_io.scores import find_scores
from enc_caffe.caffe_io.states import by_phase, put_states
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.caffe_io.variants import (
    add_data,
    check_one_input,
    deploy_net,
    solver_param,
    train_val_net,
    train_val_or_same,
)
from enc_caffe.caffe_tools.loadable import load
from enc_caffe.calibration.segments import segments_of, up_to
from enc_caffe.errors import CaffeError, UsageError
from enc_caffe.form import Form
from enc_caffe.measuring.images import no_images
from enc_caffe.network import Network
from enc_caffe.pipeline.loading import LoadedNetwork

#: What is written, beside the files of the emission.
NET, SOLVER, WEIGHTS = "distill.prototxt", "distill_solver.prototxt", "distill.caffemodel"
#: Schedule of a distillation, where no solver is given: Adam takes the steps of layers of very different gradients alike, and its
#: learning rate falls to 0 in a straight line.
SCHEDULE: dict[str, Any] = {
    "type": "Adam", "momentum": 0.9, "momentum2": 0.999, "delta": 1e-8, "weight_decay": 1e-4, "base_lr": 3e-4, "lr_policy": "poly",
    "power": 1.0, "display": 20, "max_iter": 1000, "snapshot": 100, "test_interval": 100,
}  # fmt: skip


def check_distillable(loaded: LoadedNetwork, how: Distillation) -> Any:
    """Raise what :func:`write_distillation` raises of the original alone: before hours of measurements, not after them.

    Returns
    -------
    NetParameter
        The original beside itself, with the data layers of a training.

    Raises
    ------
    UsageError
        If the network has parts that stock Caffe cannot run, or its data layers serve one phase only; or where labels or blobs are
        asked for that it does not have.
    DatasetError
        If nothing in it can take images.
    NetworkError
        If it has several inputs.
    """
    lacking = next(
        (x for x in loaded.network.layers if x.name in loaded.runnable.missing and x.type not in caffe_types()), None
    )
    if lacking is not None:
        raise UsageError(
            f"{loaded.path}: layer '{lacking.name}': Caffe has no type '{lacking.type}' and cannot train the network by its own outputs "
            "(--distill, --quality max); --caffe_root DIR runs a Caffe that has this type, and --quality best trains nothing"
        )
    check_one_input(loaded.net, loaded.network, str(loaded.path))
    original = per_image(deploy_net(loaded.net, loaded.network), loaded.network)
    if not any(layer.type == "Input" for layer in original.layer):
        raise no_images(loaded.network)
    train_val = without_states(loaded, train_val_or_same(loaded.net, loaded.network, None, None)[0])
    data = _with_data(train_val, original, loaded, how.lmdb, None)
    scores = find_scores(loaded.network, any_output=True)
    # What is asked of both networks is asked of the original beside itself.
    return distill_net(original, original, data, loaded.network, loaded.network, scores, how, {})


def without_states(loaded: LoadedNetwork, train_val: Any, solver: Any = None) -> Any:
    """A train_val as its training sees it, all layers of either phase beside each other and data layers only where these belong.

    Where the stages that were chosen bring only one phase images, it stays as it is: LMDBs take the place of its data layers.
    """
    plain = loaded.without_flags(train_val)
    if solver is None:
        solver = caffe_pb2().SolverParameter()
        if loaded.level or loaded.stages:
            put_states(solver, plain, (loaded.level or 0, tuple(loaded.stages)))
    alone, _ = by_phase(plain, solver) or (train_val, None)
    return alone if data_layers(alone, "TRAIN") and data_layers(alone, "TEST") else train_val


def write_distillation(
    folder: Path,
    final: Path,
    loaded: LoadedNetwork,
    weights: Path,
    compressed: Any,
    described: Network,
    train_val: Any,
    how: Distillation,
    solver: Any,
    given: bool,
    forms: Mapping[str, Form],
    train_lmdb: Optional[Path],
    test_lmdb: Optional[Path],
) -> str:
    """Write :data:`NET`, :data:`SOLVER` and :data:`WEIGHTS` into an emitted folder.

    Parameters
    ----------
    folder, final : Path
        Where the emission is, and what the folder will be called.
    compressed : NetParameter
        The compressed network as it stands, ``described`` its description.
    train_val : NetParameter
        What ``train_val.prototxt`` says.
    solver : SolverParameter
        What ``solver.prototxt`` says; its schedule is taken over where it is ``given`` by the user.
    forms : mapping of layer to Form
        Those of the compressed network.

    Returns
    -------
    str
        Why stock Caffe was not asked to load them; empty where it was.

    Raises
    ------
    UsageError, DatasetError, NetworkError
        As :func:`check_distillable` says.
    WeightsError
        If the caffemodel lacks weights of the network, which is the teacher.
    CaffeError
        With Caffe's own words, where it does not load them.
    """
    check_distillable(loaded, how)
    loaded.check_trained(weights)
    teacher, student = (
        per_image(deploy_net(net, network), network)
        for net, network in ((loaded.net, loaded.network), (compressed, described))
    )
    model, scores = CaffeModel(Path(weights)), find_scores(loaded.network, any_output=True)
    needed = needed_blobs(loaded.net, loaded.network)
    numbers = {s.name: len(needed.get(s.name, s.blobs)) for s in model}
    data = _with_data(train_val, student, loaded, how.lmdb or train_lmdb, test_lmdb)
    between: list[str] = []
    if how.between:
        whole, small = (up_to(net, scores.scores) for net in (teacher, student))
        between = [run.top for run in segments_of(whole, small, loaded.network, forms) if run.top != scores.scores]

    def net(source: Any, own: Distillation) -> Any:
        return distill_net(teacher, student, source, loaded.network, described, scores, own, numbers, between)

    write_prototxt(folder / NET, to_text(net(data, how)))
    kinds = {layer.name: layer.type for layer in loaded.network.layers}
    write_both(folder / WEIGHTS, model, CaffeModel(folder / "compressed.caffemodel"), kinds, needed)
    own = type(solver)()
    if given:
        own.CopyFrom(solver)
    else:
        own.test_state.extend(solver.test_state)
        if solver.HasField("train_state"):
            own.train_state.CopyFrom(solver.train_state)
    parameters = solver_param(
        own, str(final / NET), str(final / "distill_snapshot"), max(solver.test_iter, default=1), None if given else SCHEDULE
    )  # fmt: skip
    (folder / SOLVER).write_text(to_text(parameters), encoding="utf-8")
    return _checked(folder, final, net(student, replace(how, labels=0.0)))


def _with_data(
    train_val: Any, student: Any, loaded: LoadedNetwork, train_lmdb: Optional[Path], test_lmdb: Optional[Path]
) -> Any:
    phases = [phase for phase in ("TRAIN", "TEST") if data_layers(train_val, phase)]
    if len(phases) == 1:
        raise UsageError(
            f"--distill: {loaded.path} has data layers for the phase {phases[0]} only; the other one needs images too"
        )
    if phases:
        return train_val_net(train_val, loaded.network, train_lmdb, None)
    out = type(train_val)(name=train_val.name)
    add_data(
        out,
        [next(top for layer in student.layer if layer.type == "Input" for top in layer.top)],
        {x.name for x in student.layer if x.type != "Input"},
    )
    if most_images(student, find_scores(loaded.network, any_output=True).scores, str(loaded.path)) == 1:
        # It would mix the values of several, or not be loaded at all.
        for layer in out.layer:
            layer.data_param.batch_size = 1
    return loaded.feed.written(train_val_net(out, loaded.network, train_lmdb, test_lmdb))


def _checked(folder: Path, final: Path, net: Any) -> str:
    """Load both networks side by side in stock Caffe, the images by Input layers."""
    path = folder / "distill_check.prototxt"
    path.write_text(to_text(net), encoding="utf-8")
    failure = load(path, folder / WEIGHTS)
    path.unlink()
    if failure is None:
        return ""
    if failure.lack:
        return f"{NET} was not loaded in stock Caffe: {failure.words}"
    raise CaffeError(f"{final / NET}: stock Caffe does not load it: {failure.words}; nothing was written")
