"""BatchNorm and Scale folded into the convolution before them: the same function in the TEST phase, two layers fewer.

BatchNorm: y = (x - mean) / sqrt(var + eps); Scale: z = gamma y + beta. For a convolution x = W * u + b both are
z = (g W) * u + (b - mean) g + beta with g = gamma / sqrt(var + eps), one g for each output channel. Source: the layers'
forward passes in BVLC Caffe 99bd997.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Optional

import numpy as np

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.own_phase import by_batch
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.network import walk


@dataclass(frozen=True)
class Follower:
    """What is folded into a convolution: names of a BatchNorm (and its eps) and of a Scale."""

    batch_norm: str
    epsilon: float
    scale: Optional[str] = None


def fold(net: Any) -> tuple[Any, dict[str, Follower]]:
    """A copy of a deploy network without the BatchNorm and Scale layers that follow a convolution.

    Returns
    -------
    net : NetParameter
        The convolutions get a bias, and the top of the last layer that they swallow.
    followers : dict of convolution to Follower
    """
    out = caffe_pb2().NetParameter()
    out.CopyFrom(net)
    followers: dict[str, Follower] = {}
    gone: set[int] = set()
    graph = walk((at, at, p.bottom, p.top) for at, p in enumerate(out.layer))

    def reader(at: int, kind: str) -> Optional[int]:
        """The layer of this type that alone reads the top of layer ``at``."""
        readers = graph.readers.get(graph.tops[at][0], [])
        alone = len(readers) == 1 and out.layer[readers[0]].type == kind
        return readers[0] if alone and len(graph.bottoms[readers[0]]) == len(graph.tops[readers[0]]) == 1 else None

    # What is renamed below is not looked up again: the walk was over the names that were there before.
    for at, conv in enumerate(out.layer):
        # Weights that are shared by name with another layer cannot take what follows one of them.
        if conv.type != "Convolution" or len(conv.top) != 1 or any(p.name for p in conv.param):
            continue
        follows = reader(at, "BatchNorm")
        if follows is None:
            continue
        norm = out.layer[follows]
        if by_batch(norm):
            continue
        last = reader(follows, "Scale")
        scale = None if last is None else out.layer[last]
        if scale is not None and (scale.scale_param.axis != 1 or scale.scale_param.num_axes != 1):
            scale = None
        followers[conv.name] = Follower(norm.name, float(norm.batch_norm_param.eps), scale.name if scale else None)
        gone.add(follows)
        conv.convolution_param.bias_term = True
        conv.top[0] = norm.top[0]
        if last is not None and scale is not None:
            gone.add(last)
            conv.top[0] = scale.top[0]
    kept = [layer for at, layer in enumerate(out.layer) if at not in gone]
    result = caffe_pb2().NetParameter(name=out.name)
    for layer in kept:
        result.layer.add().CopyFrom(layer)
    return result, followers


def gain_and_shift(model: CaffeModel, follower: Follower) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """g, mean and beta of each output channel, float64 of shape (O,)."""
    mean, variance, factor = (_blob(model, follower.batch_norm, i) for i in range(3))
    correction = 0.0 if factor[0] == 0 else 1.0 / factor[0]
    gain = 1.0 / np.sqrt(variance * correction + follower.epsilon)
    beta = np.zeros_like(gain)
    if follower.scale is not None:
        gain = gain * _blob(model, follower.scale, 0)
        if len(model.layers[follower.scale].blobs) > 1:
            beta = _blob(model, follower.scale, 1)
    return gain, mean * correction, beta


def folded(
    weight: np.ndarray, bias: Optional[np.ndarray], parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (O, ...) and bias (O,) of the convolution that does what the three layers did; float32."""
    gain, mean, beta = parts
    shape = (-1,) + (1,) * (weight.ndim - 1)
    own = np.zeros(len(gain)) if bias is None else bias
    return (weight * gain.reshape(shape)).astype(np.float32), ((own - mean) * gain + beta).astype(np.float32)


def _blob(model: CaffeModel, name: str, index: int) -> np.ndarray:
    return np.asarray(model.array(model.layers[name].blobs[index]), dtype=np.float64).reshape(-1)


def can_fold(model: CaffeModel, followers: Mapping[str, Follower]) -> bool:
    """Whether the caffemodel holds all that is folded."""
    return all(_fits(model, name, follower) for name, follower in followers.items())


def _fits(model: CaffeModel, name: str, follower: Follower) -> bool:
    # A caffemodel of another network: Caffe says what is wrong with it when it loads the plain net.
    stored = [model.layers.get(n) for n in (name, follower.batch_norm, follower.scale) if n is not None]
    sizes = [[b.size for b in x.blobs] if x is not None else [] for x in stored]
    outputs = sizes[1][0] if len(sizes[1]) == 3 else 0
    if not outputs or sizes[1] != [outputs, outputs, 1] or not sizes[0]:
        return False
    scale = sizes[2] if len(sizes) > 2 else [outputs]
    return bool(scale) and sizes[0][0] % outputs == 0 and {*sizes[0][1:], *scale} == {outputs}
