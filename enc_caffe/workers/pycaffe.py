"""The one gate to pycaffe: a net in this process. Only worker processes of the executor call it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Optional

import numpy as np

from enc_caffe.workers.executor import DEVICE


def load_net(prototxt: str, weights: Optional[str], gpu: Optional[int] = None) -> Any:
    """A ``caffe.Net`` in the TEST phase from prototxt text and a caffemodel."""
    import caffe

    if gpu is None and DEVICE in os.environ:
        gpu = int(os.environ[DEVICE])
    if gpu is None:
        caffe.set_mode_cpu()
    else:
        caffe.set_device(gpu)
        caffe.set_mode_gpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.prototxt"
        path.write_text(prototxt, encoding="utf-8")
        if weights is None:
            return caffe.Net(str(path), caffe.TEST)
        return caffe.Net(str(path), caffe.TEST, weights=weights)


def layer_kernels() -> str:
    """What computes convolutions here: ``caffe``, or oneDNN, its version and the CPU's instructions that it uses."""
    import caffe

    known = getattr(caffe._caffe, "layer_kernels", None)  # a Caffe from elsewhere has its own code only
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
