"""Exactness in real Caffe: at full rank the emitted network computes the original function."""

from __future__ import annotations

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, expected_shapes, layer_record, write_caffemodel
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.decomposition import scheme_for
from enc_caffe.form import Form
from enc_caffe.network import Layer, Network
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import forward

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
    caffe: CaffeExecutor, folder: Path, text: str, scheme: str, placement: str = "exact"
) -> dict[str, float]:
    """Largest error of every output over its largest value, original against emitted at full rank; all layers have the scheme."""
    net, network, model = build(folder, text)
    forms = {x.name: full_rank(x, scheme) for x in network.weighted}
    emitted = replace_layers(net, network, forms, placement)
    write_compressed(folder / "small.caffemodel", model, network, forms)
    data = {"data": np.random.default_rng(5).standard_normal(network.layers[0].top_shapes[0]).astype(np.float32)}
    outputs = list(network.outputs)
    wanted = caffe.result(caffe.submit(forward, to_text(net), str(folder / "net.caffemodel"), data, outputs))
    got = caffe.result(caffe.submit(forward, to_text(emitted), str(folder / "small.caffemodel"), data, outputs))
    errors = {}
    for name in outputs:
        assert got[name].shape == wanted[name].shape, name
        errors[name] = float(np.abs(got[name] - wanted[name]).max() / np.abs(wanted[name]).max())
    return errors


def full_rank(layer: Layer, scheme: str) -> Form:
    """The form at which nothing is cut off."""
    return Form(scheme, scheme_for(scheme).limits(layer))


def taken_by(scheme: str, combinations=None) -> list[tuple]:
    """The combinations that a scheme takes; 1x1 kernels cannot be split, and Tucker-2 has no groups."""
    found = COMBINATIONS if combinations is None else combinations
    if scheme != "channel":
        found = [c for c in found if c[4] != (1, 1)]
    return [c for c in found if c[2] == 1] if scheme == "tucker2" else list(found)


def text_of(combinations) -> str:
    """All combinations as branches of one network."""
    return HEAD + "".join(branch(f"b{i}", *c) for i, c in enumerate(combinations))


@pytest.mark.parametrize(
    ("scheme", "number"), [("spatial", 324), ("spatial_t", 324), ("channel", 432), ("tucker2", 108)]
)
def test_every_combination_is_exact_at_full_rank(
    caffe: CaffeExecutor, tmp_path: Path, scheme: str, number: int
) -> None:
    assert len(COMBINATIONS) == 432
    combinations = taken_by(scheme)
    # And no fewer than the scheme says that it takes.
    network = build(tmp_path, text_of(COMBINATIONS))[1]
    assert sum(not scheme_for(scheme).refuses(x) for x in network.weighted) == len(combinations) == number
    errors = largest_errors(caffe, tmp_path, text_of(combinations), scheme)
    assert len(errors) == number
    wrong = {combinations[int(n[1:])]: e for n, e in errors.items() if e > 1e-4}
    assert not wrong


@pytest.mark.parametrize("scheme", ["spatial", "spatial_t", "channel", "tucker2"])
def test_opencvs_reader_computes_the_same(caffe: CaffeExecutor, tmp_path: Path, scheme: str) -> None:
    # Its reader takes no network whose outputs nobody reads: one layer each.
    chosen = [c for c in taken_by(scheme) if c[5] and c[3] == 1][:: 3 if scheme == "channel" else 2]
    kinds = {(c[0], c[1], c[2]) for c in chosen}
    assert len(kinds) == (6 if scheme == "tucker2" else 18)
    rng = np.random.default_rng(8)
    for at, combination in enumerate(chosen):
        folder = tmp_path / str(at)
        folder.mkdir()
        net, network, model = build(folder, text_of([combination]))
        forms = {"b0": full_rank(network["b0"], scheme)}
        emitted = replace_layers(net, network, forms)
        (folder / "deploy.prototxt").write_text(to_text(emitted))
        write_compressed(folder / "small.caffemodel", model, network, forms)
        data = rng.standard_normal((2, 8, 17, 15)).astype(np.float32)
        wanted = caffe.result(
            caffe.submit(forward, to_text(net), str(folder / "net.caffemodel"), {"data": data}, ["b0"])
        )["b0"]
        reader = cv2.dnn.readNetFromCaffe(str(folder / "deploy.prototxt"), str(folder / "small.caffemodel"))
        reader.setPreferableBackend(cv2.dnn.DNN_BACKEND_OPENCV)
        reader.setInput(data, "data")
        got = reader.forward()
        assert got.shape == wanted.shape and np.abs(got - wanted).max() <= 1e-4 * np.abs(wanted).max(), combination


@pytest.mark.parametrize("scheme", ["spatial", "spatial_t"])
def test_published_stride_placement_is_another_function(caffe: CaffeExecutor, tmp_path: Path, scheme: str) -> None:
    # The half that comes second loses its stride to the first.
    second = 1 if scheme == "spatial" else 0
    strided = [c for c in COMBINATIONS if c[0] > 1 and c[4][second] > 1 and c[1] == 1 and c[3] == 1]
    text = text_of(strided)
    net, network, _ = build(tmp_path, text)
    # Only branches whose pair still has the original's output size can be compared at all.
    described = describe(
        replace_layers(net, network, {x.name: Form(scheme, (2,)) for x in network.weighted}, "published")
    )
    last = {"spatial": "_h", "spatial_t": "_v"}[scheme]
    same = [i for i in range(len(strided)) if described[f"b{i}{last}"].top_shapes == network[f"b{i}"].top_shapes]
    assert same
    kept = [strided[i] for i in same]
    errors = largest_errors(caffe, tmp_path, text_of(kept), scheme, "published")
    assert min(errors.values()) > 1e-2


def test_a_truncated_chain_is_the_original_with_truncated_weights(caffe: CaffeExecutor, tmp_path: Path) -> None:
    chosen = [c for c in COMBINATIONS if c[0] in (1, 2) and c[3] == 1 and c[4] in ((3, 3), (5, 3))]
    text = text_of(chosen)
    net, network, model = build(tmp_path, text)
    forms = {}
    for i, x in enumerate(network.weighted):
        names = ("spatial", "channel", "spatial_t", "tucker2") if x.groups == 1 else ("spatial", "channel", "spatial_t")
        limits = scheme_for(names[i % len(names)]).limits(x)
        forms[x.name] = Form(names[i % len(names)], tuple(max(1, n // 2) for n in limits))
    assert len({f.scheme for f in forms.values()}) == 4
    write_compressed(tmp_path / "pair.caffemodel", model, network, forms)
    with open(tmp_path / "cut.caffemodel", "wb") as handle:
        records = []
        for layer in network.weighted:
            weight, *bias = model.weights(layer)
            cut = scheme_for(forms[layer.name].scheme).truncated(layer, weight, forms[layer.name])
            records.append(layer_record(layer.name, layer.type, [cut, *bias]))
        write_caffemodel(handle, network.name, records)
    data = {"data": np.random.default_rng(6).standard_normal((2, 8, 17, 15)).astype(np.float32)}
    outputs = list(network.outputs)
    emitted = to_text(replace_layers(net, network, forms))
    pair = caffe.result(caffe.submit(forward, emitted, str(tmp_path / "pair.caffemodel"), data, outputs))
    cut = caffe.result(caffe.submit(forward, to_text(net), str(tmp_path / "cut.caffemodel"), data, outputs))
    whole = caffe.result(caffe.submit(forward, to_text(net), str(tmp_path / "net.caffemodel"), data, outputs))
    for name in outputs:
        scale = np.abs(whole[name]).max()
        assert np.abs(pair[name] - cut[name]).max() / scale < 1e-4, name
        assert np.abs(pair[name] - whole[name]).max() / scale > 1e-2, name


def test_three_stages_are_exact_where_the_weights_have_their_ranks(caffe: CaffeExecutor, tmp_path: Path) -> None:
    combinations = taken_by("tucker2")
    net, network, _ = build(tmp_path, text_of(combinations))
    ranks, rng = [(3, 5), (8, 5), (3, 12), (1, 1)], np.random.default_rng(9)
    forms = {x.name: Form("tucker2", ranks[i % 4]) for i, x in enumerate(network.weighted)}
    with open(tmp_path / "low.caffemodel", "wb") as handle:
        records = []
        for x in network.weighted:
            q, p = forms[x.name].ranks
            u, v = rng.standard_normal((12, p)), rng.standard_normal((8, q))
            weight = np.einsum("pqab,op,iq->oiab", rng.standard_normal((p, q, *x.kernel)), u, v).astype(np.float32)
            bias = [rng.standard_normal(12, np.float32)] if x.bias else []
            records.append(layer_record(x.name, x.type, [weight, *bias]))
        write_caffemodel(handle, network.name, records)
    emitted = replace_layers(net, network, forms)
    suffixes = {tuple(p.name[len(n) :] for p in emitted.layer if p.name.startswith(n + "_")) for n in forms}
    assert suffixes == {("_in", "_core", "_out"), ("_core", "_out"), ("_in", "_core")}
    write_compressed(tmp_path / "small.caffemodel", CaffeModel(tmp_path / "low.caffemodel"), network, forms)
    data = {"data": rng.standard_normal((2, 8, 17, 15)).astype(np.float32)}
    outputs = list(network.outputs)
    wanted = caffe.result(caffe.submit(forward, to_text(net), str(tmp_path / "low.caffemodel"), data, outputs))
    got = caffe.result(caffe.submit(forward, to_text(emitted), str(tmp_path / "small.caffemodel"), data, outputs))
    for name in outputs:
        assert np.abs(got[name] - wanted[name]).max() <= 1e-4 * np.abs(wanted[name]).max(), name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transpose", [True, False])
def test_inner_product_is_exact_at_full_rank(caffe: CaffeExecutor, tmp_path: Path, bias: bool, transpose: bool) -> None:
    text = HEAD + (
        f'layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {{ num_output: 20 '
        f"bias_term: {str(bias).lower()} transpose: {str(transpose).lower()} }} }}\n"
    )
    errors = largest_errors(caffe, tmp_path, text, "inner_product")
    assert errors["fc"] < 1e-4


def test_inner_product_over_a_later_axis(caffe: CaffeExecutor, tmp_path: Path) -> None:
    text = HEAD + (
        'layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 20 axis: 2 } }\n'
    )
    errors = largest_errors(caffe, tmp_path, text, "inner_product")
    assert errors["fc"] < 1e-4
