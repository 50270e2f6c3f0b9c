"""A network that stock ``caffe train`` distils by: the original (teacher) and the compressed one (student) side by side.

Both read the same images. The teacher's layers and blobs have :data:`TEACHER` before their names, its learning rates are 0 and
its BatchNorm layers keep their statistics, so that Caffe runs it forward only. The loss is on the outputs, by stock layers:
with class scores s and t of student and teacher the divergence T^2 KL(softmax(t/T) || softmax(s/T)) (Hinton et al., "Distilling the
knowledge in a neural network", 2015, section 2), for every other output its mean squared error; on request on further blobs. No
label is read, unless the student's own loss is asked for too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence

from enc_caffe.caffe_io.as_test import as_in_test, passes
from enc_caffe.caffe_io.caffemodel import CaffeModel, Record, kept_record, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import reads_data
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.scores import Scores
from enc_caffe.errors import UsageError
from enc_caffe.files.output import atomic_file
from enc_caffe.network import Network
from enc_caffe.shapes import Shape, count

#: Before the names of the teacher's layers and blobs, and of those of the loss.
TEACHER, LOSS = "teacher/", "distill/"
#: Before the names of what blobs between runs lose, which trains and does not choose a snapshot.
BETWEEN = f"{LOSS}between/"
#: Name of the loss that a training prints.
OUTPUT = "distill_loss"
#: Added to probabilities before their logarithm is taken: single precision has none below 1e-38.
SHIFT = 1e-8
#: A blob whose squares add up to less than this over all images of a step counts as if they did: it may be all zeros.
LEAST_POWER = 1e-3


@dataclass(frozen=True)
class Distillation:
    """What a student is held to.

    Attributes
    ----------
    temperature : float
        T, what scores are divided by: above 1 the unlikely classes count more.
    blobs : mapping of blob to weight
        Blobs of both networks whose mean squared difference is a part of the loss.
    labels : float
        Weight of the student's own losses; 0 needs no label.
    frozen : bool
        Whether the student's BatchNorm layers keep their statistics too.
    lmdb : Path, optional
        Images to train on, where they are not those of the network's own TRAIN data layer.
    between : bool
        Whether the blobs between runs of decomposed layers are a part of the loss too: each one's squared difference over the square of the
        teacher's, over all images of a step, so that no blob needs a weight.
    """

    temperature: float = 2.0
    blobs: Mapping[str, float] = field(default_factory=dict)
    labels: float = 0.0
    frozen: bool = True
    lmdb: Optional[Path] = None
    between: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature:g}: a number above 0 is needed")
        if not 0 <= self.labels < float("inf"):
            raise UsageError(f"--distill_labels {self.labels:g}: 0 or more is needed")


def distill_net(
    teacher: Any, student: Any, train_val: Any, network: Network, student_network: Network, scores: Scores,
    how: Distillation, blobs: Mapping[str, int], between: Sequence[str] = (),
) -> Any:  # fmt: skip
    """The NetParameter to train by.

    Parameters
    ----------
    teacher, student : NetParameter
        Deploy forms of both networks.
    train_val : NetParameter
        Of the student, with the data layers of both phases and its own losses; where it has no data layers, the images come by the
        student's Input layers.
    network, student_network : Network
        Descriptions of both, for the shapes of blobs.
    scores : Scores
        Where the outputs are; both networks call them the same.
    blobs : mapping of the teacher's layers to how many weights blobs they have
    between : sequence of blobs
        Those that :attr:`Distillation.between` stands for.

    Raises
    ------
    UsageError
        If a blob that is to be matched is not in both networks, or not of one size; or where labels are asked for and there
        is no loss that reads them.
    """
    out = caffe_pb2().NetParameter(name=f"{network.name}: distillation")
    if train_val.HasField("state"):
        # Data layers may be of one stage alone.
        out.state.CopyFrom(train_val.state)
    _add_data(out, train_val, student, how.labels > 0)
    inputs = [top for layer in student.layer if layer.type == "Input" for top in layer.top]
    ends = _ends(teacher, scores, network)
    _add_teacher(out, teacher, set(inputs), ends, blobs)
    # Blobs are compared with those of a teacher that drops nothing: half of what the student has would be the nearest to it.
    as_test = {"Dropout": bool(how.between or how.blobs), "BatchNorm": how.frozen}
    for param in student.layer:
        if param.type == "Input" or param.name in ends or (as_test["Dropout"] and passes(param)):
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        if as_test.get(layer.type):
            as_in_test(layer)
    _add_output_loss(out, scores, network, how)
    for blob in _other_outputs(teacher, scores, ends):
        _squared(out, f"{LOSS}{blob}_loss", blob, 1.0, network.shape_of(blob))
    for blob, weight in how.blobs.items():
        _add_match(out, blob, weight, network, student_network)
    for blob in between:
        if blob not in how.blobs:
            _relative(out, blob)
    if how.labels:
        _add_own_losses(out, train_val, {layer.name for layer in student.layer}, how.labels)
    _silence(out)
    return out


def _add_data(out: Any, train_val: Any, student: Any, labels: bool) -> None:
    """Data layers of the student's train_val; those of LMDBs give labels only where these are asked for."""
    layers = [layer for layer in train_val.layer if reads_data(layer)]
    layers = layers or [layer for layer in student.layer if layer.type == "Input"]
    for param in layers:
        layer = out.layer.add()
        layer.CopyFrom(param)
        if layer.type == "Data" and not labels:
            del layer.top[1:]
    if labels and not any(len(layer.top) > 1 for layer in layers):
        raise UsageError("--distill_labels: the network's data layers give no labels")


def _ends(deploy: Any, scores: Scores, network: Network) -> set[str]:
    """Layers behind the class scores, which the loss takes as they are; and what the deploy form has in place of a loss, where the scores
    are those of places or of labels by themselves."""
    read = {bottom for layer in deploy.layer for bottom in layer.bottom}
    return {
        layer.name for layer in deploy.layer
        if list(layer.bottom) == [scores.scores] and layer.top[0] not in read
        and ((scores.softmax and layer.type == "Softmax") or layer.name not in network)
    }  # fmt: skip


def _other_outputs(deploy: Any, scores: Scores, ends: set[str]) -> list[str]:
    """What else nothing reads, such as a detector's boxes beside its scores."""
    layers = [layer for layer in deploy.layer if layer.name not in ends and layer.type != "Input"]
    read = {bottom for layer in layers for bottom in layer.bottom}
    tops = dict.fromkeys(top for layer in layers for top in layer.top)
    return [top for top in tops if top not in read and top != scores.scores]


def _add_teacher(out: Any, teacher: Any, inputs: set[str], ends: set[str], blobs: Mapping[str, int]) -> None:
    names: dict[str, str] = {blob: blob for blob in inputs}
    for param in teacher.layer:
        if param.type == "Input" or param.name in ends:
            continue
        if param.type == "Dropout":
            # It would drop values of the teacher in the TRAIN phase; in the TEST phase it passes everything on.
            names[param.top[0]] = names[param.bottom[0]]
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        layer.DiscardUnknownFields()
        layer.name = TEACHER + param.name
        layer.bottom[:] = [names.get(blob, TEACHER + blob) for blob in param.bottom]
        for blob in param.top:
            names[blob] = TEACHER + blob
        layer.top[:] = [names[blob] for blob in param.top]
        del layer.loss_weight[:], layer.propagate_down[:]
        shared = [spec.name for spec in param.param]
        del layer.param[:]
        for name in [*shared, *[""] * (blobs.get(param.name, 0) - len(shared))]:
            layer.param.add(name=TEACHER + name if name else None, lr_mult=0, decay_mult=0)
        if param.type == "BatchNorm":
            layer.batch_norm_param.use_global_stats = True
    for blob, name in names.items():
        # What the loss calls a blob of the teacher's, where a Dropout that is gone made it.
        if name != TEACHER + blob and blob not in inputs:
            out.layer.add(name=f"{LOSS}{blob}", type="Split", bottom=[name], top=[TEACHER + blob])


def _add_output_loss(out: Any, scores: Scores, network: Network, how: Distillation) -> None:
    blob, pb = scores.scores, caffe_pb2()
    if not scores.softmax:
        _squared(out, OUTPUT, blob, 1.0, network.shape_of(blob))
        return
    logs = []
    for name, source in (("teacher", TEACHER + blob), ("student", blob)):
        cold, soft, log = (f"{LOSS}{name}_{what}" for what in ("scores", "probability", "log"))
        out.layer.add(name=cold, type="Power", bottom=[source], top=[cold]).power_param.scale = 1 / how.temperature
        out.layer.add(name=soft, type="Softmax", bottom=[cold], top=[soft])
        out.layer.add(name=log, type="Log", bottom=[soft], top=[log]).log_param.shift = SHIFT
        logs.append(log)
    ratio, product, image = (f"{LOSS}{what}" for what in ("log_ratio", "product", "of_image"))
    layer = out.layer.add(name=ratio, type="Eltwise", bottom=logs, top=[ratio])
    layer.eltwise_param.operation = pb.EltwiseParameter.SUM
    layer.eltwise_param.coeff[:] = [1.0, -1.0]
    layer = out.layer.add(name=product, type="Eltwise", bottom=[f"{LOSS}teacher_probability", ratio], top=[product])
    layer.eltwise_param.operation = pb.EltwiseParameter.PROD
    layer = out.layer.add(name=image, type="Reduction", bottom=[product], top=[image])
    layer.reduction_param.axis, layer.reduction_param.coeff = 1, how.temperature**2
    layer = out.layer.add(name=OUTPUT, type="Reduction", bottom=[image], top=[OUTPUT], loss_weight=[1.0])
    layer.reduction_param.operation = pb.ReductionParameter.MEAN


def _add_match(out: Any, blob: str, weight: float, network: Network, student: Network) -> None:
    made = [{top for layer in net.layers for top in layer.tops} for net in (network, student)]
    for tops, whose in zip(made, ("original", "compressed")):
        if blob not in tops:
            raise UsageError(f"--distill_blobs: the {whose} network has no blob '{blob}'")
    first, second = network.shape_of(blob), student.shape_of(blob)
    if first[1:] != second[1:]:
        raise UsageError(
            f"--distill_blobs: blob '{blob}' is {first} in the original and {second} in the compressed network"
        )
    _squared(out, f"{LOSS}{blob}_loss", blob, weight, first)


def _squared(out: Any, name: str, blob: str, weight: float, shape: Shape) -> None:
    """Mean of the squared differences: Caffe's EuclideanLoss is half of their sum over the images' number."""
    scale = 2.0 * weight / max(1, count(shape[1:]))
    out.layer.add(name=name, type="EuclideanLoss", bottom=[blob, TEACHER + blob], top=[name], loss_weight=[scale])


def _relative(out: Any, blob: str) -> None:
    """The squared difference over the teacher's square, by stock layers; no gradient goes to what the teacher alone makes."""
    pb, own = caffe_pb2(), f"{BETWEEN}{blob}_"
    off = out.layer.add(
        name=f"{own}difference", type="Eltwise", bottom=[blob, TEACHER + blob], top=[f"{own}difference"]
    )
    off.eltwise_param.operation = pb.EltwiseParameter.SUM
    off.eltwise_param.coeff[:] = [1.0, -1.0]
    for source, name in ((f"{own}difference", f"{own}square"), (TEACHER + blob, f"{own}power")):
        layer = out.layer.add(name=name, type="Reduction", bottom=[source], top=[name])
        layer.reduction_param.axis, layer.reduction_param.operation = 0, pb.ReductionParameter.SUMSQ
    param = out.layer.add(name=f"{own}scale", type="Power", bottom=[f"{own}power"], top=[f"{own}scale"]).power_param
    param.power, param.shift = -1.0, LEAST_POWER
    loss = out.layer.add(
        name=f"{own}loss", type="Eltwise", bottom=[f"{own}square", f"{own}scale"], top=[f"{own}loss"], loss_weight=[1.0]
    )
    loss.eltwise_param.operation = pb.EltwiseParameter.PROD


def _add_own_losses(out: Any, train_val: Any, known: set[str], weight: float) -> None:
    """The student's losses and accuracies, whose bottoms are all there."""
    made = {top for layer in out.layer for top in layer.top}
    found = False
    for param in train_val.layer:
        loss = param.type.endswith("Loss")
        if param.name in known or not (loss or param.type == "Accuracy") or not set(param.bottom) <= made:
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        if loss:
            layer.loss_weight[:] = [weight * w for w in (param.loss_weight or [1.0])]
            found = True
    if not found:
        raise UsageError("--distill_labels: the network has no loss of its own")


def _silence(out: Any) -> None:
    """Tops that nothing reads are printed at every test; outputs of the losses alone should be."""
    pb = caffe_pb2()
    losses = {top for layer in out.layer if layer.loss_weight or layer.type in ("Accuracy",) for top in layer.top}
    losses |= {top for layer in out.layer if layer.type.endswith("Loss") for top in layer.top}
    unread = []
    for phase in ("TRAIN", "TEST"):
        here = [x for x in out.layer if _in(x, pb.Phase.Value(phase))]
        read = {blob for layer in here for blob in layer.bottom}
        unread.append([t for layer in here for t in dict.fromkeys(layer.top) if t not in read | losses])
    for phase, tops in zip(("TRAIN", "TEST"), unread):
        if tops:
            layer = out.layer.add(
                name=f"{LOSS}silence_{phase.lower()}", type="Silence", bottom=list(dict.fromkeys(tops))
            )
            layer.include.add(phase=pb.Phase.Value(phase))


def _in(layer: Any, phase: int) -> bool:
    return not layer.include or any(not rule.HasField("phase") or rule.phase == phase for rule in layer.include)


def write_both(
    path: Path,
    teacher: CaffeModel,
    student: CaffeModel,
    kinds: Mapping[str, str],
    needed: Mapping[str, Sequence[Shape]],
) -> None:
    """Write the caffemodel that a distillation starts from.

    Parameters
    ----------
    kinds : mapping of the teacher's layers to their types
    needed : mapping of the teacher's layers to the shapes that Caffe gives their blobs, as far as they are known
    """

    def records() -> Iterator[bytes | Record]:
        for stored in teacher:
            arrays = [teacher.array(blob) for blob in stored.blobs]
            shapes = needed.get(stored.name)
            if shapes is not None and [a.size for a in arrays] == [count(s) for s in shapes]:
                arrays = [a.reshape(s) for a, s in zip(arrays, shapes)]
            yield layer_record(TEACHER + stored.name, kinds.get(stored.name, stored.type), arrays)
        for stored in student:
            yield kept_record(student, stored)

    with atomic_file(Path(path)) as handle:
        write_caffemodel(handle, "distillation", records())


def has_teacher(net: Any) -> bool:
    """Whether a NetParameter is one of :func:`distill_net`."""
    return any(layer.name.startswith(TEACHER) for layer in net.layer)


def write_student(path: Path, trained: Path, name: Optional[str] = None) -> None:
    """Write the student's part of a trained caffemodel, as an ordinary one."""
    model = CaffeModel(trained)
    # A snapshot has a record of every layer, those without weights too.
    layers: Iterable[Any] = (s for s in model if s.blobs and not s.name.startswith((TEACHER, LOSS)))
    with atomic_file(Path(path)) as handle:
        write_caffemodel(handle, name or "", (kept_record(model, s) for s in layers))
