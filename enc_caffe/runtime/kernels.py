"""Which code computes Caffe's layers on the CPU, and how fast: for ``enc-caffe doctor``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Optional

from enc_caffe.installation import CaffeInstallation
from enc_caffe.runtime.blas import CONV, OWN_CODE, blas_environment
from enc_caffe.runtime.engine import load_net

#: Layers that have kernels beside Caffe's own code.
TYPES = ("Convolution", "Deconvolution", "InnerProduct")

_TIMER = """
import sys, tempfile, time
sys.path.insert(0, sys.argv[1])
import caffe
caffe.set_mode_cpu()
def speed(channels, size, group, batch=8):
    text = (f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {batch} dim: {channels} dim: {size} dim: {size} }} }} }}'
            f'layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: {channels} kernel_size: 3 '
            f'pad: 1 group: {group} weight_filler {{ type: "msra" }} }} }}')
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt") as file:
        file.write(text)
        file.flush()
        net = caffe.Net(file.name, caffe.TEST)
    best = 0
    for _ in range(10):
        start = time.perf_counter()
        net.forward()
        best = max(best, 2e-9 * batch * channels * channels / group * 9 * size * size / (time.perf_counter() - start))
    return best
kernels = getattr(caffe._caffe, "layer_kernels", lambda: "caffe")()
print(kernels, round(speed(64, 28, 1), 1), round(speed(64, 28, 64), 1), sep="|")
"""


def conv_speed(caffe: CaffeInstallation, own_code: bool = False) -> Optional[tuple[str, float, float]]:
    """What computes, and GFLOP/s of two 3x3 convolutions of 64 channels at 28x28 on one core: dense, and depthwise.

    Parameters
    ----------
    own_code : bool
        By Caffe's own code, whatever else there is.

    Returns
    -------
    tuple or None
        None where Caffe does not run.
    """
    env = {**os.environ, **blas_environment(1), "GLOG_minloglevel": "2"}
    if own_code:
        env[CONV] = OWN_CODE
    done = subprocess.run(
        [sys.executable, "-c", _TIMER, str(caffe.python_dir)],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        return None
    kernels, dense, depthwise = done.stdout.decode().strip().split("|")
    return kernels, float(dense), float(depthwise)


def kernels_of(prototxt: str) -> list[tuple[str, str, str]]:
    """Name, type and kernel of each layer of a network that has weights (in a worker)."""
    net = load_net(prototxt, None)
    net.forward()
    return [
        (name, layer.type, str(getattr(layer, "kernel", OWN_CODE)))
        for name, layer in zip(net._layer_names, net.layers)
        if layer.type in TYPES
    ]
