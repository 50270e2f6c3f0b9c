"""How long a runtime may be silent."""

from __future__ import annotations

from enc_caffe.runtimes.patience import FIRST, LEAST, Patience, spoken


def test_a_step_may_take_many_times_what_it_took_before() -> None:
    patience = Patience()
    assert patience.limit("load", 100) == FIRST and patience.words("load") == ""
    patience.took("load", 2.0, 100)
    assert patience.limit("load", 100) == LEAST
    assert patience.limit("load", 10_000) == 10 * 2.0 * 100
    patience.took("load", 1.0, 10_000)
    patience.took("load", 300.0, 10_000)
    assert patience.limit("load", 1) == 3000.0 and patience.limit("time") == FIRST
    assert patience.words("load") == " (before, 5 minutes at most)"
    # What a step should take counts too, such as that of a network whose pass is long.
    assert patience.limit("load", 1, expected=1000.0) == 10_000.0 and patience.limit("time", 1, 10_000.0) == 100_000.0


def test_durations_are_said() -> None:
    assert [spoken(s) for s in (0.25, 42.0, 60.0, 90.0, 1800.0, 3600.0, 9000.0)] == [
        "0.25 seconds", "42 seconds", "1 minute", "1.5 minutes", "30 minutes", "1 hour", "2.5 hours",
    ]  # fmt: skip
