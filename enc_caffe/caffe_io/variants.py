"""The three prototxts of an emitted network: train_val, deploy and solver, whatever the original came as."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.caffe_io.describe import data_layers, in_phase, reads_data
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import NetworkError
from enc_caffe.network import Network
from enc_caffe.shapes import Shape, brings_data

_SCORERS = ("SoftmaxWithLoss", "Accuracy", "Softmax")
_LOSS_TO_OUTPUT = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}


@dataclass(frozen=True)
class Scores:
    """Where a network's class scores and labels are: blob names, and the number of classes.

    ``softmax`` is False for the output of a network that has no class scores.
    """

    scores: str
    labels: Optional[str]
    classes: int
    softmax: bool = True


def find_scores(network: Network, any_output: bool = False) -> Scores:
    """The class scores: what a SoftmaxWithLoss of the TEST phase reads, else an Accuracy, else a Softmax; the last of its type.

    With ``any_output`` a network that has none of them gives what its last loss reads first, else its last blob.

    Raises
    ------
    NetworkError
        If the network has none of them.
    """
    found: Optional[Scores] = None
    for kind in _SCORERS:
        for layer in network.layers:
            if layer.type == kind:
                labels = layer.bottoms[1] if len(layer.bottoms) > 1 else None
                shape = layer.bottom_shapes[0]
                found = Scores(layer.bottoms[0], labels, shape[1] if len(shape) > 1 else 0)
        if found is not None:
            break
    if found is None and any_output:
        return _output(network)
    if found is None:
        raise NetworkError(
            f"network '{network.name}' has no SoftmaxWithLoss, Accuracy or Softmax layer; its class scores cannot be found"
        )
    return found


def _output(network: Network) -> Scores:
    read = {bottom for layer in network.layers for bottom in layer.bottoms if not layer.type.endswith("Loss")}
    for layer in reversed(network.layers):
        if layer.type.endswith("Loss"):
            return Scores(layer.bottoms[0], None, int(np.prod(layer.bottom_shapes[0][1:])), softmax=False)
    for layer in reversed(network.layers):
        for top, shape in zip(layer.tops, layer.top_shapes):
            if top not in read and not brings_data(layer.type):
                return Scores(top, None, int(np.prod(shape[1:])), softmax=False)
    raise NetworkError(f"network '{network.name}' has no output that no layer reads")


def deploy_net(net: Any, network: Network, batch: int = 1) -> Any:
    """The network for inference: Input layers for the images, no labels, losses become their outputs.

    Parameters
    ----------
    net : NetParameter, train_val or deploy
    network : Network
        Its description, for the size of the images.
    batch : int
        Batch size of the new Input layers; an Input layer that is there keeps its own.
    """
    out = caffe_pb2().NetParameter(name=net.name)
    gone: set[str] = set()
    for param in net.layer:
        if not in_phase(param, "TEST"):
            continue
        if param.type == "HDF5Output":
            # It would write a file of its own choice.
            continue
        if reads_data(param):
            shapes = network[param.name].top_shapes
            layer = out.layer.add(name=param.top[0], type="Input", top=[param.top[0]])
            layer.input_param.shape.add(dim=[batch, *shapes[0][1:]])
            gone.update(param.top[1:])
            continue
        if param.bottom and any(b in gone for b in param.bottom):
            _output_of_loss(out, param)
            gone.update(t for t in param.top if t not in param.bottom)
            continue
        layer = out.layer.add()
        layer.CopyFrom(param)
        del layer.include[:]
        del layer.exclude[:]
    return out


def _output_of_loss(out: Any, param: Any) -> None:
    kind = _LOSS_TO_OUTPUT.get(param.type)
    made = {layer.name for layer in out.layer} | {t for layer in out.layer for t in layer.top}
    if kind is None or "prob" in made:
        return
    layer = out.layer.add(name="prob", type=kind, bottom=[param.bottom[0]], top=["prob"])
    if param.HasField("softmax_param"):
        layer.softmax_param.CopyFrom(param.softmax_param)


def train_val_net(net: Any, network: Network, train_lmdb: Optional[Path], test_lmdb: Optional[Path]) -> Any:
    """The network for ``caffe train`` and ``caffe test``.

    A train_val stays as it is, its LMDB sources replaced where new ones are given. A deploy network gets Data layers
    (sources ``train_lmdb`` and ``test_lmdb`` where none is given), a loss and accuracies.
    """
    out = caffe_pb2().NetParameter()
    out.CopyFrom(net)
    if not data_layers(net, "TEST") and not data_layers(net, "TRAIN"):
        out = _with_data(net, network)
    for layer in out.layer:
        if layer.type != "Data":
            continue
        in_test, in_train = in_phase(layer, "TEST"), in_phase(layer, "TRAIN")
        given = test_lmdb if in_test and not in_train else train_lmdb
        if given is not None:
            layer.data_param.source = str(Path(given).absolute())
            layer.data_param.backend = caffe_pb2().DataParameter.LMDB
    return out


def _with_data(net: Any, network: Network) -> Any:
    pb = caffe_pb2()
    inputs = [p for p in net.layer if p.type == "Input"]
    if len(inputs) != 1 or len(inputs[0].top) != 1:
        raise NetworkError(
            f"network '{network.name}' has {len(inputs)} Input layers; a train_val is made for one with one top only"
        )
    scores = find_scores(network)
    out = pb.NetParameter(name=net.name)
    for phase, source, batch in (("TRAIN", "train_lmdb", 64), ("TEST", "test_lmdb", 50)):
        data = out.layer.add(name="data", type="Data", top=[inputs[0].top[0], "label"])
        data.include.add(phase=pb.Phase.Value(phase))
        data.data_param.source, data.data_param.batch_size = source, batch
        data.data_param.backend = pb.DataParameter.LMDB
    for param in net.layer:
        if param.type != "Input" and not (param.type == "Softmax" and param.bottom[0] == scores.scores):
            out.layer.add().CopyFrom(param)
    out.layer.add(name="loss", type="SoftmaxWithLoss", bottom=[scores.scores, "label"], top=["loss"])
    accuracy = out.layer.add(name="accuracy", type="Accuracy", bottom=[scores.scores, "label"], top=["accuracy"])
    accuracy.include.add(phase=pb.TEST)
    return out


def solver_param(
    original: Any, net_path: str, snapshot_prefix: str, test_iter: int, overrides: Optional[dict[str, Any]] = None
) -> Any:
    """A SolverParameter for the emitted network: the user's own with new paths, or the paper's ResNet-56 schedule.

    Parameters
    ----------
    original : SolverParameter or None
    test_iter : int
        Iterations that cover the test images once.
    overrides : mapping of field to value, optional
    """
    solver = caffe_pb2().SolverParameter()
    if original is not None:
        solver.CopyFrom(original)
        for field in (
            "net",
            "net_param",
            "train_net",
            "test_net",
            "train_net_param",
            "test_net_param",
            "train_state",
            "test_state",
        ):
            solver.ClearField(field)
        del solver.test_iter[:]
    else:
        solver.type, solver.momentum, solver.weight_decay = "Nesterov", 0.9, 5e-4
        solver.base_lr, solver.lr_policy, solver.gamma, solver.stepsize = 1e-3, "step", 0.1, 1000
        solver.max_iter, solver.test_interval, solver.display, solver.snapshot = 2000, 200, 20, 200
    solver.net, solver.snapshot_prefix = net_path, snapshot_prefix
    solver.test_iter[:] = [test_iter]
    solver.test_initialization = True
    for name, value in (overrides or {}).items():
        setattr(solver, name, value)
    return solver


def image_shape(net: Any, lmdb_shape: Optional[Shape], input_shape: Optional[Shape]) -> Optional[Shape]:
    """(C, H, W) of the images: what the user says, else what the LMDB holds, else what the data layer's source holds."""
    if input_shape is not None:
        return input_shape
    if lmdb_shape is not None:
        return lmdb_shape
    from enc_caffe.caffe_io.datum import ImageLmdb

    for layer in data_layers(net):
        source = Path(layer.data_param.source)
        if layer.type == "Data" and (source / "data.mdb").is_file():
            lmdb = ImageLmdb(source)
            try:
                return lmdb.first_shape()
            finally:
                lmdb.close()
    return None
