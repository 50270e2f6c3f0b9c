"""Networks fitted run by run in real Caffe: the loss, what is kept of it, and whether the whole comes nearer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.calibration import blocks as module
from enc_caffe.calibration import reconstruction
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.pairs import BlocksTask, Run
from enc_caffe.calibration.segments import Segment
from enc_caffe.errors import UsageError
from enc_caffe.form import Form
from enc_caffe.measuring.scores import divergence
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import forward
from tests.calibration.test_layerwise import Setting
from tests.measuring import nets

pytestmark = pytest.mark.caffe
BEFORE, AFTER = Decomposition("asymmetric"), Decomposition("asymmetric", reconstruct="blocks")


@pytest.fixture(scope="module")
def workers():
    with Workers(1).executor() as executor:
        yield executor


@pytest.fixture(scope="module", params=("residual", "grouped"))
def setting(request, tmp_path_factory, workers) -> Setting:
    return Setting(tmp_path_factory.mktemp(request.param), getattr(nets, request.param)(), workers, 120)


def low(setting: Setting) -> dict[str, Form]:
    """A quarter of r_max."""
    return {n: Form(f.scheme, (max(1, f.ranks[0] // 2),)) for n, f in setting.forms.items()}


def shorter(task: BlocksTask, steps: int) -> BlocksTask:
    """The same runs, of so many steps each."""
    return replace(task, runs=tuple(replace(run, steps=steps) for run in task.runs))


@pytest.mark.parametrize("together", (True, False))
def test_every_run_comes_nearer_on_images_that_it_did_not_see_and_so_does_the_whole(
    setting: Setting, together: bool
) -> None:
    forms = low(setting)
    folder = setting.folder / f"work-{together}"
    folder.mkdir()
    task = reconstruction.blocks_task(
        setting.images, CaffeModel(setting.weights), forms, "exact", setting.decomposer(BEFORE).blobs(forms), folder
    )
    task = replace(task, runs=task.runs[:1] if together else task.runs[1:])
    assert bool(task.runs[0].targets) == together
    fitted, errors = module.fit_blocks(shorter(task, 150), setting.executor)
    assert len(errors) == len(task.runs) and all(after <= before for before, after in errors)
    assert any(after < 0.9 * before for before, after in errors)
    # The errors are those of what is written: the whole network behind its last run, on the images that were held out.
    held = [i for first, stop in task.spans for i in range(first, stop)][module.HELD - 1 :: module.HELD]
    base = setting.decomposer(BEFORE).blobs(forms)
    blob = task.runs[-1].segment.top
    ours = setting.executor.result(
        setting.executor.submit(scores, task, {**base, **fitted}, setting.data()[held], blob)
    )
    theirs = setting.executor.result(
        setting.executor.submit(
            forward, task.original.prototxt, task.original.weights, {"data": setting.data()[held]}, [blob]
        )
    )[blob]
    assert np.sum((ours - theirs) ** 2) / np.sum(theirs**2) == pytest.approx(errors[-1][1], rel=1e-3)
    # What decides in the end is the network's divergence on them.
    apart = setting.executor.result(setting.executor.submit(module.held_apart, task, fitted))
    reference = setting.executor.result(
        setting.executor.submit(
            forward, task.original.prototxt, task.original.weights, {"data": setting.data()[held]}, ["fc"]
        )
    )["fc"]
    for weights, value in zip((base, {**base, **fitted}), apart):
        own = setting.executor.result(setting.executor.submit(scores, task, weights, setting.data()[held], "fc"))
        assert value.sum() == pytest.approx(divergence(reference, own), rel=1e-3)
    assert apart[1].sum() < apart[0].sum() and module.nearer(apart)


def test_the_network_comes_nearer(setting: Setting) -> None:
    assert setting.divergence(AFTER, low(setting)) < setting.divergence(BEFORE, low(setting))
    assert setting.decomposer(AFTER).how.words() == "asymmetric, fitted by blocks"


def scores(task, blobs, data, blob):
    """A blob of the compressed network with these weights, or those of its caffemodel (in a worker)."""
    from enc_caffe.measuring.passes import engine_of

    with engine_of(task.compressed) as engine:
        engine.put({n: [engine.model.array(b) for b in engine.model.layers[n].blobs] for n in engine.net.params})
        engine.put(blobs)
        engine.run(data)
        return np.array(engine.net.blobs[blob].data)


def test_a_fit_that_was_stopped_goes_on_and_comes_to_the_same(tmp_path: Path, workers) -> None:
    setting = Setting(tmp_path, nets.residual(), workers, 100)
    forms, model = low(setting), CaffeModel(setting.weights)
    base = setting.decomposer(BEFORE).blobs(forms)
    folders = [setting.folder / name for name in ("once", "twice")]
    tasks = []
    for folder in folders:
        folder.mkdir()
        tasks.append(reconstruction.blocks_task(setting.images, model, forms, "exact", base, folder))
    assert len(tasks[0].runs) > 2 and tasks[0].runs[0].targets and tasks[0].runs[-1].onward
    # Where all runs together bring nothing, which no step at a rate of 0 does, they are fitted one after the other.
    tasks = [shorter(task, 30) for task in tasks]
    tasks = [replace(task, runs=(replace(task.runs[0], rates=(0.0,)), *task.runs[1:])) for task in tasks]
    asked: list[list[str]] = []
    tops = [run.segment.top for run in tasks[0].runs]

    def roots(blobs: Sequence[str]) -> dict[str, np.ndarray]:
        asked.append(list(blobs))
        return {blob: np.linspace(0.5, 2.0, setting.loaded.network.shape_of(blob)[1]) for blob in blobs}

    whole, errors = module.fit_blocks(tasks[0], setting.executor, roots=roots)
    # The last blob's for all runs together, the others' when these found nothing; none twice.
    assert asked == [tops[:1], sorted(set(tops[1:]) - set(tops[:1]))]
    assert whole and len(errors) == len(tasks[0].runs) and errors[0][0] == errors[0][1]
    # Between two rounds of the first run, behind the second, and between two rounds of the last.
    steps = tasks[1].runs[0].steps
    inside = sum(run.steps for run in tasks[1].runs[:-1]) + tasks[1].runs[-1].steps // 2
    for stop_at in (steps // 2, 2 * steps, inside):

        def stop(at: int, of: int, stop_at: int = stop_at) -> None:
            if at >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            module.fit_blocks(tasks[1], setting.executor, stop, roots)
        again: list[int] = []

        def look(at: int, of: int, again: list[int] = again) -> None:
            again.append(at)
            if len(again) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            module.fit_blocks(tasks[1], setting.executor, look, roots)
        # What is behind the last run is done, and of that one the rounds that ended.
        assert again[0] == steps * (stop_at // steps) and stop_at in again
    second, _ = module.fit_blocks(tasks[1], setting.executor, roots=roots)
    assert set(whole) == set(second)
    for name, arrays in whole.items():
        for one, other in zip(arrays, second[name]):
            np.testing.assert_array_equal(one, other)
    assert not list(folders[1].glob("rounds-*"))


def test_progress_goes_on_where_another_learning_rate_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The first run is given up after half of its rounds, and fitted at its second rate; the other finds something at once.
    def fit(task, at, rate, blobs, executor, progress):
        for rounds in range(2 if (at, rate) == (0, 1.0) else 4):
            progress(rounds)
        return ({} if (at, rate) == (0, 1.0) else {f"l{at}": [np.ones(1)]}), 1.0, 0.5

    monkeypatch.setattr(module, "fit", fit)
    between = Segment(0, 1, "data", "top")
    runs = tuple(Run(between, 40, rates=rates) for rates in ((1.0, 0.1), (1.0,)))
    seen: list[tuple[int, int]] = []
    nets_ = (None, None, None)
    task = BlocksTask(*nets_, str(tmp_path), runs, ())  # type: ignore[arg-type]
    found, _ = module.fit_blocks(task, None, lambda at, of: seen.append((at, of)))  # type: ignore[arg-type]
    assert set(found) == {"l0", "l1"} and seen == sorted(seen) and seen[-1] == (90, 90)
    assert [at for at, _ in seen] == [0, 0, 10, 10, 20, 30, 40, 50, 50, 50, 60, 70, 80, 90]


def test_what_all_runs_together_found_is_enough(setting: Setting) -> None:
    folder = setting.folder / "together"
    folder.mkdir()
    base = setting.decomposer(BEFORE).blobs(low(setting))
    task = reconstruction.blocks_task(setting.images, CaffeModel(setting.weights), low(setting), "exact", base, folder)
    task, seen = shorter(task, 40), list[tuple[int, int]]()
    fitted, errors = module.fit_blocks(task, setting.executor, lambda at, of: seen.append((at, of)))
    assert fitted and len(errors) == 1 and seen[-1] == (40, 40)
    # Once more: nothing is left to do.
    again, same = module.fit_blocks(task, setting.executor)
    assert same == errors and set(again) == set(fitted)


def test_steps_go_over_the_images_and_are_fewer_for_large_networks() -> None:
    assert module.steps_of(1000, 126_000_000, 10) == 10 * 875 // module.BATCH
    assert module.steps_of(1000, 126_000_000, 20, 5) == 20 * 875 // 5
    # By multiply-adds: ResNet-50 on 5,000 images, VGG-16 on 1,000.
    assert module.steps_of(5000, 4 * 10**9, 20, more=True) == int(1e13 / 4e9) // module.BATCH
    assert module.steps_of(5000, 4 * 10**9, 20) == module.FEWEST_STEPS
    # SqueezeNet passes 1,000 images ten times, whatever the run.
    assert (
        module.steps_of(1000, 387_747_520, 10) == 10 * 875 // module.BATCH == module.steps_of(1000, 387_747_520, 20) - 2
    )
    assert module.steps_of(1000, 15_470_264_320, 10) == module.FEWEST_STEPS
    assert module.steps_of(40, 10**6, 10) == module.steps_of(10**6, 10**13, 10) == module.FEWEST_STEPS


def test_all_runs_are_fitted_together_where_a_step_fits() -> None:
    segments = [Segment(2, 5, "a", "b"), Segment(5, 9, "b", "c"), Segment(9, 12, "c", "d")]
    runs = module.runs_of(segments, 1000, 10**8, 10**6)
    assert [r.segment for r in runs[1:]] == segments and [r.onward for r in runs] == [False, False, True, True]
    assert runs[0].segment == Segment(2, 12, "a", "d") and runs[0].batch == module.BATCH
    assert [r.targets for r in runs] == [("b", "c", "d"), (), (), ()]
    assert [r.targets for r in module.runs_of(segments[:1], 1000, 10**8, 10**6)] == [("b",), ()]
    assert module.runs_of([], 1000, 10**8, 10**6) == ()
    # Large blobs make smaller steps, more of them, and too large ones none.
    small = module.runs_of(segments, 1000, 10**8, module.STEP // 5)[0]
    assert small.batch == 5 and small.steps == module.WHOLE_EPOCHS * 875 // 5
    assert len(module.runs_of(segments, 1000, 10**8, module.STEP // 3)) == len(segments)
    # Windows of a third of the area: three times as many steps.
    part = module.runs_of(segments, 1000, 10**8, 10**6, targets=("a1", "d"), window=(60, 50), part=1 / 3)[0]
    assert (part.targets, part.aside, part.window) == (("a1", "d"), ("a1",), (60, 50)) and part.steps == 3 * runs[
        0
    ].steps


def test_a_fit_is_kept_unless_what_is_held_out_speaks_against_it() -> None:
    rng = np.random.default_rng(0)
    before = rng.exponential(1.0, 100)
    assert module.nearer(np.stack([before, 0.9 * before]))
    assert not module.nearer(np.stack([before, 1.1 * before]))
    # A loss within chance, which is two standard errors.
    noise = rng.normal(0.0, 1.0, 100)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    for errors, kept in ((1.0, True), (1.9, True), (2.1, False)):
        assert module.nearer(np.stack([before, before + noise + errors / 10.0])) == kept


def test_nothing_passes_where_there_are_too_few_images() -> None:
    assert module.images_passed(module.FEWEST - 1, 10**6) == 0
    assert module.images_passed(200, 10**6) == module.BATCH * module.steps_of(200, 10**6, module.WHOLE_EPOCHS)


def test_too_few_images_are_refused_and_too_large_blobs_take_fewer(setting: Setting) -> None:
    with pytest.raises(UsageError, match="99 images; at least 100"):
        module.spans(99, 10, 5)
    assert module.spans(100, 10, 5)[-1][1] == 100
    some = module.spans(10_000, module.LIVE // 4 // 1000, 10)
    used = sum(stop - first for first, stop in some)
    assert 1000 <= used <= 1000 + module.CHUNKS and len(some) == module.CHUNKS
    # Spread over all of them.
    assert some[-1][0] >= 8000


def test_long_fits() -> None:
    macs = 126_534_272
    # ResNet-56 by 1,000 images and by 300; a network ten times as large.
    assert [module.is_long(n, m) for n, m in ((1000, macs), (300, macs), (1000, 10 * macs))] == [True, False, False]
