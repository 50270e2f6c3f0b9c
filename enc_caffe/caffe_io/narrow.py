"""Channels taken out of a network: prototxt and weights of every layer that makes, keeps or reads them.

The smaller network computes what the larger one does with the weights that read those channels at 0. The rest of every file stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, Optional, Sequence

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
        return [
            a if places is None else np.asarray(a).reshape(shape)[places]
            for a, (shape, places) in zip(arrays, self._places(name, arrays))
        ]

    def widened(self, name: str, narrow: Sequence[np.ndarray], wide: Sequence[np.ndarray]) -> list[np.ndarray]:
        """A layer's wide blobs with the values of narrow ones where these have them."""
        found = []
        for own, array, (shape, places) in zip(narrow, wide, self._places(name, wide)):
            if places is None:
                found.append(own)
                continue
            new = np.array(array).reshape(shape)
            new[places] = np.asarray(own).reshape(new[places].shape)
            found.append(new.reshape(np.shape(array)))
        return found

    def _places(
        self, name: str, arrays: Sequence[np.ndarray]
    ) -> Iterator[tuple[tuple[int, ...], Optional[tuple[np.ndarray, ...]]]]:
        """Of every blob: a shape to see it in, and the places there that stay; None: all."""
        layer = self.network[name]
        below, above = self._ends(name)
        out = above[0] if above else None
        if not layer.has_weights:
            kept = below if below is not None else out
            for i, b in enumerate(arrays):
                cut = kept is not None and b.size == len(kept) and (layer.type, i) != ("BatchNorm", 2)
                yield (b.size,), (np.flatnonzero(kept),) if cut and kept is not None else None
            return
        shape: tuple[int, ...] = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel)
        if layer.inner_product is not None:
            shape = shape[:2]
        rows, columns = (
            np.arange(n) if k is None else np.flatnonzero(k) for n, k in ((shape[0], out), (shape[1], None))
        )
        if below is not None and layer.groups == 1:
            columns = np.flatnonzero(np.repeat(below, shape[1] // len(below)))
        turned = layer.inner_product is not None and layer.inner_product.transposed
        yield (shape[::-1], np.ix_(columns, rows)) if turned else (shape, np.ix_(rows, columns))
        for _ in arrays[1:]:
            yield (shape[0],), (rows,)
