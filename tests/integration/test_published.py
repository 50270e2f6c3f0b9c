"""The published artefacts: accuracies, ranks, spectra and complexities come out again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_tools.programs import caffe_test
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import form_cost, group_spectra, scheme_for
from enc_caffe.form import Form
from enc_caffe.measuring.evaluate import evaluate
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.sampling import energy_samples, vbmf_samples
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Convolution, InnerProduct, Layer, Network
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.plan import Plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.workers.executor import CaffeExecutor

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL = ROOT / "prototxt" / "resnet56" / "train_val.prototxt"


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, dict[str, int]]:
    """Published ranks by the name of their run."""
    return {p["id"]: p["ranks"] for p in json.loads((shared_data / "published_ranks.json").read_text())}


@pytest.fixture(scope="module")
def metrics_file(shared_data: Path) -> list[dict]:
    """The authors' metrics of ResNet-56, unread by our own reader."""
    return json.loads((shared_data / "metrics" / "res56.json").read_text())["layers"]


@pytest.fixture(scope="module")
def resnet(shared_data: Path):
    """The network, its caffemodel, and the metrics that we compute."""
    loaded = pipeline.load(MODEL, None, (3, 32, 32))
    weights = shared_data / "res56.caffemodel"
    return loaded, weights, pipeline.pca_metrics(loaded, weights)


@pytest.mark.caffe
def test_accuracies_of_original_and_published_ranks(resnet, published, cifar_test_lmdb: Path, tmp_path: Path) -> None:
    loaded, weights, _ = resnet
    # Ranks alone, as the published files have them: the schemes are the paper's.
    ranks = published["table1-res56-flop_0.5_enc_map"]
    plan = Plan("ResNet-56", {name: Form("", (rank,)) for name, rank in ranks.items()})
    with CaffeExecutor(2, 1) as executor:
        counts = {"original": evaluate(MODEL, weights, cifar_test_lmdb, executor=executor).correct[1]}
        for placement in ("published", "exact"):
            out = tmp_path / placement
            pipeline.emit(loaded, weights, plan, out, placement, test_lmdb=cifar_test_lmdb)
            counts[placement] = evaluate(
                out / "train_val.prototxt", out / "compressed.caffemodel", cifar_test_lmdb, executor=executor
            ).correct[1]
    # METHOD section 8: 0.9381, 0.8987, 0.9184 of 1,017 images, each within two images.
    assert abs(counts["original"] - 954) <= 2
    assert abs(counts["published"] - 914) <= 2
    assert abs(counts["exact"] - 934) <= 2
    # Stock caffe test over the same LMDB: 1,017 images are 21 batches of 50 with 33 images counted twice, so a batch of 9.
    prototxt = tmp_path / "exact" / "train_val.prototxt"
    prototxt.write_text(prototxt.read_text().replace("batch_size: 50", "batch_size: 9"))
    stock = caffe_test(prototxt, tmp_path / "exact" / "compressed.caffemodel", 113, tmp_path / "log")
    assert round(stock["Accuracy"] * 1017) == counts["exact"]


@pytest.mark.caffe
def test_spectra_equal_the_published_ones(resnet, metrics_file) -> None:
    _, _, table = resnet
    assert [m.name for m in table.layers] == [j["name"] for j in metrics_file]
    for ours, theirs in zip(table.layers, metrics_file):
        assert ours.max_rank == theirs["max_rank"]
        spectrum = np.array(theirs["singular_values"][0])
        # Relative to the layer's largest value: the file's values come from single precision, whose error is of that size.
        assert np.abs(ours.singular_values[0] - spectrum).max() / spectrum[0] < 1e-4, ours.name
        large = spectrum > 1e-3 * spectrum[0]
        np.testing.assert_allclose(ours.singular_values[0][large], spectrum[large], rtol=1e-4, err_msg=ours.name)


@pytest.mark.caffe
def test_sampled_ranks_equal_the_published_ones(resnet, metrics_file) -> None:
    loaded, weights, _ = resnet
    model = CaffeModel(weights)
    for theirs in metrics_file:
        layer, scheme = loaded.network[theirs["name"]], scheme_for(theirs["scheme"])
        spectra = group_spectra(scheme.matrices(layer, model.weights(layer)[0]))
        shape = scheme.matrix_shape(layer)
        sampled = theirs["sampled_ranks"]
        assert abs(estimate(spectra[0], *shape).rank - sampled[4]) <= 1, theirs["name"]
        five = sorted({*sampled[:4], sampled[6]})
        ours = vbmf_samples(spectra, shape, theirs["max_rank"])
        assert len(ours) == len(five) and max(abs(a - b) for a, b in zip(ours, five)) <= 1, theirs["name"]
        assert set(ours) <= set(energy_samples(spectra, shape, theirs["max_rank"]))


@pytest.mark.caffe
def test_enc_map_on_our_own_metrics_gives_the_published_ranks(resnet, published) -> None:
    _, _, table = resnet
    wanted = published["table1-res56-flop_0.5_enc_map"]
    # Our own metrics know what the whole network costs; the paper counts what can be decomposed.
    plan = search_plan(table, SearchOptions("map", "pca", 0.5065, count="paper")).plan
    assert len(plan.ranks) == 54
    assert max(abs(r - wanted[n]) for n, r in plan.ranks.items()) <= 1
    assert 0.505 < plan.about.flops_ratio <= 0.5065


def test_published_vgg16_ranks_cost_what_the_paper_says(shared_data: Path, published) -> None:
    table = read_metrics(shared_data / "metrics" / "vgg16.json")
    network = Network("VGG-16", tuple(m.layer for m in table.layers))
    # By hand: 3x3 convolutions with "same" padding; c = W H D (I + O), for the first W H (9 I + O).
    whole = cost = {}
    for run in ("table1-vgg16-flop_0.25_enc_map", "table1-vgg16-flop_0.25_enc_model"):
        whole = cost = 0
        for m in table.layers:
            side, inputs, outputs = m.layer.output[0], m.layer.in_channels, m.layer.out_channels
            whole += side * side * 9 * inputs * outputs
            unit = 9 * inputs + outputs if m.name == "conv1_1" else 3 * (inputs + outputs)
            cost += side * side * unit * published[run][m.name]
        assert 0.2516 <= cost / whole <= 0.2523
        forms = {m.name: m.form(published[run][m.name]) for m in table.layers}
        for convention in ("paper", "exact"):
            assert network_complexity(network, forms, convention).macs == cost
        assert network_complexity(network, {}).macs == whole


def alexnet() -> tuple[Network, dict[str, str]]:
    """BVLC AlexNet's weighted layers, described by hand."""

    def conv(name: str, inputs: int, side: int, outputs: int, kernel: int, groups: int, out: int) -> Layer:
        return Layer(name, "Convolution", bottom_shapes=((1, inputs, side, side),), top_shapes=((1, outputs, out, out),),
                     convolution=Convolution(outputs, (kernel, kernel), groups=groups))  # fmt: skip

    def dense(name: str, inputs: int, outputs: int) -> Layer:
        return Layer(
            name,
            "InnerProduct",
            bottom_shapes=((1, inputs),),
            top_shapes=((1, outputs),),
            inner_product=InnerProduct(outputs),
        )

    layers = (
        conv("conv1", 3, 227, 96, 11, 1, 55), conv("conv2", 96, 27, 256, 5, 2, 27), conv("conv3", 256, 13, 384, 3, 1, 13),
        conv("conv4", 384, 13, 384, 3, 2, 13), conv("conv5", 384, 13, 256, 3, 2, 13),
        dense("fc6", 9216, 4096), dense("fc7", 4096, 4096), dense("fc8", 4096, 1000),
    )  # fmt: skip
    schemes = {x.name: "inner_product" if x.inner_product else "spatial" for x in layers}
    schemes["conv1"] = "channel"
    return Network("AlexNet", layers), schemes


def test_published_alexnet_ranks_cost_what_the_paper_says(published) -> None:
    network, schemes = alexnet()
    forms = {name: Form(schemes[name], (rank,)) for name, rank in published["table1-alex-enc_inf"].items()}
    whole = network_complexity(network, {}, "paper")
    small = network_complexity(network, forms, "paper")
    assert small.macs / whole.macs == pytest.approx(0.3754, abs=5e-5)
    assert small.parameters / whole.parameters == pytest.approx(0.1835, abs=5e-5)
    # Ranks are per group: conv2 has two groups of 48 inputs and 128 outputs.
    unit = 2 * 5 * (48 + 128)
    assert form_cost(network["conv2"], Form("spatial", (1,)), "paper") == (27 * 27 * unit, unit)
    assert form_cost(network["conv2"], Form("spatial", (7,)), "paper") == (7 * 27 * 27 * unit, 7 * unit)
