"""Rounds of Caffe's solver on parts of the images."""

from __future__ import annotations

from dataclasses import replace

from enc_caffe.calibration import fitting as module
from enc_caffe.calibration.blocks import advance
from tests.calibration.test_beside import begun, setting  # noqa: F401


def test_a_rate_that_makes_it_much_worse_is_left_after_a_round(setting) -> None:  # noqa: F811
    task, base = begun(setting)
    task = replace(task, runs=(replace(task.runs[0], steps=32, rounds=4), *task.runs[1:]))
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, 0, False, chunk, {}))
    for rate, rounds in ((1.0, [0, 1]), (1e-3, [0, 1, 2, 3])):
        seen: list[int] = []
        found, first, least = module.fit(task, 0, rate, base, setting.executor, seen.append)
        assert seen == rounds and bool(found) == (rate < 1.0)
        assert least < first if found else least == first
