"""Changes of the scores by gradients against changes of the weights, in real Caffe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.calibration.sensitivity import BackwardTask, backward_task, sense_all
from enc_caffe.errors import CaffeError
from enc_caffe.form import Form
from enc_caffe.measuring.passes import NetTask, batches, engine_of
from enc_caffe.measuring.probes import probes_of
from enc_caffe.measuring.subject import Subject, net_task
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe
IMAGES = 6


def two_outputs() -> str:
    """A trunk with two heads, of which the second is an output of its own; a 1x1 and a fully connected layer, no softmax."""
    return (
        'name: "heads" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }\n'
        + nets.conv("a", "data", 8, stride=2) + nets.simple("ra", "ReLU", "a") + nets.conv("other", "a", 4)
        + nets.conv("b", "a", 8, kernel=1) + nets.simple("rb", "ReLU", "b", "rb") + nets.conv("c", "rb", 6, groups=2)
        + 'layer { name: "fc" type: "InnerProduct" bottom: "c" top: "fc" inner_product_param { num_output: 20 } }\n'
    )  # fmt: skip


def behind_argmax() -> str:
    """A convolution whose output only an ArgMax reads, beside one that goes on."""
    return (
        nets.HEAD.format(name="argmax") + nets.conv("a", "data", 8) + nets.simple("ra", "ReLU", "a") + nets.conv("lost", "a", 8)
        + 'layer { name: "most" type: "ArgMax" bottom: "lost" top: "most" argmax_param { axis: 1 } }\n' + nets.conv("b", "a", 1)
        + 'layer { name: "sum" type: "Eltwise" bottom: "b" bottom: "most" top: "sum" }\n' + nets.conv("c", "sum", 8)
        + nets.TAIL.format(last="c") + nets.LOSS
    )  # fmt: skip


def moved(task: NetTask, name: str, form: Form, images: int, step: float) -> np.ndarray:
    """Derivative of the scores (images, K) along what a form changes in a layer, by central differences (in a worker)."""
    with engine_of(task) as engine:
        blob = engine.net.params[name][0]
        kept = blob.data.copy()
        change = engine.truncated(name, form).reshape(kept.shape) - kept
        (data, _), *_ = batches(task, 0, images)
        try:
            found = []
            for sign in (1, -1):
                blob.data[...] = kept + sign * step * change
                found.append(engine.run(data))
        finally:
            blob.data[...] = kept
        return (found[0] - found[1]) / (2 * step)


def subject_of(folder: Path, text: str, executor, schemes="all", **kinds) -> tuple[Subject, list]:
    """A subject with random images and every sampled form of every layer."""
    model, weights = nets.write_net(folder, text)
    lmdb = nets.write_images(folder / "lmdb", IMAGES, **kinds)
    loaded = pipeline.load(model, lmdb, fully_connected=True, schemes=schemes)
    made = images_of(loaded, weights, lmdb, executor)
    table = pipeline.pca_metrics(loaded, weights)
    return made, [(m.name, m.form(r)) for m in table.layers for r in m.sampled_ranks[:3:2]]


def sensed(made: Subject, pairs: list, folder: Path, task: BackwardTask, executor):
    return sense_all(task, folder, pairs, IMAGES, made.chunk, executor, lambda d, a: None)


@pytest.mark.parametrize("text", (nets.residual(), nets.grouped(), two_outputs()), ids=("residual", "grouped", "heads"))
def test_changes_of_the_scores_are_those_of_small_changes_of_the_weights(tmp_path: Path, text: str) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, text, executor)
        task = backward_task(made, made.look.network.weighted)
        found = sensed(made, pairs, tmp_path / "s", task, executor)
        plain = replace(net_task(made, made.look.network.weighted, IMAGES))
        directions = probes_of(found.scores, made.look.scores.softmax, 0).directions
        scales = {}
        for name, form in pairs:
            derivative = executor.result(executor.submit(moved, plain, name, form, IMAGES, 5e-4))
            wanted = np.einsum("nmk,nk->nm", directions, derivative)
            scales[name, form] = float(np.abs(wanted).max())
            # A ReLU may turn within the step: few of many.
            near = np.isclose(found.changes[name, form], wanted, rtol=0.02, atol=0.02 * scales[name, form] + 2e-3)
            assert near.mean() > 0.93, (name, form, found.changes[name, form], wanted)
        assert min(scales[p] for p in pairs if p[0] != "other" and p[1].ranks[0] == 1) > 0.01


def test_what_a_form_changes_depends_on_neither_workers_nor_other_forms(tmp_path: Path) -> None:
    results = []
    for number, part in ((1, slice(None)), (2, slice(None)), (1, slice(1, None, 3))):
        with Workers(number).executor() as executor:
            made, pairs = subject_of(tmp_path / f"net{len(results)}", nets.residual(), executor)
            task = backward_task(made, made.look.network.weighted)
            results.append(sensed(made, pairs[part], tmp_path / f"{len(results)}", task, executor).changes)
    assert len(results[2]) < len(results[0])
    for other in results[1:]:
        assert all(np.array_equal(results[0][p], c) for p, c in other.items())


def test_what_is_kept_is_not_made_again_and_what_was_interrupted_goes_on(tmp_path: Path) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, nets.grouped(), executor)
        task = backward_task(made, made.look.network.weighted)
        first = sensed(made, pairs, tmp_path / "s", task, executor)
        stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*.npz")}
        again = sensed(made, pairs, tmp_path / "s", task, executor)
        assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "s").rglob("*.npz")}
        assert all(np.array_equal(first.changes[p], again.changes[p]) for p in pairs)
        # A damaged file is made anew.
        victim = next((tmp_path / "s").glob("g1.npz"))
        victim.write_bytes(victim.read_bytes()[:-200])
        after = sensed(made, pairs, tmp_path / "s", task, executor)
        assert all(np.array_equal(first.changes[p], after.changes[p]) for p in pairs)


def test_layers_behind_one_without_a_gradient_are_named(tmp_path: Path) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, behind_argmax(), executor, schemes=("spatial",))
        task = backward_task(made, made.look.network.weighted)
        assert task.blocked & {n for n, _ in pairs} == {"lost"} and {"a", "b", "c"} <= set(task.layers)
        found = sensed(made, [p for p in pairs if p[0] != "lost"], tmp_path / "s", task, executor)
        assert all(np.any(c) for (n, _), c in found.changes.items() if n in ("a", "b", "c"))


def test_scores_without_a_gradient_and_values_that_are_not_finite_are_errors(tmp_path: Path) -> None:
    text = (
        nets.HEAD.format(name="none") + nets.conv("a", "data", 8)
        + 'layer { name: "most" type: "ArgMax" bottom: "a" top: "most" argmax_param { axis: 1 } }\n'
    )  # fmt: skip
    with Workers(1).executor() as executor:
        made, _ = subject_of(tmp_path / "none", text, executor)
        with pytest.raises(CaffeError, match="no gradient of 'most' arrives.*--metric divergence"):
            backward_task(made, made.look.network.weighted)
        made, pairs = subject_of(tmp_path / "dead", nets.grouped(), executor)
        task = backward_task(made, made.look.network.weighted)
        # A network whose scores do not move: the layer before them is 0.
        with pytest.raises(CaffeError, match="do not change with the weights"):
            dead = nets.with_zero(made.weights, tmp_path / "zero.caffemodel", "fc")
            sensed(made, [p for p in pairs if p[0] != "fc"], tmp_path / "d", replace(task, task=replace(task.task, weights=str(dead))), executor)  # fmt: skip
