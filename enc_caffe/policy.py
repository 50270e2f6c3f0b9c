"""Which layers are decomposed, by which scheme, and why the others stay whole (the paper's section VI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from enc_caffe.decomposition import scheme_for
from enc_caffe.network import Layer, Network

_PASS_THROUGH = frozenset({"BatchNorm", "Scale", "Bias", "ReLU", "PReLU", "ELU", "Dropout", "Split", "Power"})


@dataclass(frozen=True)
class Policy:
    """Scheme and r_max of every layer to decompose, and the reason for each weighted layer that stays whole."""

    schemes: Mapping[str, str]
    max_ranks: Mapping[str, int]
    whole: Mapping[str, str]


def default_policy(network: Network, fully_connected: bool = False) -> Policy:
    """The paper's policy: channel scheme where the data enters, spatial elsewhere.

    Parameters
    ----------
    fully_connected : bool
        Decompose fully connected layers as well (the paper does where parameters are constrained).
    """
    schemes: dict[str, str] = {}
    whole: dict[str, str] = {}
    shortcuts = _projection_shortcuts(network)
    first = next((layer.name for layer in network.layers if layer.convolution is not None), None)
    for layer in network.layers:
        if not layer.has_weights and not layer.keep_reason:
            continue
        reason = _reason(layer, fully_connected, layer.name in shortcuts)
        if reason:
            whole[layer.name] = reason
        elif layer.inner_product is not None:
            schemes[layer.name] = "inner_product"
        else:
            schemes[layer.name] = "channel" if layer.name == first else "spatial"
    max_ranks = {}
    for name in list(schemes):
        scheme = scheme_for(schemes[name])
        rank = max_ranks[name] = scheme.max_rank(network[name])
        if rank < 2:
            whole[name] = f"r_max is {rank}: nothing to choose"
            del schemes[name], max_ranks[name]
    return Policy(schemes, max_ranks, whole)


def _reason(layer: Layer, fully_connected: bool, shortcut: bool) -> str:
    if layer.keep_reason:
        return layer.keep_reason
    if layer.inner_product is not None:
        return "" if fully_connected else "fully connected (--fully_connected decomposes it)"
    if layer.kernel == (1, 1):
        return "1x1 convolution"
    if shortcut:
        return "projection shortcut"
    if layer.groups == layer.in_channels > 1:
        return "depthwise convolution"
    return ""


def _projection_shortcuts(network: Network) -> set[str]:
    """Convolutions that alone make up one branch of a sum whose other branch starts at the same blob.

    In-place layers give several layers the same top, so blobs are followed as (name, version).
    """
    version: dict[str, int] = {}
    producer: dict[tuple[str, int], tuple[Layer, tuple[tuple[str, int], ...]]] = {}
    sums = []
    for layer in network.layers:
        bottoms = tuple((b, version.get(b, 0)) for b in layer.bottoms)
        for top in layer.tops:
            version[top] = version.get(top, 0) + 1
            producer[top, version[top]] = (layer, bottoms)
        if layer.type == "Eltwise":
            sums.append(bottoms)

    def upward(blob: tuple[str, int]) -> tuple[Layer, tuple[str, int]] | None:
        # The weighted layer that makes this blob, seen through element-wise layers, and that layer's own bottom.
        while blob in producer:
            layer, bottoms = producer[blob]
            if layer.convolution is not None:
                return layer, bottoms[0]
            if layer.type not in _PASS_THROUGH or not bottoms:
                return None
            blob = bottoms[0]
        return None

    def reaches(blob: tuple[str, int], source: tuple[str, int], without: Layer) -> bool:
        todo, seen = [blob], set()
        while todo:
            current = todo.pop()
            if current == source:
                return True
            if current in seen or current not in producer or producer[current][0] is without:
                continue
            seen.add(current)
            todo.extend(producer[current][1])
        return False

    found = set()
    for bottoms in sums:
        for blob in bottoms:
            above = upward(blob)
            if above is None:
                continue
            layer, source = above
            others = [b for b in bottoms if b != blob]
            for other in others:
                over = upward(other)
                # The other branch must be longer (its last convolution does not read the shared blob itself), and reach
                # the shared blob past this layer: the layer before an identity shortcut is no projection.
                if over is not None and over[1] != source and reaches(over[1], source, layer):
                    found.add(layer.name)
    return found
