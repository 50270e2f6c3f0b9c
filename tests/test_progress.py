"""Names that are counted, from the first or after some seconds."""

from __future__ import annotations

import pytest

from enc_caffe import progress


def test_names_are_counted_from_nothing_on() -> None:
    seen: list[tuple[int, int]] = []
    one = progress.by_name(lambda done, all_: seen.append((done, all_)), 3)
    for name in "abc":
        one(name)
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_what_is_soon_done_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    now, seen = 100.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    one = progress.by_name(lambda done, all_: seen.append(done), 4, after=2.0)
    one("a")
    now += 1.9
    one("b")
    assert seen == []
    now += 0.2
    one("c")
    one("d")
    assert seen == [3, 4]
