"""Rounds of Caffe's solver on parts of the images."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


@pytest.mark.parametrize("far, part", ((0.5, 1.0), (4.0, 0.5), (1e6, module.SLOWEST)))
def test_rates_fall_with_the_distance_there_is(setting, monkeypatch, far: float, part: float) -> None:  # noqa: F811
    task, base = begun(setting)
    task = replace(task, runs=(replace(task.runs[0], steps=8, rounds=2), *task.runs[1:]))
    for chunk in range(len(task.spans)):
        setting.executor.result(setting.executor.submit(advance, task, 0, False, chunk, {}))
    apart = module.fit(task, 0, 1e-3, base, setting.executor)[1]
    # So many times as far off as the network is, rates are what they are.
    monkeypatch.setattr(module, "FAR", far * apart)
    rates: list[float] = []
    run_all = module.run_all

    def recorded(executor, function, jobs, *more):
        rates.extend(own.rate for _, own, _ in jobs if own.steps)
        return run_all(executor, function, jobs, *more)

    monkeypatch.setattr(module, "run_all", recorded)
    assert module.fit(task, 0, 1e-3, base, setting.executor)[1] == apart
    # Of two rounds, two parts each, and half of it in the second.
    assert rates == pytest.approx([part * 1e-3] * 2 + [part * 5e-4] * 2)
