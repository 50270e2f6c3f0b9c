"""What a person should know of a network that stock Caffe does not wholly have: types, fields, and shapes that are not known."""

from __future__ import annotations

import difflib
from typing import Any

from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.caffe_io.verbatim import foreign_of
from enc_caffe.network import Layer, Network
from enc_caffe.shapes import FORK_RULES, UNKNOWN

#: Names that a line lists at most.
_MOST = 4


def notices(net: Any, network: Network, source: str) -> list[str]:
    """A line for each foreign layer type, one for all foreign fields, and one for what stays whole behind unknown shapes."""
    return [f"{source}: {line}" for line in (*_types(network), *_fields(net), *_shapes(network))]


def _types(network: Network) -> list[str]:
    found: dict[str, list[Layer]] = {}
    for layer in network.layers:
        if layer.type not in caffe_types():
            found.setdefault(layer.type, []).append(layer)
    known = {kind.lower(): kind for kind in caffe_types()}
    lines = []
    for kind, layers in found.items():
        near = [] if kind in FORK_RULES else difflib.get_close_matches(kind.lower(), sorted(known), 1, 0.75)
        meant = f" (did you mean {known[near[0]]}?)" if near else ""
        who = f"layer '{layers[0].name}'" if len(layers) == 1 else f"layers {_listed([x.name for x in layers])}"
        what = "it is carried through as it stands" if len(layers) == 1 else "they are carried through as they stand"
        lines.append(f"{who}: Caffe has no type '{kind}'{meant}; {what}")
    return lines


def _fields(net: Any) -> list[str]:
    users: dict[str, list[str]] = {}
    followed = set()
    for message in (net, *net.layer):
        for field in foreign_of(message):
            users.setdefault(field.words, []).append(message.name)
            followed.update([field.words] if field.followed else [])
    if not users:
        return []
    lost = [words for words in users if words.startswith("layers.")]
    parts = [words + (f" ({len(names)} layers)" if len(names) > 1 else "") for words, names in users.items()]
    line = f"Caffe has no field {_listed(parts)}; kept as written where the layer is"
    if lost:
        line = f"Caffe has no field {_listed(parts)}; left out, since its layers have an old format that is brought up to date"
    if followed:
        line += f" (sizes follow {_listed(sorted(followed))})"
    return [line]


def _shapes(network: Network) -> list[str]:
    behind = [x for x in network.layers if x.type in ("Convolution", "InnerProduct") and UNKNOWN in x.bottom_shapes]
    if not behind:
        return []
    first = [
        top
        for x in network.layers if UNKNOWN not in x.bottom_shapes
        for top, shape in zip(x.tops, x.top_shapes) if shape == UNKNOWN
    ]  # fmt: skip
    who = f"{len(behind)} layers stay" if len(behind) > 1 else "1 layer stays"
    flags = " ".join(f"--top_shape {top}=N,..." for top in first[:_MOST])
    return [
        f"{who} whole ({_listed([x.name for x in behind])}), since nothing says how large {_listed(first)} is; {flags} does"
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
