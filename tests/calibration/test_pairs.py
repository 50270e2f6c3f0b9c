"""What is kept of a run of layers, and what of it is fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.calibration import pairs as module
from enc_caffe.calibration.blocks import advance
from enc_caffe.errors import CaffeError
from tests.calibration.test_beside import begun, setting  # noqa: F401


def test_nothing_that_is_held_out_is_fitted_to(setting) -> None:  # noqa: F811
    task, _ = begun(setting)
    number = sum(stop - first for first, stop in task.spans)
    for at in (1, 0):
        for chunk in range(len(task.spans)):
            setting.executor.result(setting.executor.submit(advance, task, at, False, chunk, {}))
        kept = module.Kept(task, at, 1)
        assert len(kept.held) == number // module.HELD and not set(kept.held) & set(kept.fitted)
        assert len(kept.held) + len(kept.fitted) == number
    # All runs together, with the original beside it, has the images as they are.
    data = setting.data()
    for place in (*kept.held, *kept.fitted):
        np.testing.assert_array_equal(kept.one(place, 0), data[task.spans[place[0]][0] + place[1]])


def test_a_damaged_blob_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "in-0-0.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00 and no more")
    for wrong in (path, tmp_path / "none.npy"):
        with pytest.raises(CaffeError, match="run the command again"):
            module.read_kept(wrong)
