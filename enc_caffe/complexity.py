"""MACs and parameters of a network whole and at given ranks.

One multiply-add is one MAC (the paper calls it one FLOP); biases are not counted. Two conventions:

``exact``
    MACs of the emitted layers at their true output sizes: a strided spatial pair's first layer still has the
    original's input width.
``paper``
    Eq. 9 and 10: both halves counted at the ORIGINAL layer's output size.

Both are linear in the ranks: C(R) = sum of c_l r_l, with r_l the rank of one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from enc_caffe.decomposition.schemes import scheme_for
from enc_caffe.network import Layer, Network
from enc_caffe.shapes import conv_output, count

CONVENTIONS = ("paper", "exact")


def layer_parameters(layer: Layer) -> int:
    """Weights of the whole layer, without the bias."""
    if layer.convolution is not None:
        kh, kw = layer.kernel
        return layer.out_channels * (layer.in_channels // layer.groups) * kh * kw
    return layer.out_channels * layer.in_channels


def positions(layer: Layer) -> int:
    """How often the layer's weights are applied for one image: H x W, or the leading axes of an inner product."""
    if layer.convolution is not None:
        height, width = layer.output
        return height * width
    return count(layer.top_shapes[0][1:-1])


def layer_macs(layer: Layer) -> int:
    """MACs of the whole layer for one image."""
    return layer_parameters(layer) * positions(layer)


def rank_parameters(layer: Layer, scheme: str) -> int:
    """Parameters that one unit of rank (in every group) costs."""
    return scheme_for(scheme).rank_cost(layer)


def rank_macs(layer: Layer, scheme: str, convention: str = "paper", placement: str = "exact") -> int:
    """MACs for one image that one unit of rank (in every group) costs: the c_l of Eq. 9 and 10.

    Parameters
    ----------
    convention : {'paper', 'exact'}
    placement : {'exact', 'published'}
        Where the strides stand; it changes the true size of ``_v``'s output, hence the exact convention only.
    """
    if convention == "paper" or layer.convolution is None or scheme != "spatial":
        return rank_parameters(layer, scheme) * positions(layer)
    conv = layer.convolution
    out_h, out_w = layer.output
    in_w = layer.input[1]
    first, _ = scheme_for(scheme).stages(layer, 1, placement)
    assert first.convolution is not None
    v_w = conv_output(in_w, 1, first.convolution.stride[1], 0, 1)
    per_group_in = layer.in_channels // conv.groups
    vertical = per_group_in * conv.kernel[0] * conv.groups * out_h * v_w
    horizontal = conv.num_output * conv.kernel[1] * out_h * out_w
    return vertical + horizontal


@dataclass(frozen=True)
class Complexity:
    """MACs (one image) and parameters of a set of layers, with the words that say which."""

    macs: int
    parameters: int
    convention: str
    counted: str


def network_complexity(
    network: Network,
    ranks: Mapping[str, int],
    schemes: Mapping[str, str],
    convention: str = "exact",
    counted: str = "all",
    placement: str = "exact",
) -> Complexity:
    """Cost of a network under a rank plan; a layer that is absent from ``ranks`` is whole.

    Parameters
    ----------
    ranks, schemes : mapping of layer name to rank of one group, and to scheme name
    convention : {'paper', 'exact'}
    counted : {'decomposable', 'all'}
        The layers that ``schemes`` names (the paper's choice), or every convolution and inner product.
    placement : {'exact', 'published'}
    """
    macs = parameters = 0
    for layer in network.weighted:
        if counted == "decomposable" and layer.name not in schemes:
            continue
        if layer.name in ranks:
            scheme, rank = schemes[layer.name], ranks[layer.name]
            macs += rank * rank_macs(layer, scheme, convention, placement)
            parameters += rank * rank_parameters(layer, scheme)
        else:
            macs += layer_macs(layer)
            parameters += layer_parameters(layer)
    return Complexity(macs, parameters, convention, counted)
