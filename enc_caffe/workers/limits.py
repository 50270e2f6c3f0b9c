"""What this machine and this Caffe can run, held against a network before Caffe is asked to."""

from __future__ import annotations

import os
from typing import Any, Iterable

from enc_caffe.caffe_io.describe import selected
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.errors import NetworkError
from enc_caffe.installation import more_types
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, brings_data, count

GIB = 2**30
#: What can be done where a command has the flag.
BY_GPU = (
    "--gpu 0 computes there, with a Caffe built for GPUs; or train the network with pool: MAX or AVE there; inspect, metrics without images, "
    "search and emit run no layer and take it as it is"
)


def check_runs(network: Network, source: str, training: bool = False) -> None:
    """Refuse what Caffe could only abort on.

    Parameters
    ----------
    source : str
        File name for error messages.
    training : bool
        Whether gradients are needed too, with the batch of the prototxt; else images go through one at a time.

    Raises
    ------
    NetworkError
        For a layer type that Caffe does not have, and a network that needs more memory than the machine has.
    """
    for layer in network.layers:
        # Images that are measured on take the place of a data layer, of whatever type; training reads from it.
        if layer.type not in caffe_types() and (training or not brings_data(layer.type)):
            raise NetworkError(
                f"{source}: layer '{layer.name}': Caffe has no type '{layer.type}' and cannot {'train' if training else 'run'} the network; "
                "--caffe_root DIR runs a Caffe that has this type"
                + (
                    ""
                    if training
                    else "; compress and metrics measure the part before it, searching by PCA energy and emitting need no run"
                )
            )
    need, have = bytes_needed(network, training), memory()
    if need > have:
        what = "training it" if training else "one image"
        raise NetworkError(
            f"{source}: {what} takes at least {need / GIB:.1f} GiB in Caffe, and this machine has {have / GIB:.1f} GiB"
        )


def check_device(net: Any, source: str, device: str, phases: Iterable[str] = ("TEST",), remedy: str = BY_GPU) -> None:
    """Refuse a layer for which stock Caffe has code on GPUs alone: in a pass on the CPU it aborts with "Not Implemented Yet".

    Parameters
    ----------
    net : NetParameter
    device : {'cpu', 'gpu'}
        Where the passes will be.
    phases : iterable of {'TRAIN', 'TEST'}
    remedy : str
        What can be done; flags that the command has.

    Raises
    ------
    NetworkError
        That names the layer.
    """
    if device != "cpu" or more_types():
        # A Caffe of the user's own may have more.
        return
    for layer in (layer for phase in phases for layer in selected(net, phase)):
        if layer.type == "Pooling" and layer.pooling_param.pool == layer.pooling_param.STOCHASTIC:
            raise NetworkError(
                f"{source}: layer '{layer.name}': stock Caffe has code for pool: STOCHASTIC on GPUs alone, none on the CPU; {remedy}"
            )


def bytes_needed(network: Network, training: bool = False) -> int:
    """Bytes of a network's weights and blobs; in training also of their gradients and the solver's history."""
    weights = sum(
        x.in_channels // x.groups * x.out_channels * x.kernel[0] * x.kernel[1] for x in network.weighted
    )  # fmt: skip
    tops = {top: shape for x in network.layers for top, shape in zip(x.tops, x.top_shapes) if shape != UNKNOWN}
    if training:
        return 4 * (3 * weights + 2 * sum(count(s) for s in tops.values()))
    return 4 * (weights + sum(count(s[1:]) for s in tops.values()))


def memory() -> int:
    """Bytes of memory that this machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory_free() -> int:
    """Bytes of memory that can be had without swapping; all of it where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return memory()
    return 1024 * found
