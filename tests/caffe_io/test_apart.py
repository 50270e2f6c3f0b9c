"""Layers that share a name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers
from enc_caffe.caffe_io.prototxt import read_net, verbatim_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.decomposition.policy import policy_for
from enc_caffe.errors import PrototxtError
from enc_caffe.workers.executor import CaffeExecutor
from enc_caffe.workers.pycaffe import forward
from tests.caffe_io.test_variants import INPUT, conv, fc

pytestmark = pytest.mark.caffe
RELU = 'layer { # as scripts write it\n  name: "relu" bottom: "BLOB" top: "BLOB" type: "ReLU" relu_param { negative_slope: 0.1 } }\n'
TEXT = (
    INPUT
    + conv("a", "data", 6)
    + RELU.replace("BLOB", "a")
    + conv("b", "a", 6)
    + RELU.replace("BLOB", "b")
    + fc("f", "b")
)


def read(folder: Path, text: str):
    (folder / "n.prototxt").write_text(text)
    return read_net(folder / "n.prototxt")


def test_each_gets_a_name_of_its_own_and_all_else_stays(tmp_path: Path) -> None:
    net = read(tmp_path, TEXT)
    assert [layer.name for layer in net.layer] == ["data", "a", "relu", "b", "relu_2", "f"]
    text = verbatim_text(net)
    assert RELU.replace("BLOB", "a").strip() in text
    assert RELU.replace("BLOB", "b").replace('"relu"', '"relu_2"').strip() in text
    # Channels are followed through each.
    assert set(policy_for(describe(net), ("prune",)).schemes) == {"b", "f"}


def test_names_that_are_missing_or_taken(tmp_path: Path) -> None:
    text = TEXT.replace('name: "relu"', "") + 'layer { name: "relu_2" type: "ReLU" bottom: "f" top: "relu_3" }\n'
    net = read(tmp_path, text)
    assert [layer.name for layer in net.layer] == ["data", "a", "", "b", "relu_4", "f", "relu_2"]
    again = read(tmp_path, verbatim_text(net))
    assert [layer.name for layer in again.layer] == [layer.name for layer in net.layer]
    assert "# as scripts write it" in verbatim_text(again)


def test_what_may_share_a_name_does(tmp_path: Path) -> None:
    phases = "".join(
        f'layer {{ name: "d" type: "Dropout" bottom: "a" top: "a" include {{ phase: {p} }} dropout_param {{ dropout_ratio: {r} }} }}\n'
        for p, r in (("TRAIN", 0.5), ("TEST", 0.2))
    )
    net = read(tmp_path, INPUT + conv("a", "data", 6) + phases)
    assert [layer.name for layer in net.layer] == ["data", "a", "d", "d"]
    # Weights are found by a name: two layers of one are no network that Caffe could load.
    with pytest.raises(PrototxtError, match="layer 'a' stands twice"):
        describe(read(tmp_path, INPUT + conv("a", "data", 6) + conv("a", "data", 6)))


def test_layers_of_forks_that_share_one(tmp_path: Path) -> None:
    """Activations of a type that stock Caffe does not have; those with weights are found by their names."""
    own = RELU.replace('"ReLU"', '"ReLU6"').replace("relu_param { negative_slope: 0.1 }", "six { of: 6 }")
    odd = own.replace('"ReLU6"', '"OfSomeFork"')
    net = read(tmp_path, TEXT.replace(RELU.replace("BLOB", "a"), own.replace("BLOB", "a") + odd.replace("BLOB", "a")))
    assert [layer.name for layer in net.layer] == ["data", "a", "relu", "relu_2", "b", "relu_3", "f"]
    assert odd.replace("BLOB", "a").replace('"relu"', '"relu_2"').strip() in verbatim_text(net)
    assert describe(net)["f"].bottom_shapes == ((2, 6, 8, 8),)
    norm = 'layer { name: "norm" type: "BN" bottom: "BLOB" top: "BLOB" }\n'
    with pytest.raises(PrototxtError, match="layer 'norm' stands twice"):
        describe(read(tmp_path, INPUT + conv("a", "data", 6) + 2 * norm.replace("BLOB", "a")))


def test_the_network_computes_what_it_did(tmp_path: Path) -> None:
    net = read(tmp_path, TEXT)
    made = verbatim_text(deploy_net(replace_layers(net, describe(net), {}), describe(net)))
    images = {"data": np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)}
    weights = str(tmp_path / "w.caffemodel")
    with CaffeExecutor(1) as executor:
        executor.result(executor.submit(_save, TEXT, weights))
        first, second = (
            executor.result(executor.submit(forward, t, weights, images, ["f"]))["f"] for t in (TEXT, made)
        )
    np.testing.assert_array_equal(first, second)


def _save(text: str, path: str) -> None:
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(text, None)
    for blobs in net.params.values():
        blobs[0].data[...] = np.random.default_rng(1).standard_normal(blobs[0].data.shape)
    net.save(path)
