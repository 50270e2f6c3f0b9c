"""Which layers lose channels together: one walk over the graph, channel by channel.

Every channel of a blob (an index of axis 1) has a unit. Convolutions and fully connected layers make new units and read those of their
bottoms; normalisations, activations, poolings and depthwise convolutions keep the units; a Concat puts them beside each other, a Slice cuts them
apart, a Flatten repeats each for every position, and a sum makes one of two. What is left are sets of channels that can go only together, with
every place where they stand. A group holds the units of layers that have some of them in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterable, Mapping, Optional, Protocol, Sequence

import numpy as np

from enc_caffe.shapes import Shape, brings_data, count

#: Layers that treat every channel alike and by itself.
KEEPS = frozenset({
    "AbsVal", "BNLL", "BatchNorm", "Bias", "Clip", "Dropout", "ELU", "Exp", "LRN", "Log", "MVN", "PReLU", "Pooling", "Power", "ReLU", "Scale",
    "Sigmoid", "Split", "Swish", "TanH", "Threshold",
})  # fmt: skip

Units = np.ndarray
Made = tuple[str, int]


class _Layer(Protocol):
    """What is asked of a layer (:class:`enc_caffe.network.Layer`)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def type(self) -> str: ...  # noqa: D102
    @property
    def bottom_shapes(self) -> tuple[Shape, ...]: ...  # noqa: D102
    @property
    def top_shapes(self) -> tuple[Shape, ...]: ...  # noqa: D102
    @property
    def convolution(self) -> Any: ...  # noqa: D102
    @property
    def inner_product(self) -> Any: ...  # noqa: D102
    @property
    def keep_reason(self) -> str: ...  # noqa: D102
    @property
    def fixed_channels(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Group:
    """Layers that have channels in common.

    Attributes
    ----------
    units : tuple of int
        What can be taken out, one by one.
    makers : tuple of str
        Layers whose outputs these are.
    keepers : tuple of str
        Layers that have parameters for every channel or only hand channels on.
    readers : tuple of str
        Convolutions and fully connected layers that read them.
    why_not : str
        Why no channel can be taken out; empty: they can.
    """

    units: tuple[int, ...]
    makers: tuple[str, ...]
    keepers: tuple[str, ...]
    readers: tuple[str, ...]
    why_not: str = ""


@dataclass(frozen=True)
class Coupling:
    """Units of every blob, and the groups that they make up.

    Attributes
    ----------
    groups : tuple of Group, in order of their first makers
    bottoms, tops : mapping of layer to tuple of ndarray of int or None
        Unit of every index of axis 1 of each bottom and top; None where there are none to follow.
    fixed : mapping of unit to str
        Units that cannot be taken out, and why.
    """

    groups: tuple[Group, ...]
    bottoms: Mapping[str, tuple[Optional[Units], ...]]
    tops: Mapping[str, tuple[Optional[Units], ...]]
    fixed: Mapping[int, str]

    def read_by(self, name: str) -> tuple[Optional[Group], str]:
        """The group that a layer reads and alone decides on, or why there is none.

        A layer decides where nothing else reads what it reads, and all of its inputs are of one group, each channel once.
        """
        units = next(iter(self.bottoms.get(name, ())), None)
        if units is None:
            return None, "its input has no channels to follow"
        why = next((self.fixed[u] for u in units.tolist() if u in self.fixed), "")
        if why:
            return None, why
        found = [g for g in self.groups if set(g.units) & set(units.tolist())]
        if len(found) != 1:
            makers = [m for g in found for m in g.makers]
            return None, f"its inputs are those of several layers side by side ({', '.join(makers)})"
        (group,) = found
        if group.why_not:
            return None, group.why_not
        if name not in group.readers:
            return None, "it hands its channels on"
        others = [r for r in group.readers if r != name]
        if others:
            return (
                None,
                f"{' and '.join(group.makers)} {'is' if len(group.makers) == 1 else 'are'} read by {', '.join(others)} too, which would have to lose the same channels",
            )
        cut = [k for k in group.keepers if len(self.tops[k]) > 1]
        if cut:
            return None, f"layer '{cut[0]}' cuts them apart, and every part needs a channel"
        if len(np.unique(units)) < len(units):
            return None, "a channel stands in several of its inputs (a Flatten before it)"
        once = set(group.units) <= set(units.tolist())
        whole = all(len(t) == len(group.units) for m in group.makers for t in self.tops[m] if t is not None)
        if not (once and whole):
            return None, "it reads a part of what the layers before it make"
        return group, ""


class _Walk:
    def __init__(self) -> None:
        self.parent: list[int] = []
        self.blobs: dict[Made, Optional[Units]] = {}
        self.why: list[tuple[Units, str]] = []
        self.places: list[tuple[str, str, Units]] = []
        self.bottoms: dict[str, tuple[Optional[Units], ...]] = {}
        self.tops: dict[str, tuple[Optional[Units], ...]] = {}

    def new(self, number: int) -> Units:
        start = len(self.parent)
        self.parent.extend(range(start, start + number))
        return np.arange(start, start + number)

    def root(self, unit: int) -> int:
        while self.parent[unit] != unit:
            self.parent[unit] = self.parent[self.parent[unit]]
            unit = self.parent[unit]
        return unit

    def tie(self, first: Units, second: Units) -> None:
        for a, b in zip(first.tolist(), second.tolist()):
            low, high = sorted((self.root(a), self.root(b)))
            self.parent[high] = low

    def fix(self, units: Iterable[Optional[Units]], why: str) -> None:
        self.why += [(u, why) for u in units if u is not None]

    def roots(self, units: Optional[Units]) -> Optional[Units]:
        return None if units is None else np.array([self.root(u) for u in units.tolist()], dtype=np.int64)

    def fresh(self, shapes: Sequence[Shape]) -> list[Optional[Units]]:
        return [self.new(s[1]) if len(s) > 1 else None for s in shapes]


def coupling_of(
    layers: Sequence[_Layer],
    bottoms: Mapping[str, tuple[Made, ...]],
    tops: Mapping[str, tuple[Made, ...]],
    outputs: Sequence[str],
) -> Coupling:
    """Units and groups of a network, layers in order of execution.

    Parameters
    ----------
    bottoms, tops : mapping of layer to tuple of Made
        Of :class:`enc_caffe.network.Walk`.
    outputs : sequence of str
        Blobs that no layer reads.
    """
    walk = _Walk()
    for layer in layers:
        below = [walk.blobs.get(b) for b in bottoms[layer.name]]
        above = _tops(walk, layer, below)
        walk.bottoms[layer.name] = tuple(below)
        walk.tops[layer.name] = tuple(above)
        walk.blobs.update(zip(tops[layer.name], above))
    last = {name: units for (name, _), units in walk.blobs.items()}
    for name in outputs:
        walk.fix([last.get(name)], f"blob '{name}' is an output of the network")
    return _grouped(walk)


def _tops(walk: _Walk, layer: _Layer, below: list[Optional[Units]]) -> list[Optional[Units]]:
    """Units of a layer's tops; what it does with those of its bottoms is noted."""
    where = f"layer '{layer.name}' ({layer.type})"
    if brings_data(layer.type) or (not below and layer.top_shapes):
        above = walk.fresh(layer.top_shapes)
        walk.fix(above, f"{where} brings them in")
        return above
    if layer.type in ("Convolution", "InnerProduct"):
        return _weighted(walk, layer, below, where)
    if layer.type == "Silence":
        return []
    why = layer.fixed_channels or layer.keep_reason
    if not why and layer.type in KEEPS and below and below[0] is not None:
        for other in below[1:]:
            if other is not None and len(other) == len(below[0]):
                walk.tie(below[0], other)
            else:
                why = f"{where} has bottoms of different channels"
        if not why:
            walk.places.append(("keeper", layer.name, below[0]))
            return [below[0]] * len(layer.top_shapes)
    known = [u for u in below if u is not None]
    if not why and known and len(known) == len(below):
        if layer.type == "Eltwise":
            for other in known[1:]:
                walk.tie(known[0], other)
            walk.places.append(("keeper", layer.name, known[0]))
            return [known[0]]
        shape = layer.bottom_shapes[0]
        if layer.type == "Concat" and layer.top_shapes[0][2:] == shape[2:] and layer.top_shapes[0][0] == shape[0]:
            walk.places.append(("keeper", layer.name, np.concatenate(known)))
            return [np.concatenate(known)]
        if layer.type == "Slice" and all(t[0] == shape[0] and t[2:] == shape[2:] for t in layer.top_shapes):
            walk.places.append(("keeper", layer.name, known[0]))
            return list(np.split(known[0], np.cumsum([t[1] for t in layer.top_shapes])[:-1]))
        if layer.type == "Flatten" and layer.top_shapes[0] == (shape[0], count(shape[1:])):
            walk.places.append(("keeper", layer.name, known[0]))
            return [np.repeat(known[0], count(shape[2:]))]
    above = walk.fresh(layer.top_shapes)
    walk.fix([*below, *above], f"{where}: {why}" if why else f"{where} does not treat every channel by itself")
    return above


def _weighted(walk: _Walk, layer: _Layer, below: list[Optional[Units]], where: str) -> list[Optional[Units]]:
    conv, units = layer.convolution, below[0] if below else None
    why = layer.fixed_channels or layer.keep_reason
    if conv is None and layer.inner_product is None:
        why = why or "it is no plain convolution"
    if not why and conv is not None and conv.groups > 1:
        if units is not None and conv.groups == len(units) == conv.num_output:
            walk.places.append(("keeper", layer.name, units))
            return [units]
        why = f"{conv.groups} groups"
    above = walk.fresh(layer.top_shapes)
    if why:
        walk.fix([*below, *above], f"{where}: {why}")
    if units is not None:
        walk.places.append(("reader", layer.name, units))
    made = above[0]
    if made is not None:
        walk.places.append(("maker", layer.name, made))
    return above


def _grouped(walk: _Walk) -> Coupling:
    """Groups of the units that makers, keepers and readers have in common through makers."""
    places = [(role, name, np.unique(walk.roots(units))) for role, name, units in walk.places]  # type: ignore[arg-type]
    made = [(name, units) for role, name, units in places if role == "maker"]
    why: dict[int, str] = {}
    for units, words in walk.why:
        for unit in np.unique(walk.roots(units)).tolist():  # type: ignore[arg-type]
            why.setdefault(unit, words)
    # Makers whose units overlap belong together.
    owner: dict[int, int] = {}
    sets: list[set[int]] = []
    for _, units in made:
        joined = set(units.tolist())
        old = {owner[u] for u in joined if u in owner}
        for at in old:
            joined |= sets[at]
            sets[at] = set()
        sets.append(joined)
        owner.update(dict.fromkeys(joined, len(sets) - 1))
    groups = []
    for own in (s for s in sets if s):
        named: dict[str, list[str]] = {"maker": [], "keeper": [], "reader": []}
        for role, name, units in places:
            if not own.isdisjoint(units.tolist()):
                named[role].append(name)
        words = next((why[u] for u in sorted(own) if u in why), "")
        if not words and not named["reader"]:
            words = "no convolution or fully connected layer reads them"
        makers, keepers, readers = (tuple(dict.fromkeys(named[r])) for r in ("maker", "keeper", "reader"))
        groups.append(Group(tuple(sorted(own)), makers, keepers, readers, words))
    groups.sort(key=lambda g: g.units[0])
    ends = {
        side: {n: tuple(walk.roots(u) for u in own) for n, own in known.items()}
        for side, known in (("b", walk.bottoms), ("t", walk.tops))
    }
    return Coupling(tuple(groups), ends["b"], ends["t"], why)
