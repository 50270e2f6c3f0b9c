"""Errors that count behind the ReLU, in real Caffe: what follows a layer, full rank, and how wrong emitted networks are there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.calibration.decomposer import steps_for
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.moments import MomentSum
from enc_caffe.calibration.rectified import ROOM, ResponseSum, behind, shifted, width
from enc_caffe.form import Form
from enc_caffe.measuring.layers import reference_of
from enc_caffe.measuring.subject import reference_scores
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import forward
from tests.calibration.test_layerwise import Setting
from tests.measuring import nets

pytestmark = pytest.mark.caffe
RELU = Decomposition("asymmetric_relu")


@pytest.fixture(scope="module")
def workers():
    with Workers(1).executor() as executor:
        yield executor


@pytest.fixture(scope="module")
def residual(tmp_path_factory, workers) -> Setting:
    return Setting(tmp_path_factory.mktemp("residual"), nets.residual(), workers)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, workers) -> Setting:
    text = nets.grouped().replace("group: 2", "group: 1")
    return Setting(tmp_path_factory.mktemp("plain"), text, workers)


def follows(setting: Setting, shared: frozenset[str] = frozenset()):
    return behind(setting.loaded.net, setting.loaded.network, CaffeModel(setting.weights), shared)


def test_what_follows_a_layer(residual: Setting, plain: Setting) -> None:
    found = follows(residual, frozenset({"c3_bn"}))
    assert {n: b.relu for n, b in found.items()} == {"c0": True, "c1": True, "c2": False, "c3": True, "c4": True}
    assert {n: b.norm.name for n, b in found.items() if b.norm} == {n: f"{n}_bn" for n in ("c0", "c1", "c2", "c4")}
    model = CaffeModel(residual.weights)
    mean, variance, _ = (model.array(b).reshape(-1) for b in model.layers["c1_bn"].blobs)
    scale, beta = (model.array(b).reshape(-1) for b in model.layers["c1_scale"].blobs)
    gain = scale / np.sqrt(variance + 1e-5)
    np.testing.assert_allclose(found["c1"].gain, gain, rtol=1e-5)
    np.testing.assert_allclose(found["c1"].shift, beta - mean * gain, atol=1e-5)
    own = follows(plain)
    assert list(own) == ["g0", "g1", "g2"] and all(
        b.relu and b.norm is None and b.gain.tolist() == [1] * len(b.gain) for b in own.values()
    )


def test_only_chains_that_end_in_a_1x1_convolution_count_behind_the_relu(residual: Setting) -> None:
    layer = residual.loaded.network["c1"]
    widths = {
        f: width(layer, f)
        for f in (Form("channel", (3,)), Form("asym3d", (7, 5)), Form("tucker2", (2, 4)), Form("spatial", (3,)))
    }
    assert list(widths.values()) == [3, 5, 4, 0]
    forms = {n: Form("channel", (3,)) for n in ("c1", "c2")} | {"c3": Form("spatial", (3,))}
    how = Decomposition("asymmetric_relu", frozenset({"change"}))
    steps = steps_for(residual.loaded.network, forms, how, frozenset(), follows(residual))
    # Statistics that take up a layer's constant are not estimated again.
    assert [(s.kind, s.layer.name, s.rectified) for s in steps] == [
        ("chain", "c1", True), ("chain", "c2", False), ("chain", "c3", False), ("change", "c4_bn", False),
    ]  # fmt: skip


def test_full_rank_is_the_original_function(residual: Setting, plain: Setting) -> None:
    for setting, forms in (
        (residual, {"c1": Form("asym3d", (24, 8)), "c2": Form("channel", (8,)), "c3": Form("asym3d", (24, 12)), "c4": Form("channel", (12,))}),
        (plain, {"g1": Form("asym3d", (40, 12)), "g2": Form("channel", (12,))}),
    ):  # fmt: skip
        out = setting.emitted(RELU, forms)
        net = read_net(out / "deploy.prototxt")
        done = setting.executor.submit(
            forward, to_text(net), str(out / "compressed.caffemodel"), {"data": setting.data()}, ["fc"]
        )
        ours = setting.executor.result(done)["fc"]
        theirs = reference_of(str(reference_scores(setting.images, setting.folder / "ref")))
        assert np.abs(ours - theirs).max() <= 2e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("scheme", ["channel:2", "asym3d:4x2"])
def test_less_is_lost_behind_the_relu(residual: Setting, plain: Setting, scheme: str) -> None:
    name, _, ranks = scheme.partition(":")
    form = Form(name, tuple(map(int, ranks.split("x"))))
    for setting, layer, before, linear in (
        (residual, "c1", "c2", Decomposition("asymmetric", frozenset({"change"}))),
        (plain, "g1", "g2", Decomposition("asymmetric", frozenset({"bias"}))),
    ):
        original = deploy_net(read_net(setting.model), setting.loaded.network, 37)
        wanted = setting.blob(original, setting.weights, before, layer)
        lost = []
        for how in (linear, RELU):
            out = setting.emitted(how, {layer: form})
            net = read_net(out / "deploy.prototxt")
            before_it = next(p for p in net.layer if p.name == before)
            ours = setting.blob(net, out / "compressed.caffemodel", before, before_it.bottom[0])
            lost.append(float(((ours - wanted) ** 2).sum()))
        assert wanted.min() >= 0 and lost[1] < 0.99 * lost[0]


def test_columns_are_kept_within_the_room() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 4 * 100)), rng.standard_normal((5, 4 * 100))
    for images, each in ((4, 16), (ROOM // (4 * 14 * 3), 3), (10**9, 1)):
        whole, first, second = ResponseSum(9, 5, images), ResponseSum(9, 5, images), MomentSum(9, 5)
        whole.add_images(x[:, :200], y[:, :200], 2)
        first.add_images(x[:, 200:], y[:, 200:], 2)
        second.add(x, y)
        whole.merge(first)
        kept, wanted = whole.columns_kept()
        assert each * 4 <= kept.shape[1] <= 1.3 * each * 4 and kept.shape[1] == wanted.shape[1]
        for name, array in whole.arrays().items():
            np.testing.assert_allclose(array, second.arrays()[name], rtol=1e-5, atol=1e-5)
        places = [int(np.argmin(np.abs(x - kept[:, i : i + 1]).sum(axis=0))) for i in range(kept.shape[1])]
        np.testing.assert_allclose(wanted, y[:, places], atol=1e-6)


def test_statistics_that_add_a_constant() -> None:
    mean, variance, factor = shifted(
        [np.array([2.0, 4.0]), np.array([8.0, 2.0]), np.array([2.0])], np.array([0.5, -1.0])
    )
    assert mean.tolist() == [0.5, 3.0] and variance.tolist() == [4.0, 1.0] and factor.tolist() == [1.0]


def test_a_plan_begun_again_is_the_same(tmp_path: Path, workers) -> None:
    setting = Setting(tmp_path, nets.residual(), workers)
    forms = {"c1": Form("asym3d", (6, 3)), "c3": Form("channel", (4,))}

    def stop(what: str, done: int, all_: int) -> None:
        if what == "calibrated layers" and done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.decomposer(RELU, progress=stop).blobs(forms)
    again = setting.decomposer(RELU).blobs(forms)
    for kept in tmp_path.glob("s.sqlite.arrays/*/calibrated/*.npz"):
        kept.unlink()
    through = setting.decomposer(RELU).blobs(forms)
    assert set(again) == set(through) == {"c1_v", "c1_h", "c1_out", "c1_bn", "c3_v", "c3_h", "c3_bn"}
    for name, arrays in through.items():
        for a, b in zip(arrays, again[name]):
            np.testing.assert_array_equal(a, b)
