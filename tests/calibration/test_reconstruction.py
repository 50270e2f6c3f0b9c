"""A narrow network's weights beside those of the wide one that it is taken from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.calibration import blocks, windows
from enc_caffe.calibration import reconstruction as module
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.form import Form
from enc_caffe.workers.choice import Workers
from tests.calibration.test_layerwise import Setting
from tests.measuring import nets

pytestmark = pytest.mark.caffe


def test_narrow_weights_are_widened_whatever_they_began_with(tmp_path: Path) -> None:
    forms = {"c1": Form("spatial", (4,)), "c2": Form("prune", (3,))}
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, nets.residual(), executor, 100)
        model = CaffeModel(setting.weights)
        task = module.blocks_task(setting.images, model, forms, "exact", {}, tmp_path)
        narrow = CaffeModel(Path(task.compressed.weights))
        own = {n: [narrow.array(b) + 1.0 for b in narrow.layers[n].blobs] for n in ("c1_v", "c1_h", "c1_scale", "c2")}
        assert own["c1_h"][0].shape[0] == 3 and own["c2"][0].shape[1] == 3
        # The base has no weights of a chain: it is plain SVD.
        wide = module.widened(setting.images, model, forms, "exact", {}, own)
        assert wide["c1_h"][0].shape[0] == 8 and wide["c1_scale"][0].shape == (8,) and wide["c2"][0].shape[1] == 8
        again = module.blocks_task(setting.images, model, forms, "exact", wide, tmp_path)
        written = CaffeModel(Path(again.compressed.weights))
        for name, arrays in own.items():
            for array, blob in zip(arrays, written.layers[name].blobs):
                np.testing.assert_allclose(written.array(blob), array, rtol=1e-6)


def test_where_a_step_through_all_does_not_fit_together_is_run_by_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = {name: Form("spatial", (3,)) for name in ("c1", "c2", "c3")}
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, nets.residual(), executor, 100)
        model = CaffeModel(setting.weights)

        def runs(together: bool) -> list:
            return list(module.blocks_task(setting.images, model, forms, "exact", {}, tmp_path, together).runs)

        several = runs(False)
        assert len(several) > 2 and runs(True) == several[:1] and several[0].targets
        # Together all images are used that have room by themselves, one by one those whose blobs have.
        monkeypatch.setattr("enc_caffe.calibration.blocks.LIVE", 4 * 200 * 3 * 12 * 12)
        monkeypatch.setattr("enc_caffe.calibration.blocks.FEWEST", 20)
        used = [
            sum(b - a for a, b in module.blocks_task(setting.images, model, forms, "exact", {}, tmp_path, t).spans)
            for t in (True, False)
        ]
        assert used[0] == 100 > used[1]
        monkeypatch.setattr("enc_caffe.calibration.blocks.STEP", 1)
        assert [r.segment for r in runs(True)] == [r.segment for r in several[1:]]


def test_a_blob_of_many_channels_is_not_weighed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # All outputs of a detector in one blob are tens of thousands of channels: a matrix of them took hours.
    forms, asked = {name: Form("spatial", (3,)) for name in ("c1", "c2", "c3")}, []
    monkeypatch.setattr(module, "blob_roots", lambda task, blobs, *_: asked.append(list(blobs)) or {})

    def fit(task, executor, progress, roots):
        # As where all runs together find nothing.
        tops = list(dict.fromkeys(run.segment.top for run in task.runs))
        assert not roots(tops[:1]) and not roots(tops[1:])
        return {}, []

    monkeypatch.setattr(module, "fit_blocks", fit)
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, nets.residual(), executor, 100)
        for most in (2048, 7):
            monkeypatch.setattr(module, "MOST_OUTPUTS", most)
            module.reconstructed(
                setting.images,
                CaffeModel(setting.weights),
                forms,
                "exact",
                {},
                tmp_path,
                f"plan-{most}",
                lambda *_: None,
            )
    channels = [[setting.loaded.network.shape_of(blob)[1] for blob in blobs] for blobs in asked]
    # Behind all runs together, and behind the first of them, unless it has too many.
    assert channels == [[5], [8], [5]]


def convolutions(pooling: str) -> str:
    """Convolutions alone, each behind the one before, their scores by a pooling."""
    text, last = nets.HEAD.format(name="local"), "data"
    for name in ("c0", "c1", "c2", "c3", "fc"):
        text, last = text + nets.conv(name, last, 8) + nets.simple(f"{name}_relu", "ReLU", name), name
    pool = nets.simple("pool", "Pooling", "fc", "pool", f"pooling_param {{ pool: AVE {pooling} }}")
    return text + pool + nets.LOSS.replace('"fc"', '"pool"')


@pytest.mark.parametrize("pooling", ("global_pooling: true", "kernel_size: 12"))
def test_a_fit_of_all_layers_sees_windows_of_large_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooling: str
) -> None:
    monkeypatch.setattr(windows, "LEAST", 12)
    with Workers(1).executor() as executor:
        setting = Setting(tmp_path, convolutions(pooling), executor, 104)
        forms = {n: Form(f.scheme, (max(1, f.ranks[0] // 2),)) for n, f in setting.forms.items()}
        base = setting.decomposer(Decomposition("weighted")).blobs(forms)
        folder = tmp_path / "work"
        folder.mkdir()
        task = module.blocks_task(setting.images, CaffeModel(setting.weights), forms, "exact", base, folder)
        run = task.runs[0]
        # In front of the pooling, which needs the whole image.
        assert run.targets == ("c1", "c2", "c3", "fc") and run.aside == ("c1", "c3") and run.window == (7, 7)
        whole = blocks.steps_of(104, setting.images.macs, blocks.WHOLE_EPOCHS)
        assert run.steps == int(whole * 144 / 49)
        found, errors = blocks.fit_blocks(replace(task, runs=(replace(run, steps=100),)), executor)
        assert found and errors[0][1] < errors[0][0]
        # Where it is inside, images are whole.
        forms.pop("c1")
        inside = module.blocks_task(setting.images, CaffeModel(setting.weights), forms, "exact", base, folder)
        assert inside.runs[0].targets[-1] == "pool" and inside.runs[0].window == ()
