"""Whether a compressed network is likely to be slower than its original where 3x3 convolutions run by Winograd."""

from __future__ import annotations

from typing import Mapping

from enc_caffe.decomposition import chain_of
from enc_caffe.form import WHOLE, Form, Stage, whole_chain
from enc_caffe.network import Layer, Network
from enc_caffe.runtimes.known import RUNTIMES

#: How much less a multiplication of a 3x3 convolution of stride 1 takes by Winograd than one of a pair of halves: from so many channels
#: (the fewer of inputs and outputs) and from so many rows and columns on; measured in MNN and ncnn (docs/latency.md).
GAINS = ((16, 12, 1.7), (16, 24, 1.9), (64, 24, 2.8))


def gain(stage: Stage, inputs: int, side: int) -> float:
    """What Winograd saves in one layer of a chain; 1 where it does not run by it, or where its weights are most of the work."""
    conv = stage.convolution
    if conv is None or conv.kernel != (3, 3) or conv.stride != (1, 1) or conv.dilation != (1, 1) or conv.groups != 1:
        return 1.0
    channels = min(inputs, conv.num_output)
    return max((g for least, size, g in GAINS if channels >= least and side >= size), default=1.0)


def effort(layer: Layer, form: Form, placement: str = "exact") -> float:
    """Multiplications of a layer in a form, those by Winograd counted as what they cost."""
    chain = whole_chain(layer) if form == WHOLE else chain_of(layer, form, placement)
    if layer.convolution is None:
        return float(chain.macs(layer))
    return sum(
        stage.parameters(inputs) * height * width / gain(stage, inputs, min(height, width))
        for (stage, inputs), (height, width) in zip(chain.inputs(layer), chain.outputs(layer))
    )


def winograd_ratio(network: Network, forms: Mapping[str, Form], placement: str = "exact") -> float:
    """Time of a compressed network over the original's in a runtime with Winograd, by a rule of thumb."""
    before = sum(effort(x, WHOLE, placement) for x in network.weighted)
    return sum(effort(x, forms.get(x.name, WHOLE), placement) for x in network.weighted) / before if before else 1.0


def slower(network: Network, forms: Mapping[str, Form], placement: str = "exact") -> list[str]:
    """A line that a person should read where the compressed network is likely to be slower; else none."""
    ratio = winograd_ratio(network, forms, placement)
    if ratio <= 1.0:
        return []
    worse = [n for n, f in forms.items() if effort(network[n], f, placement) > effort(network[n], WHOLE, placement)]
    names = ", ".join(r.name for r in RUNTIMES.values() if r.winograd)
    return [
        f"likely slower than the original in {names} (about {ratio:.2f} of its time): they run 3x3 convolutions by Winograd, and the forms of "
        f"{len(worse)} layer{'s' if len(worse) > 1 else ''} not ('{worse[0]}' first). Measure with enc-caffe latency --runtime, and give --latency and "
        "--target_latency, or --schemes channel"
    ]
