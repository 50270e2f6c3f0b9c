"""Both networks side by side in real Caffe: what their losses are, and that the original stays what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.calibration import beside as module
from enc_caffe.calibration import reconstruction
from enc_caffe.calibration.blocks import advance
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.layerwise import Blobs
from enc_caffe.calibration.pairs import BlocksTask, Run
from enc_caffe.calibration.runs import LOSS, blob_roots, parsed, turned_power
from enc_caffe.calibration.segments import Segment
from enc_caffe.form import Form
from enc_caffe.workers.choice import Workers
from enc_caffe.workers.pycaffe import adam_solver, forward
from tests.calibration.test_layerwise import Setting
from tests.measuring import nets

pytestmark = pytest.mark.caffe


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    with Workers(1).executor() as executor:
        yield Setting(tmp_path_factory.mktemp("beside"), nets.residual(), executor, 104)


def begun(setting: Setting) -> tuple[BlocksTask, Blobs]:
    """A fit of low ranks before its first step."""
    forms = {n: Form(f.scheme, (max(1, f.ranks[0] // 2),)) for n, f in setting.forms.items()}
    base = setting.decomposer(Decomposition("asymmetric")).blobs(forms)
    folder = setting.folder / "work"
    folder.mkdir(exist_ok=True)
    task = reconstruction.blocks_task(setting.images, CaffeModel(setting.weights), forms, "exact", base, folder)
    return task, base


def test_an_image_as_chance_has_it() -> None:
    image = np.arange(3 * 30 * 64, dtype=np.float32).reshape(3, 30, 64)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(300):
        found = module.varied(image, rng)
        mirrored = found[0, 15, 20] > found[0, 15, 21]
        source = image[..., ::-1] if mirrored else image
        # A part of 16: two of thirty rows, four of sixty-four columns.
        padded = np.pad(source, ((0, 0), (2, 2), (4, 4)), mode="edge")
        fits = [
            (down, right) for down in range(5) for right in range(9)
            if np.array_equal(found, padded[:, down : down + 30, right : right + 64])
        ]  # fmt: skip
        assert len(fits) == 1
        seen.add((bool(mirrored), *fits[0]))
    assert len(seen) > 80
    vector = np.arange(5.0)
    assert module.varied(vector, rng) is vector
    one = np.ones((2, 1, 1))
    assert np.array_equal(module.varied(one, rng), one)


def losses(task: BlocksTask, base: Blobs, powers: tuple[float, ...], steps: int) -> tuple[list[float], bool, bool]:
    """Every target's part of what is minimised, on the first held-out images; then, after steps, whether the original changed, and whether the other did (in a
    worker)."""
    source = module.Beside(task, 0)
    text, fitted = source.net(4, powers)
    solver = adam_solver(text, task.compressed.weights, 1e-3, steps)
    net = solver.net
    source.ready(net)
    source.put(net, source.kept.held[:4])
    net.forward()
    weights = {layer.name: layer.loss_weight[0] for layer in parsed(text).layer if layer.loss_weight}
    names = [*(f"{LOSS}_{at}" for at in range(len(powers) - 1)), LOSS]
    assert set(weights) == set(names)
    found = [weights[name] * float(net.blobs[name].data) for name in names]
    theirs = [name for name in net.params if name.startswith(module.ORIGINAL)]
    before = {name: [np.array(b.data) for b in net.params[name]] for name in (*theirs, *fitted)}
    rng = np.random.default_rng(0)
    for _ in range(steps):
        source.put(net, source.kept.fitted[:4], rng)
        solver.step(1)

    def changed(those: list[str]) -> bool:
        return any(np.any(b.data != a) for name in those for b, a in zip(net.params[name], before[name]))

    return found, changed(theirs), changed(fitted)


def both(setting: Setting, task: BlocksTask, places: list[int], blobs: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """Blobs of the compressed network and of the original, for images at these places."""
    images = {"data": setting.data()[places]}
    jobs = [(forward, net.prototxt, net.weights, images, list(blobs)) for net in (task.compressed, task.original)]
    return [setting.executor.result(setting.executor.submit(*job)) for job in jobs]


def test_every_blob_between_two_runs_is_held_to_the_originals(setting: Setting) -> None:
    task, base = begun(setting)
    at = 0
    targets = task.runs[at].targets
    # Behind each run, and the activations inside.
    assert targets == ("c1", "sum", "c3", "c4", "fc") and {run.segment.top for run in task.runs[1:]} == {"sum", "fc"}
    roots = blob_roots(task.original, targets, 104, setting.executor, lambda done, all_: None)
    task = replace(task, roots=roots)
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, at, False, chunk, {}))
    source = module.Beside(task, at)
    powers = setting.executor.result(setting.executor.submit(held_powers, task, at))
    found, moved, learned = setting.executor.result(setting.executor.submit(losses, task, base, powers, 2))
    assert learned and not moved
    places = [task.spans[chunk][0] + i for chunk, i in source.kept.held]
    blobs = both(setting, task, places, targets)
    for blob, power, loss in zip(targets, powers, found):
        ours, theirs = (side[blob] for side in blobs)
        # What changes of the channels cost weighs those of the last blob.
        root = roots[blob] if blob == targets[-1] else None
        assert power == pytest.approx(turned_power(root, theirs) / len(places), rel=1e-4)
        # Those inside a run count less.
        share = 1.0 if blob in ("sum", "fc") else module.ASIDE
        assert loss == pytest.approx(share * turned_power(root, ours[:4] - theirs[:4]) / (4 * power), rel=1e-3)


def test_what_is_in_front_of_the_runs_is_computed_once_in_place_too(tmp_path: Path, setting: Setting) -> None:
    scaled = nets.simple("start", "Power", "data", extra="power_param { scale: 0.5 shift: 1 }")
    first = nets.conv("c0", "data", 8, bias=False)
    own = Setting(tmp_path, nets.residual().replace(first, scaled + first), setting.executor, 104)
    assert "start" in own.model.read_text()
    task, base = begun(own)
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, 0, False, chunk, {}))
    powers = setting.executor.result(setting.executor.submit(held_powers, task, 0))
    found, moved, learned = setting.executor.result(setting.executor.submit(losses, task, base, powers, 1))
    assert learned and not moved
    places = [task.spans[chunk][0] + i for chunk, i in module.Beside(task, 0).kept.held[:4]]
    blobs = both(own, task, places, task.runs[0].targets)
    for blob, power, loss in zip(task.runs[0].targets, powers, found):
        off = float(np.sum((blobs[0][blob] - blobs[1][blob]) ** 2))
        share = module.ASIDE if blob in task.runs[0].aside else 1.0
        assert loss == pytest.approx(share * off / (4 * power), rel=1e-3)


def windowed(task: BlocksTask) -> tuple[tuple[int, ...], tuple[int, ...], bool, bool]:
    """Shapes of the images of a step and of those that are held out behind it, whether both networks see the same, and whether weights were fitted (in a
    worker)."""
    source = module.Beside(task, 0)
    text, fitted = source.net(4, source.powers())
    solver = adam_solver(text, task.compressed.weights, 1e-3, 1)
    net = solver.net
    source.ready(net)
    source.put(net, source.kept.fitted[:4], np.random.default_rng(0))
    before = {name: np.array(net.params[name][0].data) for name in fitted}
    solver.step(1)
    shape = net.blobs["data"].data.shape
    theirs = [net.blobs[name].data.shape for name in net.blobs if name == module.ORIGINAL + "sum"]
    same = theirs == [net.blobs["sum"].data.shape] and theirs[0][2:] == shape[2:]
    source.put(net, source.kept.held[:4])
    net.forward()
    moved = any(np.any(net.params[name][0].data != own) for name, own in before.items())
    return shape, net.blobs["data"].data.shape, same, moved


def test_a_step_sees_windows_and_what_is_held_out_is_whole(setting: Setting) -> None:
    task, _ = begun(setting)
    run = Run(task.runs[1].segment, 1, 4, targets=("c1", "sum"), window=(8, 6))
    task = replace(task, runs=(run,))
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, 0, False, chunk, {}))
    found = setting.executor.result(setting.executor.submit(windowed, task))
    assert found == ((4, 3, 8, 6), (4, 3, 12, 12), True, True)


def test_a_window_is_anywhere_in_an_image() -> None:
    image = np.arange(2 * 5 * 9).reshape(2, 5, 9)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(200):
        found = module.part_of(image, (4, 7), rng)
        down, right = divmod(int(found[0, 0, 0]), 9)
        assert np.array_equal(found, image[:, down : down + 4, right : right + 7])
        seen.add((down, right))
    assert seen == {(d, r) for d in range(2) for r in range(3)}
    assert module.part_of(image, (), rng) is image


def held_powers(task: BlocksTask, at: int) -> tuple[float, ...]:
    return module.Beside(task, at).powers()


def test_the_original_beside_is_folded_where_that_leaves_every_blob_that_is_needed(setting: Setting) -> None:
    task, _ = begun(setting)
    assert task.beside.followers and not task.original.followers
    last = task.runs[0]
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, 0, False, chunk, {}))
    text, _ = setting.executor.result(setting.executor.submit(text_of, task, 0))
    theirs = [layer.type for layer in parsed(text).layer if layer.name.startswith(module.ORIGINAL)]
    assert "Convolution" in theirs and "BatchNorm" not in theirs
    # A blob between a convolution and its BatchNorm is not there when both are one.
    less = replace(task.beside, prototxt=task.beside.prototxt.replace(f'top: "{last.targets[0]}"', 'top: "other"'))
    text, _ = setting.executor.result(setting.executor.submit(text_of, replace(task, beside=less), 0))
    assert "BatchNorm" in [x.type for x in parsed(text).layer if x.name.startswith(module.ORIGINAL)]


def test_blobs_of_five_axes_and_of_other_things_than_images_first(tmp_path: Path, setting: Setting) -> None:
    # Caffe's EuclideanLoss takes four axes at most, and divides by the first.
    def reshaped(name: str, bottom: str, *dims: int) -> str:
        return nets.simple(
            name, "Reshape", bottom, name, f"reshape_param {{ shape {{ {' '.join(f'dim: {d}' for d in dims)} }} }}"
        )

    text = (
        nets.HEAD.format(name="five") + nets.conv("c0", "data", 8) + nets.conv("c1", "c0", 8) + nets.conv("c2", "c1", 8) + reshaped("five", "c2", 0, 2, 4, 12, 12)
        + nets.simple("turned", "AbsVal", "five", "turned") + reshaped("back", "turned", 0, 8, 12, 12)
        + nets.conv("c3", "back", 8) + nets.conv("c4", "c3", 8) + reshaped("rows", "c4", -1, 12) + nets.simple("more", "AbsVal", "rows", "more")
        + reshaped("whole", "more", -1, 8, 12, 12) + nets.conv("c5", "whole", 8) + nets.conv("c6", "c5", 4) + nets.TAIL.format(last="c6") + nets.LOSS
    )  # fmt: skip
    own = Setting(tmp_path, text, setting.executor, 104)
    forms = {f"c{i}": Form("spatial", (3,)) for i in range(1, 7)}
    base = own.decomposer(Decomposition("asymmetric")).blobs(forms)
    (own.folder / "work").mkdir()
    task = reconstruction.blocks_task(own.images, CaffeModel(own.weights), forms, "exact", base, own.folder / "work")
    targets = ("five", "rows", task.runs[0].targets[-1])
    task = replace(task, runs=(replace(task.runs[0], targets=targets), *task.runs[1:]))
    for chunk in range(len(task.spans)):
        own.executor.result(own.executor.submit(advance, task, 0, False, chunk, {}))
    powers = own.executor.result(own.executor.submit(held_powers, task, 0))
    found, moved, learned = own.executor.result(own.executor.submit(losses, task, base, powers, 1))
    assert learned and not moved
    places = [task.spans[chunk][0] + i for chunk, i in module.Beside(task, 0).kept.held[:4]]
    sides = both(own, task, places, targets)
    for blob, power, loss in zip(targets, powers, found):
        off = float(np.sum((sides[0][blob] - sides[1][blob]) ** 2))
        share = module.ASIDE if blob in task.runs[0].aside else 1.0
        assert loss == pytest.approx(share * off / (4 * power), rel=1e-3)


def test_where_a_layer_has_no_gradient_nothing_is_fitted(setting: Setting) -> None:
    task, _ = begun(setting)
    at = 0
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, at, False, chunk, {}))
    last = task.runs[at]
    assert setting.executor.result(setting.executor.submit(text_of, task, at))[1]
    blocked = replace(
        task.compressed, prototxt=task.compressed.prototxt.replace('type: "Eltwise"', 'type: "Python"', 1)
    )
    run = Run(Segment(1, last.segment.stop, "data", last.segment.top), 8, targets=last.targets)
    other = replace(task, compressed=blocked, runs=(run, *task.runs[1:]))
    assert setting.executor.result(setting.executor.submit(text_of, other, at)) == ("", [])


def text_of(task: BlocksTask, at: int) -> tuple[str, list[str]]:
    source = module.Beside(task, at)
    return source.net(4, [1.0] * len(task.runs[at].targets))
