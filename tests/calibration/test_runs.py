"""The loss of a run, and what changes of a blob cost, in real Caffe."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from enc_caffe.calibration import runs as module
from enc_caffe.calibration.segments import Segment
from enc_caffe.decomposition.outputs import OUTPUT_RIDGE, output_roots
from enc_caffe.measuring.passes import engine_of
from enc_caffe.measuring.scores import Units, squared_error, units_of
from enc_caffe.measuring.subject import net_task
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import adam_solver
from tests.calibration.test_layerwise import Setting
from tests.measuring import nets

pytestmark = pytest.mark.caffe
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 4 } } }\n'
SHAPES = ((8, 3, 4, 4), (8, 4, 4, 4))


def test_a_run_without_a_gradient_has_no_loss_and_dropout_passes_everything() -> None:
    text = INPUT + nets.conv("a", "data", 4) + nets.simple("drop", "Dropout", "a")
    with_argmax = text + nets.simple("most", "ArgMax", "a", "most")
    assert module.training_net(with_argmax, Segment(1, 4, "data", "most"), SHAPES, 1.0, None) == ("", [])
    prototxt, fitted = module.training_net(text, Segment(1, 3, "data", "a"), SHAPES, 2.0, None)
    assert fitted == ["a"] and "Dropout" not in prototxt and "loss_weight: 0.0625" in prototxt
    shared = text.replace("convolution_param", 'param { name: "w" } convolution_param')
    assert module.training_net(shared, Segment(1, 3, "data", "a"), SHAPES, 2.0, None)[1] == []


def gradients(prototxt: str, values: np.ndarray) -> tuple[float, float]:
    """How the loss changes with the first layer's weights along their gradient, by Caffe and by differences (in a worker)."""
    from enc_caffe.workers.pycaffe import load_net

    net = load_net(prototxt, None)
    rng = np.random.default_rng(0)
    for blobs in net.params.values():
        for blob in blobs:
            blob.data[...] = 0.3 * rng.standard_normal(blob.data.shape)
    net.blobs["data"].data[...] = values
    net.blobs[module.TARGET].data[...] = rng.standard_normal(net.blobs[module.TARGET].data.shape)
    net.forward()
    net.backward()
    weights, found = net.params["a"][0], []
    own, first = np.array(weights.diff), np.array(weights.data)
    for sign in (1, -1):
        weights.data[...] = first + sign * 1e-3 * np.sign(own)
        net.forward()
        found.append(float(net.blobs[module.LOSS].data))
    loss_weight = 0.5
    return float(np.abs(own).sum()), loss_weight * (found[0] - found[1]) / 2e-3


@pytest.mark.parametrize("kind, top", (("Dropout", "a"), ("Dropout", "dropped"), ("Power", "a"), ("AbsVal", "a")))
def test_the_gradient_is_right_behind_what_works_in_place(kind: str, top: str) -> None:
    # A Power layer in place, which a Dropout was taken for, gave 1 as the gradient of everything below it.
    text = INPUT + nets.conv("a", "data", 4) + nets.simple("between", kind, "a", top) + nets.conv("b", top, 4)
    prototxt, fitted = module.training_net(text, Segment(1, 4, "data", "b"), SHAPES, 0.25, None)
    assert fitted == ["a", "b"]
    values = np.random.default_rng(1).standard_normal(SHAPES[0])
    with Workers(1).executor() as executor:
        by_caffe, by_hand = executor.result(executor.submit(gradients, prototxt, values))
    assert by_caffe == pytest.approx(by_hand, rel=1e-2)


def stepped(prototxt: str, weights: str) -> dict[str, bool]:
    """Layers with blobs, and whether a step changed them (in a worker)."""
    solver = adam_solver(prototxt, weights, 1e-2, 1)
    rng = np.random.default_rng(0)
    for blob in ("data", module.TARGET):
        solver.net.blobs[blob].data[...] = rng.standard_normal(solver.net.blobs[blob].data.shape)
    for blobs in solver.net.params.values():
        for blob in blobs:
            blob.data[...] = 0.1 * rng.standard_normal(blob.data.shape)
    first = {name: [np.array(b.data) for b in blobs] for name, blobs in solver.net.params.items()}
    solver.step(1)
    return {n: any(np.any(b.data != a) for b, a in zip(solver.net.params[n], first[n])) for n in first}


def two(name: str, kind: str, bottoms: tuple[str, str], extra: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottoms[0]}" bottom: "{bottoms[1]}" top: "{name}" {extra} }}\n'


def test_what_is_not_fitted_keeps_its_weights_and_layers_without_any_are_in_the_run(tmp_path) -> None:
    shared = nets.conv("s", "bias", 4, bias=False).replace("convolution_param", 'param { name: "w" } convolution_param')
    text = (
        INPUT + nets.conv("a", "data", 4) + nets.simple("squeeze", "Pooling", "a", "squeeze", "pooling_param { pool: AVE global_pooling: true }")
        + nets.conv("up", "squeeze", 4, 1) + nets.simple("gate", "Flatten", "up", "gate")
        + two("scale", "Scale", ("a", "gate"), "scale_param { axis: 0 }") + two("bias", "Bias", ("scale", "a"), "bias_param { axis: 0 }")
        + shared + two("moved", "Scale", ("s", "gate"), "scale_param { axis: 0 bias_term: true }")
        + nets.simple("steps", "Reshape", "moved", "steps", "reshape_param { shape { dim: 8 dim: 4 dim: 16 } }")
        + 'layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 8 dim: 4 } } }\n'
        + two("lstm", "LSTM", ("steps", "cont"), "recurrent_param { num_output: 3 }")
    )  # fmt: skip
    layers = text.count("layer {")
    prototxt, fitted = module.training_net(
        text, Segment(1, layers, "data", "lstm"), ((8, 3, 4, 4), (8, 4, 3)), 1.0, None
    )
    assert fitted == ["a", "up", "moved"]
    none = tmp_path / "none.caffemodel"
    none.touch()
    with Workers(1).executor() as executor:
        changed = executor.result(executor.submit(stepped, prototxt, str(none)))
    assert changed == {"a": True, "up": True, "s": False, "moved": True, "lstm": False}


def loss_of(
    prototxt: str, weights: str, x: np.ndarray, target: np.ndarray, root: np.ndarray | None, steps: int
) -> list[float]:
    """The loss before and after some steps, and the turned sum of squares by the blobs themselves (in a worker)."""
    solver = adam_solver(prototxt, weights, 1e-2, steps)
    net = solver.net
    if root is not None:
        net.params[module.TURN][0].data[...] = root.reshape(net.params[module.TURN][0].data.shape)
    net.blobs["c0"].data[...], net.blobs[module.TARGET].data[...] = x, target
    net.forward()
    first, change = float(net.blobs[module.LOSS].data), np.array(net.blobs["sum"].data) - target
    for _ in range(steps):
        solver.step(1)
    net.forward()
    own = np.eye(8) if root is None else root
    turned = net.params[module.TURN][0].data if root is not None else None
    assert root is None or np.allclose(np.reshape(turned, own.shape), own, rtol=1e-6)
    return [first, float(net.blobs[module.LOSS].data), module.turned_power(root, change)]


def test_the_loss_is_the_turned_sum_of_squares_and_falls(tmp_path) -> None:
    rng = np.random.default_rng(0)
    root = output_roots(np.cov(rng.standard_normal((8, 20)))[None])[0][0]
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, nets.residual(), executor, 8)
        text = net_task(replace(setting.images, fold=False), (), 8).prototxt
        names = [block.split('"')[1] for block in text.split("layer {\n  name: ")[1:]]
        segment = Segment(names.index("c1"), names.index("sum_relu") + 1, "c0", "sum")
        x, target = (rng.standard_normal((8, 8, 12, 12)).astype(np.float32) for _ in range(2))
        for own in (None, root, rng.uniform(0.2, 3.0, 8)):
            power = module.turned_power(own, target) / 8
            prototxt, fitted = module.training_net(text, segment, [x.shape, target.shape], power, own)
            assert fitted == ["c1", "c1_scale", "c2", "c2_scale"]
            job = executor.submit(loss_of, prototxt, str(setting.weights), x, target, own, 20)
            first, last, by_hand = executor.result(job)
            assert first == pytest.approx(by_hand, rel=1e-4)
            assert last < 0.9 * first


def test_what_outputs_cost_is_known(tmp_path) -> None:
    rng = np.random.default_rng(0)
    scores = np.repeat([1.0, 30.0], (6, 2)) * rng.standard_normal((50, 8))
    change = rng.standard_normal((50, 8))
    units = units_of(scores, (6, 2))
    with Workers(1).executor() as executor:
        task = net_task(Setting(tmp_path, nets.residual(), executor, 8).images, (), 8)

    def found(own: Units, *shape: int) -> np.ndarray | None:
        return module.scores_root(replace(task, units=own), SimpleNamespace(shape_of=lambda blob: shape))  # type: ignore[arg-type]

    assert found((), 1, 8) is None
    root = found(units, 1, 8)
    assert root is not None and root.shape == (8,)
    assert module.turned_power(root, change) == pytest.approx(squared_error(scores, scores + change, units))
    # Values of a channel that cost differently have no root of channels.
    assert found(((4, 2.0), (4, 3.0)), 1, 2, 2, 2) is not None
    assert found(((3, 2.0), (5, 3.0)), 1, 2, 2, 2) is None
    # Time first, or one number for all images: nothing that weighs channels.
    assert found(((8, 2.0),), 4, 1, 2) is None and found(((1, 2.0),), 1) is None


def by_finite_differences(task, blob: str, data: np.ndarray) -> np.ndarray:
    """Sum over images and positions of J' (diag p - p p') J, J being the scores' derivatives by a blob's channels (in a worker)."""
    with engine_of(task) as engine:
        scores = engine.run(data)
        soft = np.exp(scores - scores.max(axis=1, keepdims=True))
        soft /= soft.sum(axis=1, keepdims=True)
        begin, value = module.behind(engine, blob), np.array(engine.net.blobs[blob].data)
        total = np.zeros((value.shape[1],) * 2)
        for place in np.ndindex(value.shape[2:]):
            rows = []
            for channel in range(value.shape[1]):
                both = []
                for sign in (1, -1):
                    moved = value.copy()
                    moved[(slice(None), channel, *place)] += sign * 2e-2
                    engine.net.blobs[blob].data[...] = moved
                    engine.part(begin, len(engine.names))
                    both.append(np.array(engine.net.blobs[task.scores].data, np.float64).reshape(len(data), -1))
                rows.append((both[0] - both[1]) / 4e-2)
            jacobian = np.stack(rows, axis=2)
            mean = np.einsum("ik,ikc->ic", soft, jacobian)
            total += np.einsum("ik,ikc,ikd->cd", soft, jacobian, jacobian) - mean.T @ mean
        return total


@pytest.mark.parametrize("blob", ("c3", "sum"))
def test_what_a_blob_costs_is_the_divergence_of_its_changes(tmp_path, blob: str) -> None:
    # Both are changed in place by what follows, c3 by BatchNorm, Scale and ReLU: it is the last value that counts.
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, nets.residual(), executor, 8)
        task = net_task(replace(setting.images, fold=False), (), 8)
        roots = module.blob_roots(task, ["nothing", blob], 8, executor, lambda done, all_: None)
        assert set(roots) == {blob}
        by_hand = executor.result(executor.submit(by_finite_differences, task, blob, setting.data()))
        expected = by_hand / np.trace(by_hand) * len(by_hand) + OUTPUT_RIDGE * np.eye(len(by_hand))
        np.testing.assert_allclose(roots[blob] @ roots[blob], expected, atol=0.03 * np.abs(expected).max())
