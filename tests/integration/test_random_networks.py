"""Random legal networks, random plans and random inputs, in real Caffe.

``ENC_CAFFE_EXAMPLES`` sets the number of networks.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import read_net, verbatim_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import scheme_for
from enc_caffe.decomposition import schemes as known_schemes
from enc_caffe.form import Form
from enc_caffe.network import Network
from enc_caffe.workers.executor import CaffeExecutor

pytestmark = pytest.mark.caffe
EXAMPLES = int(os.environ.get("ENC_CAFFE_EXAMPLES", "60"))
Blobs = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def caffe():
    """One process for all networks of this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


@dataclass(frozen=True)
class Drawn:
    """A random network: its prototxt, the size of its input, and where its ranks and numbers come from."""

    text: str
    shape: tuple[int, ...]
    seed: int


@dataclass
class Builder:
    """Layers drawn one after another; a blob is its name, its channels, its height and its width."""

    draw: Any
    text: str = ""
    number: int = 0

    def add(self, kind: str, bottoms: list[str], param: str = "", top: str = "") -> str:
        """A layer with a new name, and its top."""
        self.number += 1
        name = f"{kind.lower()}{self.number}"
        lines = " ".join(f'bottom: "{b}"' for b in bottoms)
        self.text += f'layer {{ name: "{name}" type: "{kind}" {lines} top: "{top or name}" {param} }}\n'
        return top or name

    def convolution(
        self, blob: tuple[str, int, int, int], outputs: int = 0, same: bool = False
    ) -> tuple[str, int, int, int]:
        """A convolution that fits; ``same``: its output has the size of its input."""
        bottom, channels, height, width = blob
        pick = lambda values: self.draw(st.sampled_from(values))  # noqa: E731
        groups = pick([g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0 and (not outputs or outputs % g == 0)])
        outputs = outputs or groups * pick([1, 2, 3, 4] if groups < 4 else [1, 2])
        fields, out = {}, []
        for axis, size in (("h", height), ("w", width)):
            kernel, dilation = pick([1, 2, 3, 3, 5]), pick([1, 1, 2])
            stride = 1 if same else pick([1, 1, 2, 3])
            if same and kernel % 2 == 0:
                kernel += 1
            span = dilation * (kernel - 1) + 1
            pad = span // 2 if same else pick([0, 1, 2])
            if size + 2 * pad < span:
                kernel, span = 1, 1
            fields[axis] = (kernel, stride, pad, dilation)
            out.append((size + 2 * pad - span) // stride + 1)
        (kh, sh, ph, dh), (kw, sw, pw, dw) = fields["h"], fields["w"]
        param = f"num_output: {outputs} bias_term: {str(self.draw(st.booleans())).lower()}"
        square = kh == kw and sh == sw and ph == pw and dh == dw and self.draw(st.booleans())
        param += (
            f" kernel_size: {kh} stride: {sh} pad: {ph} dilation: {dh}" if square
            else f" kernel_h: {kh} kernel_w: {kw} stride_h: {sh} stride_w: {sw} pad_h: {ph} pad_w: {pw} dilation: {dh} dilation: {dw}"
        )  # fmt: skip
        top = self.add(
            "Convolution", [bottom], f"convolution_param {{ {param}{f' group: {groups}' if groups > 1 else ''} }}"
        )
        return top, outputs, out[0], out[1]

    def between(self, blob: tuple[str, int, int, int]) -> tuple[str, int, int, int]:
        """Nothing, or layers that keep the size: normalisation and activations, in place or not."""
        name, *size = blob
        for kind, param in (
            ("BatchNorm", ""),
            ("Scale", "scale_param { bias_term: true }"),
            ("ReLU", ""),
            ("PReLU", ""),
            ("TanH", ""),
        ):
            if self.draw(st.integers(0, 3)) == 0:
                name = self.add(kind, [name], param, name if self.draw(st.booleans()) and name != "data" else "")
        return (name, *size)  # type: ignore[return-value]

    def block(self, blob: tuple[str, int, int, int]) -> tuple[str, int, int, int]:
        """A chain, a residual, branches that are put together, or pooling."""
        kind = self.draw(st.sampled_from(["chain", "chain", "residual", "branches", "pool"]))
        if kind == "chain":
            return self.between(self.convolution(blob))
        if kind == "pool":
            name = self.add("Pooling", [blob[0]], "pooling_param { kernel_size: 3 stride: 1 pad: 1 }")
            return (name, *blob[1:])
        inner = self.between(self.convolution(blob, same=True))
        if kind == "residual":
            last = self.convolution(inner, blob[1], same=True)
            return (self.add("Eltwise", [blob[0], last[0]]), *blob[1:])
        other = self.convolution(blob, same=True)
        return (self.add("Concat", [inner[0], other[0]]), inner[1] + other[1], *blob[2:])


@st.composite
def networks(draw: Any) -> Drawn:
    """Legal networks of one input."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(6, 12)), draw(st.integers(6, 12)))
    build = Builder(draw)
    dims = " ".join(f"dim: {d}" for d in shape)
    build.text = (
        f'name: "random"\nlayer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}\n'
    )
    blob = ("data", *shape[1:])
    for _ in range(draw(st.integers(1, 4))):
        blob = build.block(blob)
    if draw(st.booleans()):
        axis = draw(st.sampled_from([1, 1, 2]))
        more = (
            f"axis: {axis} bias_term: {str(draw(st.booleans())).lower()} transpose: {str(draw(st.booleans())).lower()}"
        )
        build.add("InnerProduct", [blob[0]], f"inner_product_param {{ num_output: {draw(st.integers(2, 9))} {more} }}")
    return Drawn(build.text, shape, draw(st.integers(0, 2**31)))


def run(
    text: str, weights: str, data: np.ndarray
) -> tuple[Blobs, dict[str, list[tuple[int, ...]]], dict[str, tuple[int, ...]]]:
    """Outputs, shapes of the weights by layer, and shapes of all tops by layer (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(text, weights)
    net.blobs["data"].data[...] = data
    net.forward()
    shapes = {name: [tuple(b.data.shape) for b in blobs] for name, blobs in net.params.items()}
    tops = {
        name: tuple(net.blobs[net.top_names[name][0]].data.shape) for name in net._layer_names if net.top_names[name]
    }
    return {name: np.array(net.blobs[name].data) for name in net.outputs}, shapes, tops


def save_random(text: str, path: str, seed: int) -> None:
    """Random weights of the shapes that Caffe makes, saved by Caffe (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net, rng = load_net(text, None), np.random.default_rng(seed)
    for name, blobs in net.params.items():
        for i, blob in enumerate(blobs):
            shape = blob.data.shape
            scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            blob.data[...] = rng.standard_normal(shape) * scale
            if name.startswith("scale"):
                blob.data[...] = rng.uniform(0.5, 1.5, shape)
            if name.startswith("batchnorm"):
                blob.data[...] = (rng.normal(0, 0.1, shape), rng.uniform(0.5, 2, shape), np.ones(shape))[i]
    net.save(path)


def counted(shapes: dict[str, list[tuple[int, ...]]], tops: dict[str, tuple[int, ...]]) -> tuple[int, int]:
    """MACs of one image and weights, from what Caffe holds: every weight is used at every position of its layer's output."""
    macs = weights = 0
    for name, blobs in shapes.items():
        if name.startswith(("convolution", "innerproduct")):
            size = int(np.prod(blobs[0]))
            positions = tops[name][2:] if name.startswith("convolution") else tops[name][1:-1]
            weights += size
            macs += size * int(np.prod(positions, dtype=int))
    return macs, weights


class Emitted:
    """A network with random weights, and what its plans make of it."""

    def __init__(self, caffe: CaffeExecutor, folder: Path, drawn: Drawn) -> None:
        self.caffe, self.folder, self.drawn = caffe, folder, drawn
        (folder / "net.prototxt").write_text(drawn.text)
        self.net = read_net(folder / "net.prototxt")
        self.network: Network = describe(self.net)
        self.weights = folder / "net.caffemodel"
        caffe.result(caffe.submit(save_random, drawn.text, str(self.weights), drawn.seed))
        self.model = CaffeModel(self.weights)
        self.data = np.random.default_rng(drawn.seed + 1).standard_normal(drawn.shape).astype(np.float32)
        self.wanted = self.outputs(drawn.text, self.weights)[0]

    def outputs(self, text: str, weights: Path) -> Any:
        """What Caffe computes and holds."""
        return self.caffe.result(self.caffe.submit(run, text, str(weights), self.data))

    def emitted(self, forms: dict[str, Form]) -> tuple[Blobs, Any, Any]:
        """Outputs and shapes of the emitted deploy network, whose weights are all in the emitted caffemodel."""
        compressed = replace_layers(self.net, self.network, forms)
        small = self.folder / "small.caffemodel"
        write_compressed(small, self.model, self.network, forms)
        text = verbatim_text(deploy_net(compressed, describe(compressed)))
        found = self.outputs(text, small)
        stored = {layer.name: [b.shape for b in layer.blobs] for layer in CaffeModel(small)}
        assert {name: stored.get(name) for name in found[1]} == found[1]
        return found

    def cut(self, forms: dict[str, Form]) -> Blobs:
        """Outputs of the original network with truncated weights in their place."""
        path, records = self.folder / "cut.caffemodel", []
        for stored in self.model:
            if stored.name not in forms:
                records.append(self.model.record(stored))
                continue
            layer = self.network[stored.name]
            weight, *bias = self.model.weights(layer)
            form = forms[layer.name]
            product = scheme_for(form.scheme).truncated(layer, weight, form)
            records.append(layer_record(layer.name, layer.type, [product, *bias]))
        with open(path, "wb") as handle:
            write_caffemodel(handle, "cut", records)
        return self.outputs(self.drawn.text, path)[0]


def assert_equal(got: Blobs, wanted: Blobs) -> None:
    """The same outputs, to 1e-4 of their largest value."""
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].shape == value.shape
        assert np.abs(got[name] - value).max() <= 1e-4 * np.abs(value).max() + 1e-7, name


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), print_blob=True
)
@given(drawn=networks(), data=st.data())
def test_random_networks(
    caffe: CaffeExecutor, tmp_path_factory: pytest.TempPathFactory, drawn: Drawn, data: st.DataObject
) -> None:
    made = Emitted(caffe, tmp_path_factory.mktemp("net"), drawn)
    # Every layer in a scheme that takes it; a depthwise one is in none.
    able = {x.name: [s for s in known_schemes().values() if not s.refuses(x)] for x in made.network.weighted}
    schemes = {name: data.draw(st.sampled_from(own)) for name, own in able.items() if own}
    limits = {name: scheme.limits(made.network[name]) for name, scheme in schemes.items()}
    full, _, _ = made.emitted({name: Form(s.name, limits[name]) for name, s in schemes.items()})
    assert_equal(full, made.wanted)
    chosen = {name: s for name, s in schemes.items() if data.draw(st.booleans())}
    forms = {
        name: Form(s.name, tuple(data.draw(st.integers(1, n)) for n in limits[name])) for name, s in chosen.items()
    }
    got, shapes, tops = made.emitted(forms)
    assert_equal(got, made.cut(forms))
    cost = network_complexity(made.network, forms)
    assert (cost.macs, cost.parameters, cost.convention, cost.counted) == (*counted(shapes, tops), "exact", "all")
