"""The networks of ``make bench``: original and compressed, for inference and for training, with random weights.

Times do not depend on weights, so forms are chosen without any: each layer keeps the same part of its r_max, in the spatial scheme
where its kernel has two axes and in the channel scheme where it is 1x1.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from bench_conv import PROTOTXT, mobilenet

from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.fold import fold
from enc_caffe.caffe_io.prototxt import from_text, to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition.policy import parse_schemes
from enc_caffe.form import WHOLE, Form
from enc_caffe.pipeline.loading import LoadedNetwork, load

#: Parts of the MACs; 1: the original.
PARTS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Subject:
    """A network as it is measured.

    Attributes
    ----------
    name : str
    part : float
        Of the original's MACs, as asked for.
    macs : int
        Of one image, all layers.
    text : str
        A prototxt whose input and labels come from Input layers.
    backward : bool
        Whether a pass goes back as well; the prototxt then ends in a loss, and BatchNorm normalises by the batch.
    batch : int
    """

    name: str
    part: float
    macs: int
    text: str
    backward: bool
    batch: int

    @property
    def key(self) -> str:
        """What tells it from the others."""
        return f"{self.name} {self.part:g} {'training' if self.backward else 'forward'} batch {self.batch}"


def _classifier(text: str) -> str:
    """MobileNet's layers with its classifier behind them."""
    last = text.rsplit('top: "', 1)[1].split('"')[0]
    return text + (
        f'layer {{ name: "pool" type: "Pooling" bottom: "{last}" top: "pool" pooling_param {{ pool: AVE global_pooling: true }} }}\n'
        'layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 1000 } }\n'
        'layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }\n'
    )


def squeezenet() -> str:
    """The layers of SqueezeNet v1.1 at 227 x 227."""
    text = 'name: "SqueezeNet v1.1" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 227 dim: 227 } } }\n'

    def conv(name: str, bottom: str, out: int, more: str) -> str:
        nonlocal text
        text += (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ num_output: {out} {more} }} }}\n'
            f'layer {{ name: "{name}_relu" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
        )
        return name

    def pool(name: str, bottom: str, how: str) -> str:
        nonlocal text
        text += (
            f'layer {{ name: "{name}" type: "Pooling" bottom: "{bottom}" top: "{name}" pooling_param {{ {how} }} }}\n'
        )
        return name

    last = pool("pool1", conv("conv1", "data", 64, "kernel_size: 3 stride: 2"), "kernel_size: 3 stride: 2")
    for at, squeeze in enumerate((16, 16, 32, 32, 48, 48, 64, 64), 2):
        inner = conv(f"fire{at}/squeeze1x1", last, squeeze, "kernel_size: 1")
        one = conv(f"fire{at}/expand1x1", inner, 4 * squeeze, "kernel_size: 1")
        three = conv(f"fire{at}/expand3x3", inner, 4 * squeeze, "kernel_size: 3 pad: 1")
        last = f"fire{at}/concat"
        text += f'layer {{ name: "{last}" type: "Concat" bottom: "{one}" bottom: "{three}" top: "{last}" }}\n'
        if at in (3, 5):
            last = pool(f"pool{at}", last, "kernel_size: 3 stride: 2")
    last = pool("pool10", conv("conv10", last, 1000, "kernel_size: 1"), "pool: AVE global_pooling: true")
    return text + f'layer {{ name: "prob" type: "Softmax" bottom: "{last}" top: "prob" }}\n'


def sources(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Prototxt, and the batch of a forward and of a training pass, by name; ``folder`` takes those that are made here."""
    own = {"mobilenet": _classifier(mobilenet()), "squeezenet": squeezenet()}
    for name, text in own.items():
        (folder / f"{name}.prototxt").write_text(text)
    return {
        "ResNet-56": (PROTOTXT / "resnet56" / "deploy.prototxt", 50, 100),
        "AlexNet": (PROTOTXT / "alexnet" / "deploy.prototxt", 8, 16),
        "VGG-16": (PROTOTXT / "vgg16" / "deploy.prototxt", 2, 2),
        "SqueezeNet v1.1": (folder / "squeezenet.prototxt", 8, 8),
        "MobileNet's shape": (folder / "mobilenet.prototxt", 4, 4),
    }


def forms_at(loaded: LoadedNetwork, part: float) -> Optional[dict[str, Form]]:
    """One form a layer, so that all layers together have at most this part of the MACs; None: not even at rank 1."""
    network, chosen = loaded.network, {}
    for name, names in loaded.policy.schemes.items():
        scheme = scheme_for("spatial" if "spatial" in names else "channel")
        chosen[name] = (scheme.name, scheme.max_rank(network[name]))
    whole = network_complexity(network, {}).macs

    def at(scale: float) -> dict[str, Form]:
        return {
            n: Form(s, (max(1, int(scale * highest)),)) if scale < 1 else WHOLE for n, (s, highest) in chosen.items()
        }

    low, high = 0.0, 1.0
    if network_complexity(network, at(low)).macs > part * whole:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if network_complexity(network, at(middle)).macs <= part * whole else (low, middle)
    return at(low)


def subjects(name: str, path: Path, batches: tuple[int, int], folder: Path) -> tuple[list[Subject], list[str]]:
    """A network in all its forms and passes, and a line for each that cannot be had."""
    loaded = load(path, schemes=parse_schemes("spatial,channel"))
    found, missing = [], []
    for part in PARTS:
        forms = forms_at(loaded, part) if part < 1 else {}
        if forms is None:
            missing.append(f"{name}: no ranks give {part:g} of its MACs")
            continue
        forms = {n: f for n, f in forms.items() if f != WHOLE}
        macs = network_complexity(loaded.network, forms).macs
        net = replace_layers(loaded.net, loaded.network, forms)
        for backward, batch in zip((False, True), batches):
            text = training(net) if backward else inference(net, folder)
            found.append(Subject(name, part, macs, text, backward, batch))
    return found, missing


def inference(net: Any, folder: Path) -> str:
    """For forward passes, BatchNorm folded into the convolutions, as the toolkit measures networks."""
    with tempfile.NamedTemporaryFile("w", suffix=".prototxt", dir=folder) as file:
        file.write(to_text(net))
        file.flush()
        network = load(Path(file.name)).network
    return str(to_text(fold(deploy_net(net, network, 1))[0]))


def training(net: Any) -> str:
    """For forward and backward passes: its Softmax becomes a loss, with labels from an Input layer."""
    out = from_text(to_text(net))
    last = out.layer[-1]
    if last.type != "Softmax":
        raise ValueError(f"the last layer is {last.type} '{last.name}'; Softmax is needed")
    last.type = "SoftmaxWithLoss"
    last.bottom.append("label")
    label = out.layer.add(name="label", type="Input", top=["label"])
    label.input_param.shape.add(dim=[1])
    layers = [out.layer[-1], *out.layer[:-1]]
    made = type(out)()
    made.name = out.name
    for layer in layers:
        made.layer.add().CopyFrom(layer)
    return str(to_text(made))
