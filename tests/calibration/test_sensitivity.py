"""What forms change in the scores: the same whoever computes it, kept, resumed, and errors where there is no gradient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.calibration import sensitivity
from enc_caffe.calibration.sensitivity import (
    BackwardTask,
    backward_task,
    change_file,
    output_moments_of,
    parts_of,
    sense_all,
)
from enc_caffe.errors import CaffeError
from enc_caffe.files.arrays import write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.subject import Subject
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.workers.choice import Workers
from tests.decomposition.layers import conv
from tests.measuring import nets

pytestmark = pytest.mark.caffe
IMAGES = 6


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


def test_the_same_passes_give_what_outputs_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, nets.residual(), executor)
        task = backward_task(made, made.look.network.weighted)

        def sensed_too(pairs: list, outputs: Path | None) -> object:
            return sense_all(task, tmp_path / "s", pairs, IMAGES, 2, executor, lambda d, a: None, outputs)

        def moments(folder: str) -> dict[str, np.ndarray]:
            return output_moments_of(task, tmp_path / folder, IMAGES, 2, executor, lambda d, a: None)

        alone = moments("alone")
        sensed_too(pairs[::2], tmp_path / "beside")
        passes: list[bool] = []
        run = sensitivity._run

        def counted(*given):
            passes.append(given[-1])
            return run(*given)

        monkeypatch.setattr(sensitivity, "_run", counted)
        beside = moments("beside")
        # What the forms' layers need is there; the rest, if any, is one more pass.
        assert set(beside) == set(alone) and len(passes) == (len({n for n, _ in pairs[::2]}) < len(alone))
        assert all(np.array_equal(alone[n], g) for n, g in beside.items())
        # It is not summed again beside other forms.
        passes.clear()
        sensed_too(pairs, tmp_path / "beside")
        assert passes == [False]


def test_layers_behind_one_without_a_gradient_are_named(tmp_path: Path) -> None:
    with Workers(1).executor() as executor:
        made, pairs = subject_of(tmp_path, nets.behind_argmax(), executor, schemes=("spatial",))
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


def test_parts_are_cut_by_the_room_that_changed_weights_take(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.decomposition.test_outputs import layer_of

    layer = layer_of("3x3")
    monkeypatch.setattr(sensitivity, "STACK", 4 * 54 * 8 * 64)
    forms = [Form("spatial", (r,)) for r in range(1, 101)]
    parts = parts_of({"c": layer, "d": layer}, {"c": forms, "d": forms[:3]})
    assert [[(n, len(f)) for n, f in p] for p in parts] == [[("c", 64)], [("c", 36)], [("d", 3)]]
    assert [f for p in parts for n, own in p for f in own if n == "c"] == forms


def test_changes_that_are_not_finite_are_an_error_that_names_the_layer(tmp_path: Path) -> None:
    # As a worker leaves them where scores are near the end of float32.
    form, layer = Form("spatial", (2,)), conv(4, 4, (3, 3))
    write_arrays(tmp_path / "probes.npz", {"scores": np.zeros((3, 2), np.float32), "roots": np.ones((3, 1, 1))})
    write_arrays(change_file(tmp_path, "c"), {str(form): np.array([[0.0], [np.inf], [1.0]], np.float32)})
    backward = SimpleNamespace(layers={"c": layer}, task=SimpleNamespace(softmax=True))
    with pytest.raises(CaffeError, match=r"layer 'c' as spatial:2: .* not finite.*--metric divergence"):
        sense_all(backward, tmp_path, [("c", form)], 3, 3, None, lambda d, a: None)  # type: ignore[arg-type]
