"""Channels taken out of a network: prototxt and weights of every layer that makes, keeps or reads them.

The smaller network computes what the larger one does with the weights that read those channels at 0. The rest of every file stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional, Sequence

import numpy as np

from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.errors import PlanError
from enc_caffe.network import Network


@dataclass(frozen=True)
class Narrow:
    """A network without some units of its coupling (:mod:`enc_caffe.coupling`).

    Attributes
    ----------
    network : Network
        The wide one.
    gone : frozenset of int
        Units that are taken out.
    """

    network: Network
    gone: frozenset[int]

    def __post_init__(self) -> None:
        fixed = self.network.coupled.fixed
        for unit in sorted(self.gone & fixed.keys()):
            raise PlanError(f"these channels cannot be taken out: {fixed[unit]}")
        for group in self.network.coupled.groups:
            own = self.gone.intersection(group.units)
            if own and group.why_not:
                raise PlanError(f"channels of layer '{group.makers[0]}' cannot be taken out: {group.why_not}")
            if len(own) == len(group.units):
                raise PlanError(f"no channel of layer '{group.makers[0]}' would be left; at least one is needed")

    def kept(self, units: Optional[np.ndarray]) -> Optional[np.ndarray]:
        """Which channels of a blob stay, bool; None where all do."""
        if units is None or self.gone.isdisjoint(units.tolist()):
            return None
        return ~np.isin(units, list(self.gone))

    def _ends(self, name: str) -> tuple[Optional[np.ndarray], list[Optional[np.ndarray]]]:
        coupled = self.network.coupled
        first = next(iter(coupled.bottoms.get(name, ())), None)
        return self.kept(first), [self.kept(u) for u in coupled.tops.get(name, ())]

    def net(self, net: Any) -> Any:
        """A copy of the NetParameter with ``num_output``, ``group`` and ``slice_point`` of what is left."""
        out = caffe_pb2().NetParameter()
        out.CopyFrom(net)
        for param in out.layer:
            below, above = self._ends(param.name)
            if below is None and not any(a is not None for a in above):
                continue
            if param.type == "Convolution" and above[0] is not None:
                layer = self.network[param.name]
                param.convolution_param.num_output = int(above[0].sum())
                if layer.groups > 1:
                    param.convolution_param.group = int(above[0].sum())
            elif param.type == "InnerProduct" and above[0] is not None:
                param.inner_product_param.num_output = int(above[0].sum())
            elif param.type == "Slice":
                sizes = [
                    len(units) if kept is None else int(kept.sum())
                    for units, kept in zip(self.network.coupled.tops[param.name], above) if units is not None
                ]  # fmt: skip
                if min(sizes) < 1:
                    raise PlanError(f"layer '{param.name}' (Slice): no channel would be left of one of its tops")
                param.slice_param.slice_point[:] = [int(v) for v in np.cumsum(sizes)[:-1]]
            else:
                continue
            # The original's text says what the layer is not any more.
            param.DiscardUnknownFields()
        return out

    def touches(self, name: str) -> bool:
        """Whether a layer's weights lose something."""
        below, above = self._ends(name)
        return name in self.network and (below is not None or any(a is not None for a in above))

    def blobs(self, name: str, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What is left of a layer's blobs."""
        layer = self.network[name]
        below, above = self._ends(name)
        out = above[0] if above else None
        if layer.convolution is not None:
            weight = np.asarray(arrays[0])
            weight = weight.reshape(layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
            weight = weight if out is None else weight[out]
            weight = weight if below is None or layer.groups > 1 else weight[:, below]
            return [weight, *(b.reshape(-1) if out is None else b.reshape(-1)[out] for b in arrays[1:])]
        if layer.inner_product is not None:
            turned = layer.inner_product.transposed
            weight = arrays[0].reshape(layer.in_channels, -1).T if turned else arrays[0].reshape(-1, layer.in_channels)
            weight = weight if out is None else weight[out]
            if below is not None:
                weight = weight[:, np.repeat(below, layer.in_channels // len(below))]
            return [
                weight.T if turned else weight,
                *(b.reshape(-1) if out is None else b.reshape(-1)[out] for b in arrays[1:]),
            ]
        kept = below if below is not None else out
        assert kept is not None
        return [
            b.reshape(-1)[kept] if b.size == len(kept) and (layer.type, i) != ("BatchNorm", 2) else b
            for i, b in enumerate(arrays)
        ]
