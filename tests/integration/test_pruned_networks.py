"""Random coupled networks with channels taken out, against the same networks with those channels at 0, in pycaffe and in OpenCV.

``ENC_CAFFE_PRUNED`` sets the number of networks.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import narrow_of, replace_layers, write_compressed
from enc_caffe.caffe_io.narrow import Narrow
from enc_caffe.caffe_io.prototxt import read_net, verbatim_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import pruning, scheme_for, schemes
from enc_caffe.decomposition.prune import narrowed
from enc_caffe.form import Form
from enc_caffe.network import Network
from enc_caffe.workers.executor import CaffeExecutor
from tests.integration.test_random_networks import assert_equal, counted, run, save_random

pytestmark = pytest.mark.caffe
NETWORKS = int(os.environ.get("ENC_CAFFE_PRUNED", "60"))


@pytest.fixture(scope="module")
def caffe():
    """One process for all networks of this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


class Builder:
    """A network drawn layer by layer; a blob is its name and its channels, all of 8 x 8 until the end."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.number = rng, 0
        self.text = 'name: "coupled"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'

    def add(self, kind: str, bottoms: list[str], param: str = "", tops: int = 1, inside: bool = False) -> list[str]:
        self.number += 1
        name = f"{kind.lower()}{self.number}"
        made = [bottoms[0]] if inside else [name] if tops == 1 else [f"{name}_{i}" for i in range(tops)]
        ends = " ".join([*(f'bottom: "{b}"' for b in bottoms), *(f'top: "{t}"' for t in made)])
        self.text += f'layer {{ name: "{name}" type: "{kind}" {ends} {param} }}\n'
        return made

    def convolution(self, blob: tuple[str, int], outputs: int, groups: int = 1) -> tuple[str, int]:
        kernel = int(self.rng.choice([1, 3]))
        more = f"group: {groups}" if groups > 1 else ""
        bias = str(bool(self.rng.random() < 0.5)).lower()
        param = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {kernel // 2} bias_term: {bias} {more} }}"
        return self.add("Convolution", [blob[0]], param)[0], outputs

    def between(self, blob: tuple[str, int]) -> tuple[str, int]:
        name = blob[0]
        for kind, param in (
            ("BatchNorm", ""), ("Scale", "scale_param { bias_term: true }"), ("ReLU", ""), ("PReLU", ""), ("Dropout", ""),
            ("TanH", ""),
        ):  # fmt: skip
            if self.rng.random() < 0.35:
                (name,) = self.add(kind, [name], param, inside=bool(self.rng.random() < 0.5))
        return name, blob[1]

    def depthwise(self, blob: tuple[str, int]) -> tuple[str, int]:
        return self.between(self.convolution(blob, blob[1], blob[1]))

    def block(self, blob: tuple[str, int]) -> tuple[str, int]:
        kind, width = (
            self.rng.choice(["chain", "residual", "concat", "depthwise", "slice", "pool"]),
            int(self.rng.integers(2, 7)),
        )
        if kind == "chain":
            return self.between(self.convolution(blob, width))
        if kind == "pool":
            return self.add("Pooling", [blob[0]], "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }")[
                0
            ], blob[1]
        if kind == "depthwise":
            return self.convolution(self.depthwise(self.between(self.convolution(blob, width))), width)
        if kind == "residual":
            short = blob if self.rng.random() < 0.6 else self.convolution(blob, blob[1])
            last = self.convolution(self.between(self.convolution(blob, width)), blob[1])
            return self.between((self.add("Eltwise", [short[0], last[0]])[0], blob[1]))
        if kind == "concat":
            parts = [self.between(self.convolution(blob, int(n))) for n in self.rng.integers(2, 5, 2)]
            return self.add("Concat", [p[0] for p in parts])[0], sum(p[1] for p in parts)
        wide = self.convolution(blob, 2 * width)
        left, right = self.add("Slice", [wide[0]], f"slice_param {{ slice_point: {width - 1} }}", 2)
        parts = [self.between((left, width - 1)), self.between((right, width + 1))]
        return self.add("Concat", [p[0] for p in parts])[0], 2 * width

    def end(self, blob: tuple[str, int]) -> None:
        """A fully connected layer after a map, or after a flattened one, perhaps behind another one; or none."""
        if self.rng.random() < 0.3:
            return
        if self.rng.random() < 0.5:
            self.add("Pooling", [blob[0]], "pooling_param { pool: AVE kernel_size: 4 stride: 4 }")
            blob = f"pooling{self.number}", blob[1]
        if self.rng.random() < 0.3:
            blob = self.add("Flatten", [blob[0]])[0], blob[1]
        for outputs in (7, 4) if self.rng.random() < 0.5 else (4,):
            blob = self.add("InnerProduct", [blob[0]], f"inner_product_param {{ num_output: {outputs} }}")[0], outputs


def drawn(seed: int) -> str:
    build = Builder(np.random.default_rng(seed))
    blob = build.convolution(("data", 3), int(build.rng.integers(2, 7)))
    for _ in range(int(build.rng.integers(1, 5))):
        blob = build.block(blob)
    build.end(blob)
    return build.text


class Coupled:
    """A random network with random weights."""

    def __init__(self, caffe: CaffeExecutor, folder: Path, seed: int) -> None:
        self.caffe, self.folder, self.text = caffe, folder, drawn(seed)
        self.rng = np.random.default_rng([seed, 1])
        (folder / "net.prototxt").write_text(self.text)
        self.net = read_net(folder / "net.prototxt")
        self.network: Network = describe(self.net)
        self.weights = folder / "net.caffemodel"
        caffe.result(caffe.submit(save_random, self.text, str(self.weights), seed))
        self.model = CaffeModel(self.weights)
        self.data = self.rng.standard_normal((2, 3, 8, 8)).astype(np.float32)

    def outputs(self, text: str, weights: Path) -> Any:
        return self.caffe.result(self.caffe.submit(run, text, str(weights), self.data))

    def by_opencv(self, text: str, weights: Path) -> np.ndarray:
        """The one output by OpenCV's own importer, which calls it by its last layer."""
        (self.folder / "cv.prototxt").write_text(text)
        net = cv2.dnn.readNetFromCaffe(str(self.folder / "cv.prototxt"), str(weights))
        net.setInput(self.data)
        (name,) = net.getUnconnectedOutLayersNames()
        return net.forward(name)

    def with_zeros(self, gone: set[int]) -> Path:
        """Weights of the wide network with 0 for all that reads these units."""
        path, records = self.folder / "zeroed.caffemodel", []
        for stored in self.model:
            if stored.name not in self.network:
                # Caffe's own Split layers.
                continue
            arrays = [np.array(self.model.array(b)) for b in stored.blobs]
            layer = self.network[stored.name]
            units = next(iter(self.network.coupled.bottoms[stored.name]), None)
            if layer.has_weights and layer.groups == 1 and units is not None:
                each = arrays[0].reshape(layer.out_channels, len(units), -1)
                each[:, np.isin(units, list(gone))] = 0.0
                arrays[0] = each.reshape(arrays[0].shape)
            records.append(layer_record(stored.name, layer.type, arrays))
        with open(path, "wb") as handle:
            write_caffemodel(handle, "zeroed", records)
        return path

    def small(self, compressed: Any, forms: dict[str, Form], narrow: Narrow | None, blobs: Any) -> tuple[str, Path]:
        """Prototxt and caffemodel of the narrow network."""
        net = compressed if narrow is None else narrow.net(compressed)
        path = self.folder / "small.caffemodel"
        write_compressed(path, self.model, self.network, forms, blobs=blobs, narrow=narrow)
        return verbatim_text(deploy_net(net, describe(net))), path

    def assert_all_assigned(self, shapes: dict[str, list[tuple[int, ...]]], weights: Path) -> None:
        stored = {layer.name: [b.shape for b in layer.blobs] for layer in CaffeModel(weights)}
        assert {name: stored.get(name) for name in shapes} == shapes


def test_taken_out_is_the_same_as_zero(caffe: CaffeExecutor, tmp_path: Path) -> None:
    pruned = seen_kinds = opencv = 0
    for seed in range(NETWORKS):
        made = Coupled(caffe, tmp_path, seed)
        open_ = [g for g in made.network.coupled.groups if not g.why_not and len(g.units) > 1]
        gone: set[int] = set()
        for group in open_:
            number = int(made.rng.integers(0, len(group.units)))
            gone |= set(made.rng.choice(group.units, number, replace=False).tolist())
        if _empties_a_slice(made.network, gone):
            continue
        narrow = Narrow(made.network, frozenset(gone))
        text, small = made.small(made.net, {}, narrow, {})
        got, shapes, _ = made.outputs(text, small)
        made.assert_all_assigned(shapes, small)
        zeroed = made.with_zeros(gone)
        wanted, wide, _ = made.outputs(made.text, zeroed)
        assert_equal(got, wanted)
        pruned += bool(gone)
        assert bool(gone) == (sum(np.prod(s[0]) for s in shapes.values()) < sum(np.prod(s[0]) for s in wide.values()))
        seen_kinds += len(open_)
        if len(wanted) == 1 and seed % 2 == 0:
            assert_equal({name: made.by_opencv(text, small) for name in wanted}, wanted)
            opencv += 1
    # Most networks have something to take out, and it is not always the same.
    assert pruned > 0.7 * NETWORKS and seen_kinds > 0.8 * NETWORKS and opencv > 0.4 * NETWORKS


def _empties_a_slice(network: Network, gone: set[int]) -> bool:
    return any(
        set(units.tolist()) <= gone
        for layer in network.layers if layer.type == "Slice"
        for units in network.coupled.tops[layer.name] if units is not None
    )  # fmt: skip


def test_plans_with_pruned_layers_are_emitted_and_counted(caffe: CaffeExecutor, tmp_path: Path) -> None:
    with_inside = pruned = 0
    for seed in range(NETWORKS // 2):
        made = Coupled(caffe, tmp_path, 10_000 + seed)
        network, rng = made.network, made.rng
        forms: dict[str, Form] = {}
        for layer in network.weighted:
            inner = [s for s in schemes().values() if not s.refuses(layer)]
            rule = pruning()[str(rng.choice(list(pruning())))]
            if not rule.refuses(layer) and network.coupled.read_by(layer.name)[0] is not None and rng.random() < 0.7:
                k = int(rng.integers(1, rule.limits(layer)[0] + 1))
                small = narrowed(layer, k)
                able = [s for s in inner if not s.refuses(small)]
                inside: tuple[Form, ...] = ()
                if able and rng.random() < 0.5:
                    scheme = able[int(rng.integers(len(able)))]
                    inside = (Form(scheme.name, tuple(int(rng.integers(1, n + 1)) for n in scheme.limits(small))),)
                forms[layer.name] = Form(rule.name, (k,), inside)
                with_inside += bool(inside)
            elif inner and rng.random() < 0.5:
                scheme = inner[int(rng.integers(len(inner)))]
                forms[layer.name] = Form(scheme.name, tuple(int(rng.integers(1, n + 1)) for n in scheme.limits(layer)))
        compressed = replace_layers(made.net, network, forms)
        narrow, blobs = narrow_of(made.model, network, describe(compressed), forms, {})
        pruned += narrow is not None
        got, shapes, tops = made.outputs(*made.small(compressed, forms, narrow, blobs))
        made.assert_all_assigned(shapes, tmp_path / "small.caffemodel")
        # The wide network with the forms' weights in their places.
        records = []
        for stored in made.model:
            if stored.name not in network:
                continue
            arrays = [made.model.array(b) for b in stored.blobs]
            if stored.name in forms:
                layer, form = network[stored.name], forms[stored.name]
                arrays[0] = scheme_for(form.scheme).truncated(layer, made.model.weights(layer)[0], form)
            records.append(layer_record(stored.name, network[stored.name].type, arrays))
        with open(tmp_path / "cut.caffemodel", "wb") as handle:
            write_caffemodel(handle, "cut", records)
        assert_equal(got, made.outputs(made.text, tmp_path / "cut.caffemodel")[0])
        cost = network_complexity(network, forms)
        assert (cost.macs, cost.parameters) == counted(shapes, tops), (
            seed,
            {n: str(f) for n, f in forms.items()},
            shapes,
        )
    assert pruned > 0.4 * (NETWORKS // 2) and with_inside > NETWORKS // 6
