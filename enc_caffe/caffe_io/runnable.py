"""The part of a network that stock Caffe can run, where a fork's layers end it: what they would read becomes its output.

Layers of types that Caffe does not have, and all behind them, are left out. The blobs that they read, and those that nothing
reads, are flattened and put together into one, since a measurement compares one blob with the original's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from enc_caffe.caffe_io.describe import reads_data, selected
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.caffe_io.variants import silenced
from enc_caffe.errors import NetworkError
from enc_caffe.network import Network
from enc_caffe.shapes import UNKNOWN, count

#: In the names of what is added.
OUTPUT = "enc_caffe_outputs"
#: Values of all outputs of an image at most; of larger ones means over 2x2, 3x3 ... places are compared.
VALUES = 100_000
#: Layers of forks that ask a bottom for its size alone: its values are no output.
SIZES_ONLY = frozenset({"PriorBox", "DensePriorBox", "PriorVBox"})
#: Outputs that are named in a line at most.
NAMED = 4


@dataclass(frozen=True)
class Runnable:
    """A network that stock Caffe runs: the whole one, or what stands before the layers that it does not have.

    Attributes
    ----------
    net : NetParameter
    words : str
        Where it was cut and what is compared, for a person; empty where it is whole.
    missing : frozenset of str
        Layers that were left out.
    """

    net: Any
    words: str = ""
    missing: frozenset[str] = frozenset()


def runnable(net: Any, network: Network, source: str) -> Runnable:
    """What stock Caffe can run of a network's TEST phase.

    Parameters
    ----------
    network : Network
        Its description.

    Raises
    ------
    NetworkError
        If nothing with weights can be run.
    """
    layers = selected(net)
    first = next((p for p in layers if not _runs(p)), None)
    if first is None:
        return Runnable(net)
    kept, gone = _split(layers)
    outputs = _outputs(kept, gone)
    if not any(network[p.name].has_weights for p in kept) or not outputs:
        raise NetworkError(
            f"{source}: layer '{first.name}': Caffe has no type '{first.type}' and cannot run anything with weights before it; "
            "searching by PCA energy and emitting need no run"
        )
    out, named = part_of(net, kept, outputs, network)
    words = (
        f"{source}: Caffe has no type '{first.type}' (layer '{first.name}'): the network is run up to there, and its "
        f"output{'s' if len(outputs) > 1 else ''} {named} compared; the {len(gone)} layers left out are carried through"
    )
    return Runnable(out, words, frozenset(p.name for p in gone))


def _runs(param: Any) -> bool:
    """Whether stock Caffe runs a layer; a data layer of whatever type gives way to the images that are measured on."""
    return param.type in caffe_types() or reads_data(param)


def part_of(net: Any, kept: list[Any], outputs: list[str], network: Network) -> tuple[Any, str]:
    """These layers of a network as one with all its outputs in one blob, and the outputs' names in words."""
    out = type(net)(name=net.name)
    if net.HasField("state"):
        out.state.CopyFrom(net.state)
    for param in kept:
        out.layer.add().CopyFrom(param)
    put_together(out, outputs, network, kept)
    named = ", ".join(outputs[:NAMED]) + (f" and {len(outputs) - NAMED} more" if len(outputs) > NAMED else "")
    return out, named


def outputs_of(layers: list[Any]) -> tuple[list[Any], list[str]]:
    """Layers that can be run, without those that only train or count, and the blobs that none of them reads."""
    kept, gone = _split(layers)
    return kept, _outputs(kept, gone)


def _split(layers: list[Any]) -> tuple[list[Any], list[Any]]:
    """Layers that can be run, and those that cannot or read what those make; losses and accuracies are among neither.

    A Silence stays: what it reads is no output.
    """
    kept: list[Any] = []
    gone: list[Any] = []
    lost: set[str] = set()
    for param in layers:
        if param.type.endswith("Loss") or param.type == "Accuracy":
            continue
        if param.type == "Silence":
            kept += silenced([param], lost)
            continue
        if not _runs(param) or lost & set(param.bottom):
            gone.append(param)
            lost |= set(param.top)
        else:
            kept.append(param)
            lost -= set(param.top)
    read = {b for p in kept for b in p.bottom}
    # Scores are compared before the softmax, like any output.
    return [p for p in kept if p.type != "Softmax" or p.top[0] in read - set(p.bottom)], gone


def _outputs(kept: list[Any], gone: list[Any]) -> list[str]:
    """Blobs that the layers left out would read, or that nothing reads."""
    made = {t: None for p in kept if not reads_data(p) and p.type != "Input" for t in p.top}
    read = {b for p in kept for b in p.bottom if b not in p.top}
    wanted = {b for p in gone if p.type not in SIZES_ONLY for b in p.bottom}
    return [blob for blob in made if blob in wanted or blob not in read]


def put_together(out: Any, outputs: list[str], network: Network, kept: list[Any]) -> None:
    """Add layers that make one blob of the outputs, with no more than :data:`VALUES` values of an image."""
    shapes = {t: s for p in kept for t, s in zip(network[p.name].tops, network[p.name].top_shapes)}
    sizes = [count(shapes[b][1:]) for b in outputs if shapes[b] != UNKNOWN]
    step = max(1, math.ceil(math.sqrt(sum(sizes) / VALUES)))
    flat = []
    for number, blob in enumerate(outputs):
        bottom, shape = blob, shapes[blob]
        if step > 1 and len(shape) == 4 and max(shape[2:]) > 1:
            bottom = f"{OUTPUT}_part{number}"
            layer = out.layer.add(name=bottom, type="Pooling", bottom=[blob], top=[bottom])
            layer.pooling_param.pool = layer.pooling_param.AVE
            layer.pooling_param.kernel_size = layer.pooling_param.stride = min(step, *shape[2:])
        top = f"{OUTPUT}_{number}"
        out.layer.add(name=top, type="Flatten", bottom=[bottom], top=[top])
        flat.append(top)
    out.layer.add(name=OUTPUT, type="Concat", bottom=flat, top=[OUTPUT])
