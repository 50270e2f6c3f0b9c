"""Networks fitted run by run in real Caffe: the loss, what is kept of it, and whether the whole comes nearer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.calibration import blocks as module
from enc_caffe.calibration import fitting, reconstruction
from enc_caffe.calibration.decomposer import Decomposition
from enc_caffe.calibration.fitting import BlocksTask
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


def test_every_run_comes_nearer_on_images_that_it_did_not_see_and_so_does_the_whole(setting: Setting) -> None:
    forms = low(setting)
    made = setting.decomposer(AFTER)
    folder = setting.folder / "work"
    folder.mkdir()
    task = reconstruction.blocks_task(
        setting.images, CaffeModel(setting.weights), forms, "exact", setting.decomposer(BEFORE).blobs(forms), folder
    )
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
    assert setting.divergence(AFTER, forms) < setting.divergence(BEFORE, forms)
    assert made.how.words() == "asymmetric, fitted by blocks"


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
    assert len(tasks[0].runs) > 2 and not tasks[0].runs[-1].onward
    tasks = [shorter(task, 30) for task in tasks]
    whole, _ = module.fit_blocks(tasks[0], setting.executor)
    # Behind the first run, and between two rounds of the last one.
    edge = tasks[1].runs[0].steps
    inside = sum(run.steps for run in tasks[1].runs[:-1]) + tasks[1].runs[-1].steps // 2
    for stop_at in (edge, inside):

        def stop(at: int, of: int, stop_at: int = stop_at) -> None:
            if at >= stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            module.fit_blocks(tasks[1], setting.executor, stop)
        again: list[int] = []

        def look(at: int, of: int, again: list[int] = again) -> None:
            again.append(at)
            if len(again) == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            module.fit_blocks(tasks[1], setting.executor, look)
        # What is behind the last run is done, and of that one the rounds that ended.
        assert again[0] == edge * (stop_at // edge) and again[1] in (stop_at, again[0])
    second, _ = module.fit_blocks(tasks[1], setting.executor)
    assert set(whole) == set(second)
    for name, arrays in whole.items():
        for one, other in zip(arrays, second[name]):
            np.testing.assert_array_equal(one, other)
    assert not list(folders[1].glob("rounds-*"))


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


def test_all_runs_are_fitted_together_in_the_end_where_a_step_fits() -> None:
    segments = [Segment(2, 5, "a", "b"), Segment(5, 9, "b", "c"), Segment(9, 12, "c", "d")]
    runs = module.runs_of(segments, 1000, 10**8, 10**6)
    assert [r.segment for r in runs[:-1]] == segments and [r.onward for r in runs] == [False, True, True, False]
    assert runs[-1].segment == Segment(2, 12, "a", "d") and runs[-1].variants > 1 and runs[-1].batch == module.BATCH
    # A run is all there is; large blobs make smaller steps, more of them, and too large ones none.
    assert [r.onward for r in module.runs_of(segments[:1], 1000, 10**8, 10**6)] == [False]
    small = module.runs_of(segments, 1000, 10**8, module.STEP // 5)[-1]
    assert small.batch == 5 and small.steps == module.WHOLE_EPOCHS * 875 // 5
    assert len(module.runs_of(segments, 1000, 10**8, module.STEP // 3)) == len(segments)


def test_variants_of_an_image() -> None:
    images = np.arange(2 * 3 * 6 * 7, dtype=np.float32).reshape(2, 3, 6, 7)
    assert np.array_equal(fitting.varied(images, 0), images)
    seen = set()
    for number, (mirror, (down, right)) in enumerate(fitting.VARIANTS):
        found = fitting.varied(images, number)
        source = images[..., ::-1] if mirror else images
        padded = np.pad(source, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
        assert np.array_equal(found, padded[:, :, 2 + down : 8 + down, 2 + right : 9 + right])
        seen.add(found.tobytes())
    assert len(seen) == len(fitting.VARIANTS) >= module.WHOLE_VARIANTS


def test_nothing_that_is_held_out_is_fitted_to_in_any_variant(setting: Setting) -> None:
    folder = setting.folder / "pairs"
    folder.mkdir()
    base = setting.decomposer(BEFORE).blobs(low(setting))
    task = reconstruction.blocks_task(setting.images, CaffeModel(setting.weights), low(setting), "exact", base, folder)
    last = len(task.runs) - 1
    chunks, variants = task.chunks(last), task.runs[last].variants
    for chunk in range(len(chunks)):
        setting.executor.result(setting.executor.submit(module.advance, task, last, False, chunk, {}))
    pairs = fitting._Pairs(task, last)

    def image(place: tuple[int, int]) -> tuple[int, int]:
        return chunks[place[0]][0] + place[1], chunks[place[0]][2]

    held, fitted = {image(p) for p in pairs.held}, {image(p) for p in pairs.fitted}
    number = sum(stop - first for first, stop in task.spans)
    assert len(held) == number // module.HELD and {v for _, v in held} == {0}
    assert len(fitted) == variants * (number - len(held)) and not {i for i, _ in held} & {i for i, _ in fitted}
    # What is wanted of a variant is what the original gives for it.
    for place in (pairs.held[0], pairs.fitted[-1]):
        at, variant = image(place)
        data = fitting.varied(setting.data()[at : at + 1], variant)
        top = task.runs[last].segment.top
        job = (forward, task.original.prototxt, task.original.weights, {"data": data}, [top])
        wanted = setting.executor.result(setting.executor.submit(*job))[top]
        np.testing.assert_allclose(pairs.stacked([place], 1), wanted, rtol=1e-4, atol=1e-5)


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
    steps = [module.steps_of(200, 10**6, epochs) for epochs in (module.EPOCHS, module.WHOLE_EPOCHS)]
    assert module.images_passed(200, 10**6) == module.BATCH * sum(steps)


def test_too_few_images_are_refused_and_too_large_blobs_take_fewer(setting: Setting) -> None:
    with pytest.raises(UsageError, match="99 images; at least 100"):
        module.spans(99, 10, 5)
    assert module.spans(100, 10, 5)[-1][1] == 100
    some = module.spans(10_000, module.LIVE // 4 // 1000, 10)
    used = sum(stop - first for first, stop in some)
    assert 1000 <= used <= 1000 + module.CHUNKS and len(some) == module.CHUNKS
    # Spread over all of them.
    assert some[-1][0] >= 8000
