"""The one gate to pycaffe: a net in this process. Only worker processes of the executor call it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.workers.executor import DEVICE


def _set_device(gpu: Optional[int]) -> None:
    import caffe

    if gpu is None and DEVICE in os.environ:
        gpu = int(os.environ[DEVICE])
    if gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()


def load_net(prototxt: str, weights: Optional[str], gpu: Optional[int] = None) -> Any:
    """A ``caffe.Net`` in the TEST phase from prototxt text and a caffemodel."""
    import caffe

    _set_device(gpu)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(prototxt, encoding="utf-8")
        if weights is None:
            return caffe.Net(str(path), caffe.TEST)
        return caffe.Net(str(path), caffe.TEST, weights=weights)


def adam_solver(prototxt: str, weights: str, rate: float, steps: int) -> Any:
    """A ``caffe.AdamSolver`` that neither tests, prints nor writes; its learning rate falls to 0 in a straight line.

    Parameters
    ----------
    prototxt : str
        The net to train, its images by Input layers.
    weights : str
        Caffemodel whose layers of equal name it begins with.
    """
    import caffe
    from caffe.proto import caffe_pb2

    _set_device(None)
    with tempfile.TemporaryDirectory() as folder:
        net, path = Path(folder) / "net.prototxt", Path(folder) / "solver.prototxt"
        net.write_text(prototxt, encoding="utf-8")
        param = caffe_pb2.SolverParameter(
            net=str(net), type="Adam", base_lr=rate, momentum=0.9, momentum2=0.999, delta=1e-8, lr_policy="poly", power=1.0,
            max_iter=steps, display=0, random_seed=1, snapshot_prefix=str(Path(folder) / "s"), snapshot_after_train=False,
        )  # fmt: skip
        path.write_text(str(param), encoding="utf-8")
        solver = caffe.AdamSolver(str(path))
    solver.net.copy_from(weights)
    return solver


def layer_kernels(device: str = "cpu") -> str:
    """What computes convolutions here: ``caffe``, or oneDNN, its version and the CPU's instructions that it uses; for ``gpu`` cuDNN and
    its version, or ``loops`` without it."""
    import caffe

    # a Caffe from elsewhere has its own code only
    known = getattr(caffe._caffe, "layer_kernels" if device == "cpu" else "gpu_kernels", None)
    return str(known()) if known is not None else "caffe"


def forward(
    prototxt: str, weights: Optional[str], inputs: dict[str, np.ndarray], blobs: list[str], gpu: Optional[int] = None
) -> dict[str, np.ndarray]:
    """Run one forward pass and return copies of the named blobs."""
    net = load_net(prototxt, weights, gpu)
    for name, value in inputs.items():
        net.blobs[name].reshape(*value.shape)
        net.blobs[name].data[...] = value
    net.forward()
    return {name: np.array(net.blobs[name].data) for name in blobs}
