"""What a person should know of a network that stock Caffe does not wholly have: types, fields, and shapes that are not known."""

from __future__ import annotations

import difflib
from typing import Any

from enc_caffe.caffe_io.describe import in_phase
from enc_caffe.caffe_io.own_phase import training_lines
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.caffe_io.verbatim import foreign_of
from enc_caffe.network import Layer, Network
from enc_caffe.shapes import DATA_TYPES, FORK_RULES, UNKNOWN

#: Types of forks whose tops nothing says, and which are no slips of the pen for the stock types that they sound like.
_FORKS_OWN = frozenset(
    {"SegAccuracy", "DetectionOutput", "DetectionEvaluate", "MultiBoxLoss", "SmoothL1Loss", "CenterLoss", "CtcLoss", "WarpCTCLoss", "Lstm",
     "ReverseLstm", "Region", "RegionOutput", "YoloDetectionOutput", "Correlation", "MatMul", "Local", "Unpooling", "DataTransform"}
)  # fmt: skip
#: Names that a line lists at most.
_MOST = 4


def notices(net: Any, network: Network, source: str) -> list[str]:
    """A line for each foreign layer type, one for all foreign fields, one for what stays whole behind unknown shapes, one for
    an input whose size can only stand for another, and those on layers that go on in tests as in training."""
    small = stand_in(network)
    return [
        f"{source}: {line}"
        for line in (
            *_types(network),
            *_fields(net),
            *_shapes(network),
            *([small] if small else []),
            *training_lines(net),
        )
    ]


def batch_statistics(net: Any) -> list[str]:
    """A line for the first BatchNorm that normalises by the images that it is given together, in the TEST phase too."""
    return [
        f"layer '{p.name}' takes the batch's own statistics (use_global_stats: false): numbers depend on how many images a pass has"
        for p in net.layer
        if p.type == "BatchNorm" and in_phase(p, "TEST") and p.batch_norm_param.HasField("use_global_stats")
        and not p.batch_norm_param.use_global_stats
    ][:1]  # fmt: skip


def stand_in(network: Network) -> str:
    """That an input is smaller than the kernel that reads it, as in files whose size is set when they run; else empty."""
    for layer in network.layers:
        reads_images = layer.convolution is not None and layer.bottoms[0] in network.inputs
        if reads_images and any(size < kernel for size, kernel in zip(layer.input, layer.kernel)):
            size, kernel = ("x".join(map(str, pair)) for pair in (layer.input, layer.kernel))
            return (
                f"input '{layer.bottoms[0]}' is {size}, smaller than the kernel {kernel} of layer '{layer.name}': MACs are of that size; "
                "--input_shape C,H,W says the one that the network is run with"
            )
    return ""


def _types(network: Network) -> list[str]:
    found: dict[str, list[Layer]] = {}
    for layer in network.layers:
        if layer.type not in caffe_types():
            found.setdefault(layer.type, []).append(layer)
    known = {kind.lower(): kind for kind in caffe_types()}
    lines = []
    for kind, layers in found.items():
        near = (
            []
            if kind in FORK_RULES or kind in DATA_TYPES or kind in _FORKS_OWN
            else difflib.get_close_matches(kind.lower(), sorted(known), 1, 0.75)
        )
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
    who, are = (f"{len(behind)} layers stay", "are") if len(behind) > 1 else ("1 layer stays", "is")
    flags = " ".join(f"--top_shape {top}=N,..." for top in first[:_MOST])
    return [
        f"{who} whole ({_listed([x.name for x in behind])}) and {are} in no count of MACs, since nothing says how large {_listed(first)} "
        f"{'is' if len(first) == 1 else 'are'}; {flags} {'does' if len(first) == 1 else 'do'}"
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more
