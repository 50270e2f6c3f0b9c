"""Networks put right layer by layer, in real Caffe: what comes out is what was promised of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.emit import replace_layers, write_compressed
from enc_caffe.caffe_io.prototxt import read_net, to_text
from enc_caffe.caffe_io.transform import Transform
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.calibration import layerwise as module
from enc_caffe.calibration.decomposer import Decomposer, affected, steps_for
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.moments import MomentSum
from enc_caffe.decomposition import scheme_for
from enc_caffe.errors import UsageError
from enc_caffe.form import Form
from enc_caffe.measuring.layers import reference_of
from enc_caffe.measuring.passes import NetTask
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator, reference_scores
from enc_caffe.network import InnerProduct, Layer
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import forward
from tests.measuring import nets

pytestmark = pytest.mark.caffe
ALL = frozenset({"bn", "bias"})


class Setting:
    """A network with images, a store and workers."""

    def __init__(self, folder: Path, text: str, executor, images: int = 37) -> None:
        self.folder, self.executor = folder, executor
        self.model, self.weights = nets.write_net(folder, text)
        self.lmdb = nets.write_images(folder / "lmdb", images)
        self.loaded = pipeline.load(self.model, self.lmdb)
        table = pipeline.pca_metrics(self.loaded, self.weights)
        self.store = ResultStore(folder / "s.sqlite")
        self.images = images_of(self.loaded, self.weights, self.lmdb, executor, self.store)
        self.forms = {m.name: m.form(max(1, m.max_rank // 2)) for m in table.layers[1:]}
        self.full = {m.name: Form(m.scheme, scheme_for(m.scheme).limits(m.layer)) for m in table.layers[1:]}

    def mixed(self, part: float) -> dict[str, Form]:
        """Other schemes than the paper's, the 1x1 convolution among them, each rank at this part of its limit."""
        wanted = {
            "c1": "tucker2",
            "c2": "spatial_t",
            "c3": "channel",
            "c4": "channel",
            "g0": "tucker2",
            "g1": "spatial_t",
            "g2": "channel",
        }
        own = {n: s for n, s in wanted.items() if n in self.loaded.network}
        limits = {n: scheme_for(s).limits(self.loaded.network[n]) for n, s in own.items()}
        return {n: Form(s, tuple(max(1, int(part * x)) for x in limits[n])) for n, s in own.items()}

    def decomposer(self, how: Decomposition, **more) -> Decomposer:
        """A decomposer of these images."""
        return Decomposer(self.images, how, **more)

    def emitted(self, how: Decomposition, forms: dict[str, Form]) -> Path:
        """The folder of the emitted network."""
        blobs = self.decomposer(how).blobs(forms)
        total = sum(sum(f.ranks) for f in forms.values())
        out = self.folder / "-".join(["out", how.kind, *sorted(how.recalibrate), str(total)])
        out.mkdir(exist_ok=True)
        # Not by a Plan: full rank is above r_max.
        network, model = self.loaded.network, CaffeModel(self.weights)
        net = replace_layers(self.loaded.net, network, forms)
        described = describe(net, None, "the test's network", network.data_shapes)
        (out / "deploy.prototxt").write_text(to_text(deploy_net(net, described, self.images.look.images)))
        write_compressed(out / "compressed.caffemodel", model, network, forms, blobs=blobs)
        return out

    def data(self) -> np.ndarray:
        """All images, transformed."""
        source = ImageLmdb(self.lmdb)
        return np.stack([self.images.look.transform(i.pixels) for i in source.images(0, None, None)])

    def blob(self, net: object, weights: Path, before: str, name: str) -> np.ndarray:
        """A blob as it is before the layer ``before`` of a deploy net runs."""
        at = [p.name for p in net.layer].index(before)  # type: ignore[attr-defined]
        short = type(net)()
        short.CopyFrom(net)  # type: ignore[arg-type]
        del short.layer[at:]  # type: ignore[attr-defined]
        data = self.data()
        done = self.executor.submit(forward, to_text(short), str(weights), {"data": data}, [name])
        return np.asarray(self.executor.result(done)[name], np.float64)

    def divergence(self, how: Decomposition, forms: dict[str, Form]) -> float:
        """Mean divergence of a plan's network from the original."""
        made = self.decomposer(how)
        found = PlanEvaluator(self.images, blobs_of=made.blobs, name=made.name(), reference=made.reference())
        return found.divergence(forms)


@pytest.fixture(scope="module")
def workers():
    with Workers(2).executor() as executor:
        yield executor


@pytest.fixture(scope="module")
def residual(tmp_path_factory, workers) -> Setting:
    return Setting(tmp_path_factory.mktemp("residual"), nets.residual(), workers)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory, workers) -> Setting:
    return Setting(tmp_path_factory.mktemp("grouped"), nets.grouped(), workers)


@pytest.mark.parametrize("kind", ("svd", "weighted", "asymmetric"))
def test_statistics_are_those_of_the_emitted_network(residual: Setting, kind: str) -> None:
    out = residual.emitted(Decomposition(kind, frozenset({"bn"})), residual.forms)
    net, model = read_net(out / "deploy.prototxt"), CaffeModel(out / "compressed.caffemodel")
    norms = [p for p in net.layer if p.type == "BatchNorm"]
    assert len(norms) == 5
    for norm in norms:
        mean, variance, factor = (model.array(b).reshape(-1) for b in model.layers[norm.name].blobs)
        blob = residual.blob(net, out / "compressed.caffemodel", norm.name, norm.bottom[0])
        if norm.name == "c0_bn":
            # Before every change: as in the original.
            original = CaffeModel(residual.weights).layers["c0_bn"]
            np.testing.assert_array_equal(mean, CaffeModel(residual.weights).array(original.blobs[0]).reshape(-1))
            continue
        np.testing.assert_allclose(mean / factor, blob.mean(axis=(0, 2, 3)), atol=1e-4)
        np.testing.assert_allclose(variance / factor, blob.var(axis=(0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_changes_of_statistics_are_added_to_the_original_s(residual: Setting) -> None:
    out = residual.emitted(Decomposition("weighted", frozenset({"change"})), residual.forms)
    net, model = read_net(out / "deploy.prototxt"), CaffeModel(out / "compressed.caffemodel")
    whole = read_net(residual.model)
    original = deploy_net(whole, residual.loaded.network, 37)
    before = CaffeModel(residual.weights)
    for name in ("c1_bn", "c2_bn", "c3_bn"):
        theirs = residual.blob(original, residual.weights, name, name[:2])
        ours = residual.blob(net, out / "compressed.caffemodel", name, name[:2])
        old = [before.array(b).reshape(-1) for b in before.layers[name].blobs]
        new = [model.array(b).reshape(-1) for b in model.layers[name].blobs]
        np.testing.assert_allclose(new[0], old[0] / old[2] + (ours - theirs).mean(axis=(0, 2, 3)), atol=1e-4)
        ratio = ours.var(axis=(0, 2, 3)) / theirs.var(axis=(0, 2, 3))
        np.testing.assert_allclose(new[1], old[1] / old[2] * ratio, rtol=2e-3)


@pytest.mark.parametrize("mixed", (False, True), ids=("paper", "mixed"))
@pytest.mark.parametrize("kind", ("weighted", "asymmetric"))
def test_biases_give_the_original_s_mean_output(grouped: Setting, kind: str, mixed: bool) -> None:
    forms = grouped.mixed(0.5) if mixed else grouped.forms
    out = grouped.emitted(Decomposition(kind, frozenset({"bias"})), forms)
    net, original = read_net(out / "deploy.prototxt"), deploy_net(read_net(grouped.model), grouped.loaded.network, 37)
    for name, after in (("g1", "r1"), ("g2", "r2")):
        ours = grouped.blob(net, out / "compressed.caffemodel", after, name)
        theirs = grouped.blob(original, grouped.weights, after, name)
        np.testing.assert_allclose(ours.mean(axis=(0, 2, 3)), theirs.mean(axis=(0, 2, 3)), atol=2e-4)
    plain = grouped.emitted(Decomposition(kind), forms)
    off = grouped.blob(read_net(plain / "deploy.prototxt"), plain / "compressed.caffemodel", "r2", "g2") - theirs
    assert np.abs(off.mean(axis=(0, 2, 3))).max() > 1e-3


@pytest.mark.parametrize("how", (
    Decomposition("weighted"), Decomposition("asymmetric"), Decomposition("asymmetric", frozenset({"bias", "change"})),
), ids=lambda how: how.words())  # fmt: skip
@pytest.mark.parametrize("mixed", (False, True), ids=("paper", "mixed"))
@pytest.mark.parametrize("name", ("residual", "grouped"))
def test_full_rank_is_the_original_function(
    name: str, mixed: bool, how: Decomposition, request: pytest.FixtureRequest
) -> None:
    setting: Setting = request.getfixturevalue(name)
    out = setting.emitted(how, setting.mixed(1.0) if mixed else setting.full)
    net = read_net(out / "deploy.prototxt")
    done = setting.executor.submit(
        forward, to_text(net), str(out / "compressed.caffemodel"), {"data": setting.data()}, ["fc"]
    )
    ours = setting.executor.result(done)["fc"]
    theirs = reference_of(str(reference_scores(setting.images, setting.folder / "ref")))
    assert np.abs(ours - theirs).max() <= 2e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("mixed", (False, True), ids=("paper", "mixed"))
@pytest.mark.parametrize("name", ("residual", "grouped"))
def test_each_way_is_nearer_to_the_original_than_the_one_before(
    name: str, mixed: bool, request: pytest.FixtureRequest
) -> None:
    setting: Setting = request.getfixturevalue(name)
    forms = {n: Form(f.scheme, (max(1, f.ranks[0] // 2),)) for n, f in setting.forms.items()}
    forms = setting.mixed(0.4) if mixed else forms
    found = [setting.divergence(Decomposition(kind), forms) for kind in ("svd", "weighted", "asymmetric")]
    assert found[0] > found[1] > found[2] > 0


def test_numbers_do_not_depend_on_workers_nor_on_room_nor_on_interruptions(tmp_path: Path, monkeypatch) -> None:
    how, results, steps = Decomposition("asymmetric", ALL), [], []
    for case in ("one", "two", "no room", "interrupted"):
        # What is kept between steps is decided here, not in the workers.
        monkeypatch.setattr(module, "LIVE", 0 if case == "no room" else 2**30)
        with Workers(1 if case == "one" else 2).executor() as executor:
            setting = Setting(tmp_path / case, nets.residual(), executor)
            if case == "interrupted":

                def stop(what: str, done: int, all_: int) -> None:
                    if what == "calibrated layers" and done == 4:
                        raise KeyboardInterrupt

                with pytest.raises(KeyboardInterrupt):
                    setting.decomposer(how, progress=stop).blobs(setting.forms)
            seen: list[int] = []
            blobs = setting.decomposer(
                how,
                progress=lambda what, done, all_, seen=seen: seen.append(done) if what == "calibrated layers" else None,
            ).blobs(setting.forms)
            results.append(blobs)
            steps.append(seen[0])
            # Nothing large stays behind.
            assert not list((tmp_path / case).glob("**/live-*"))
    assert steps[:3] == [0, 0, 0] and steps[3] >= 3
    for other in results[1:]:
        assert set(other) == set(results[0])
        for name, arrays in results[0].items():
            for a, b in zip(arrays, other[name]):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("damage", ("cut", "gone"))
def test_damaged_blobs_between_steps_are_not_believed(tmp_path: Path, workers, damage: str) -> None:
    how = Decomposition("asymmetric", ALL)
    setting = Setting(tmp_path, nets.residual(), workers)
    wanted = setting.decomposer(how).blobs(setting.forms)
    for kept in tmp_path.glob("s.sqlite.arrays/*/calibrated/*.npz"):
        kept.unlink()

    def stop(what: str, done: int, all_: int) -> None:
        if what == "calibrated layers" and done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        setting.decomposer(how, progress=stop).blobs(setting.forms)
    kept = next(iter(tmp_path.glob("s.sqlite.arrays/*/calibration/*/live-*.raw")))
    kept.write_bytes(kept.read_bytes()[:-50]) if damage == "cut" else kept.unlink()
    again = setting.decomposer(how).blobs(setting.forms)
    for name, arrays in wanted.items():
        for a, b in zip(arrays, again[name]):
            np.testing.assert_array_equal(a, b)


def test_a_part_of_the_images_puts_layers_right_well_enough_to_compare_plans_by(grouped: Setting) -> None:
    how = Decomposition("asymmetric", frozenset({"bias"}))
    whole = grouped.decomposer(how)
    all_, part = whole.of_part(37), whole.of_part(20)
    # As many as there are: the very same, under the same name.
    assert all_.name() == whole.name() != part.name()
    blobs = whole.blobs(grouped.forms), part.blobs(grouped.forms)
    assert blobs[0].keys() == blobs[1].keys()
    assert any(not np.array_equal(a, b) for n in blobs[0] for a, b in zip(blobs[0][n], blobs[1][n]))
    plain = grouped.divergence(Decomposition("svd"), grouped.forms)
    found = PlanEvaluator(grouped.images, blobs_of=part.blobs, name=part.name(), reference=part.reference())
    assert max(grouped.divergence(how, grouped.forms), found.divergence(grouped.forms)) < 0.8 * plain


@pytest.mark.parametrize("images, part", ((37, 20), (1000, 250), (250, 250), (9, 8), (1000, 0)))
def test_a_part_is_the_first_images_of_every_chunk(images: int, part: int) -> None:
    net = NetTask("", "", "", Transform(), "data", "fc", 10, False, ())
    task = module.CalibrationTask(net, None, "", images, part=part)
    spans = [task.span(c) for c in range(module.CHUNKS)]
    wholes = [module.span(images, c, 10) for c in range(module.CHUNKS)]
    assert all(a == b and stop <= end for (a, stop), (b, end) in zip(spans, wholes))
    wanted = part or images
    assert wanted <= sum(stop - first for first, stop in spans) < wanted + module.CHUNKS


def test_only_what_a_plan_changes_is_put_right(residual: Setting) -> None:
    network = residual.loaded.network
    names = [x.name for x in affected(network, {"c2": Form("spatial", (3,))})]
    assert names[0] == "c2" and "c1_bn" not in names and "sum" in names and "c4_bn" in names
    steps = steps_for(network, {"c2": Form("spatial", (3,))}, Decomposition("svd", frozenset({"bn"})))
    assert [(s.kind, s.layer.name) for s in steps] == [("norm", "c2_bn"), ("norm", "c3_bn"), ("norm", "c4_bn")]
    forms = {"c1": Form("spatial", (3,)), "c3": Form("tucker2", (2, 4))}
    both = [s for s in steps_for(network, forms, Decomposition("asymmetric", ALL)) if s.kind == "chain"]
    assert [s.layer.name for s in both] == ["c1", "c3"] and all(s.free for s in both)
    assert [s.names for s in both] == [("c1_v", "c1_h"), ("c3_in", "c3_core", "c3_out")]


def test_published_strides_and_unknown_names_are_refused(residual: Setting) -> None:
    with pytest.raises(UsageError, match="layer 'c3' has stride"):
        residual.decomposer(Decomposition("asymmetric"), placement="published").blobs({"c3": Form("spatial", (3,))})
    with pytest.raises(UsageError, match="known are svd, weighted, fisher, asymmetric, asymmetric_fisher"):
        Decomposition("best")
    with pytest.raises(UsageError, match="exclude each other"):
        Decomposition("svd", frozenset({"bn", "change"}))


@pytest.mark.parametrize("transposed", (False, True))
def test_constants_of_fully_connected_layers_whatever_their_layout(transposed: bool) -> None:
    rng = np.random.default_rng(0)
    fc = InnerProduct(5, transposed=transposed)
    layer = Layer("f", "InnerProduct", ("x",), ("f",), ((2, 7),), ((2, 5),), inner_product=fc)
    w, bias, x = rng.standard_normal((5, 7)), np.arange(5.0), rng.standard_normal((7, 300)) + 1
    total = MomentSum(7, 5)
    total.add(x, w @ x + bias[:, None])
    step = module.Step("chain", layer, Form("inner_product", (5,)), ("f_v", "f_h"), True)
    found = module._solved(step, [total], {}, lambda _: [(w.T if transposed else w).astype(np.float32), bias])
    np.testing.assert_allclose(found["f_h"][1].reshape(-1), bias, atol=1e-3)


def test_a_channel_that_never_varies_keeps_its_variance() -> None:
    norm = Layer("n", "BatchNorm", ("x",), ("n",), ((2, 3, 4, 4),), ((2, 3, 4, 4),))
    # Channels: constant in both networks, constant in the original alone, and one that lost half of its variance.
    sums = np.array([[2.0, 2, 0], [4, 5, 1], [2, 2, 0], [4, 4, 2]]), [1]
    old = [np.array([2.0, 2, 0]), np.array([0.5, 0.5, 4]), np.ones(1)]
    mean, variance, _ = module._solved(module.Step("change", norm), sums, {}, lambda _: old)["n"]
    np.testing.assert_allclose(variance, [0.5, 0.5, 2.0])
    np.testing.assert_allclose(mean, [2, 2, 0])
