"""Progress where standard error is no terminal."""

from __future__ import annotations

import pytest

from enc_caffe.terminal import progress


def test_a_log_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.stage_bars() as step:
        step("second moments", 1, 8)
        now += 59
        step("second moments", 2, 8)
        assert capsys.readouterr().err == ""
        now += 2
        step("second moments", 3, 8)
        step("plan 1 of 8: whole networks", 0, 2000)
        now += 3600
        step("plan 1 of 8: whole networks", 1500, 2000)
    assert capsys.readouterr().err.splitlines() == [
        "second moments 3 of 8 (0:01:01)",
        "plan 1 of 8: whole networks 1,500 of 2,000 (1:01:01)",
    ]
    with progress.progress_bar("images", None) as bar:
        now += 60
        bar(7, None)
        now += 60
        bar(None, None, "layer [c1]")
    assert capsys.readouterr().err.splitlines() == ["images 7 (0:01:00)", "images: layer [c1] (0:02:00)"]
