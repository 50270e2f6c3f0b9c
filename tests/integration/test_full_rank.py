"""Exactness in real Caffe: at full rank the emitted network computes the original function."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.decomposition import scheme_for
from enc_caffe.network import Network
from enc_caffe.runtime.engine import forward
from enc_caffe.runtime.executor import CaffeExecutor

pytestmark = pytest.mark.caffe

KERNELS = ((1, 1), (3, 3), (5, 3), (1, 7))
COMBINATIONS = list(itertools.product((1, 2, 3), (1, 2), (1, 2, 4), (0, 1, 2), KERNELS, (True, False)))
HEAD = 'name: "branches"\nlayer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 8 dim: 17 dim: 15 } } }\n'


@pytest.fixture(scope="module")
def caffe():
    """One process for all forward passes of this file."""
    with CaffeExecutor(1, 1) as executor:
        yield executor


def branch(name: str, stride: int, dilation: int, groups: int, pad: int, kernel: tuple[int, int], bias: bool) -> str:
    """A convolution that reads the data."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "data" top: "{name}" convolution_param {{ num_output: 12 '
        f"kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride: {stride} dilation: {dilation} pad: {pad} group: {groups} "
        f"bias_term: {str(bias).lower()} }} }}\n"
    )


def build(folder: Path, text: str) -> tuple[object, Network, CaffeModel]:
    """Network and random weights from prototxt text."""
    (folder / "net.prototxt").write_text(text)
    net = read_net(folder / "net.prototxt")
    network = describe(net)
    rng = np.random.default_rng(3)
    with open(folder / "net.caffemodel", "wb") as handle:
        write_caffemodel(
            handle, network.name,
            (layer_record(x.name, x.type, [rng.standard_normal(s, np.float32) for s in expected_shapes(x)]) for x in network.weighted),
        )  # fmt: skip
    return net, network, CaffeModel(folder / "net.caffemodel")


def largest_errors(
    caffe: CaffeExecutor, folder: Path, text: str, ranks_of, schemes: dict[str, str], placement: str = "exact"
) -> dict[str, float]:
    """Largest error of every output over its largest value, original against emitted."""
    net, network, model = build(folder, text)
    ranks = {name: ranks_of(network[name], scheme_for(s)) for name, s in schemes.items()}
    emitted = replace_layers(net, network, ranks, schemes, placement)
    write_compressed(folder / "small.caffemodel", model, network, ranks, schemes)
    data = {"data": np.random.default_rng(5).standard_normal(network.layers[0].top_shapes[0]).astype(np.float32)}
    outputs = list(network.outputs)
    wanted = caffe.result(caffe.submit(forward, to_text(net), str(folder / "net.caffemodel"), data, outputs))
    got = caffe.result(caffe.submit(forward, to_text(emitted), str(folder / "small.caffemodel"), data, outputs))
    errors = {}
    for name in outputs:
        assert got[name].shape == wanted[name].shape, name
        errors[name] = float(np.abs(got[name] - wanted[name]).max() / np.abs(wanted[name]).max())
    return errors


def full_rank(layer, scheme) -> int:
    """The rank at which nothing is cut off."""
    return min(scheme.matrix_shape(layer))


def text_of(combinations) -> str:
    """All combinations as branches of one network."""
    return HEAD + "".join(branch(f"b{i}", *c) for i, c in enumerate(combinations))


@pytest.mark.parametrize("scheme", ["spatial", "channel"])
def test_every_combination_is_exact_at_full_rank(caffe: CaffeExecutor, tmp_path: Path, scheme: str) -> None:
    assert len(COMBINATIONS) == 432
    errors = largest_errors(caffe, tmp_path, text_of(COMBINATIONS), full_rank, {f"b{i}": scheme for i in range(432)})
    assert len(errors) == 432
    wrong = {COMBINATIONS[int(n[1:])]: e for n, e in errors.items() if e > 1e-4}
    assert not wrong


def test_published_stride_placement_is_another_function(caffe: CaffeExecutor, tmp_path: Path) -> None:
    strided = [c for c in COMBINATIONS if c[0] > 1 and c[4][1] > 1 and c[1] == 1 and c[3] == 1]
    text = text_of(strided)
    net, network, _ = build(tmp_path, text)
    # Only branches whose pair still has the original's output size can be compared at all.
    described = describe(
        replace_layers(
            net,
            network,
            {x.name: 2 for x in network.weighted},
            {x.name: "spatial" for x in network.weighted},
            "published",
        )
    )
    same = [i for i in range(len(strided)) if described[f"b{i}_h"].top_shapes == network[f"b{i}"].top_shapes]
    assert same
    kept = [strided[i] for i in same]
    errors = largest_errors(
        caffe, tmp_path, text_of(kept), full_rank, {f"b{i}": "spatial" for i in range(len(kept))}, "published"
    )
    assert min(errors.values()) > 1e-2


def test_truncated_pair_is_the_original_with_truncated_weights(caffe: CaffeExecutor, tmp_path: Path) -> None:
    chosen = [c for c in COMBINATIONS if c[0] in (1, 2) and c[3] == 1 and c[4] in ((3, 3), (5, 3))]
    text = text_of(chosen)
    net, network, model = build(tmp_path, text)
    schemes = {f"b{i}": ("spatial", "channel")[i % 2] for i in range(len(chosen))}
    ranks = {n: max(1, min(scheme_for(s).matrix_shape(network[n])) // 2) for n, s in schemes.items()}
    write_compressed(tmp_path / "pair.caffemodel", model, network, ranks, schemes)
    with open(tmp_path / "cut.caffemodel", "wb") as handle:
        records = []
        for layer in network.weighted:
            weight, *bias = model.weights(layer)
            cut = scheme_for(schemes[layer.name]).truncated(layer, weight, ranks[layer.name])
            records.append(layer_record(layer.name, layer.type, [cut, *bias]))
        write_caffemodel(handle, network.name, records)
    data = {"data": np.random.default_rng(6).standard_normal((2, 8, 17, 15)).astype(np.float32)}
    outputs = list(network.outputs)
    emitted = to_text(replace_layers(net, network, ranks, schemes))
    pair = caffe.result(caffe.submit(forward, emitted, str(tmp_path / "pair.caffemodel"), data, outputs))
    cut = caffe.result(caffe.submit(forward, to_text(net), str(tmp_path / "cut.caffemodel"), data, outputs))
    whole = caffe.result(caffe.submit(forward, to_text(net), str(tmp_path / "net.caffemodel"), data, outputs))
    for name in outputs:
        scale = np.abs(whole[name]).max()
        assert np.abs(pair[name] - cut[name]).max() / scale < 1e-4, name
        assert np.abs(pair[name] - whole[name]).max() / scale > 1e-2, name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_inner_product_is_exact_at_full_rank(caffe: CaffeExecutor, tmp_path: Path, bias: bool, transpose: bool) -> None:
    text = HEAD + (
        f'layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {{ num_output: 20 '
        f"bias_term: {str(bias).lower()} transpose: {str(transpose).lower()} }} }}\n"
    )
    errors = largest_errors(caffe, tmp_path, text, full_rank, {"fc": "inner_product"})
    assert errors["fc"] < 1e-4


def test_inner_product_over_a_later_axis(caffe: CaffeExecutor, tmp_path: Path) -> None:
    text = HEAD + (
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 20 axis: 2 } }\n'
    )
    errors = largest_errors(caffe, tmp_path, text, full_rank, {"fc": "inner_product"})
    assert errors["fc"] < 1e-4
