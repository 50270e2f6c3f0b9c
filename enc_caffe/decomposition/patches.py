"""The inputs that each output of a layer sees, as columns of a matrix."""

from __future__ import annotations

import functools
from typing import Optional

import numpy as np

from enc_caffe.network import Layer


def patch_size(layer: Layer) -> int:
    """Inputs that one output sees in its group, d = I/g Dh Dw."""
    return layer.in_channels // layer.groups * int(np.prod(layer.kernel))


def patches(blob: np.ndarray, layer: Layer, group: int, positions: Optional[np.ndarray] = None) -> np.ndarray:
    """Columns of inputs, one for every image and output position, in the order of the weights (channel, row, column).

    Parameters
    ----------
    blob : ndarray, shape (n, C, H, W); anything of n rows for a fully connected layer
        The layer's bottom.
    group : int
        Which group of the layer's.
    positions : ndarray of int, optional
        Output positions (row times width plus column) to take; all without it.

    Returns
    -------
    ndarray, shape (d, n times positions), float32
    """
    conv = layer.convolution
    if conv is None:
        return np.ascontiguousarray(blob.reshape(len(blob), -1).T, dtype=np.float32)
    channels = layer.in_channels // layer.groups
    own = blob[:, group * channels : (group + 1) * channels].transpose(1, 0, 2, 3)
    padded = np.pad(own, ((0, 0), (0, 0), (conv.pad[0],) * 2, (conv.pad[1],) * 2))
    (dh, dw), (sh, sw), (eh, ew) = conv.kernel, conv.stride, conv.dilation
    high = (padded.shape[2] - eh * (dh - 1) - 1) // sh + 1
    wide = (padded.shape[3] - ew * (dw - 1) - 1) // sw + 1
    at = np.arange(high * wide) if positions is None else np.asarray(positions)
    out = np.empty((channels, dh, dw, len(blob), len(at)), np.float32)
    for a in range(dh):
        for b in range(dw):
            window = padded[:, :, a * eh :: sh, b * ew :: sw][:, :, :high, :wide]
            if positions is None:
                out[:, a, b] = window.reshape(channels, len(blob), -1)
            else:
                out[:, a, b] = window[:, :, at // wide, at % wide]
    return out.reshape(channels * dh * dw, -1)


def sampled_positions(layer: Layer, most: int, seed: int) -> Optional[np.ndarray]:
    """At most ``most`` output positions of a convolution, drawn by ``seed``; None where there are no more than that."""
    number = int(np.prod(layer.output)) if layer.convolution is not None else 1
    return None if number <= most else _drawn(number, most, seed)


@functools.lru_cache(maxsize=2048)
def _drawn(number: int, most: int, seed: int) -> np.ndarray:
    # Asked for again and again, by every layer of this size for every image.
    drawn = np.sort(np.random.default_rng(seed).choice(number, most, replace=False))
    drawn.setflags(write=False)
    return drawn
