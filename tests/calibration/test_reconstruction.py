"""A narrow network's weights beside those of the wide one that it is taken from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.calibration import reconstruction as module
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
