"""SIGTERM stops as Ctrl-C does."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from enc_caffe.terminal.stopping import Terminated, sigterm_interrupts, stoppable


def test_sigterm_is_an_interruption_only_inside() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated), sigterm_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(600)
    assert signal.getsignal(signal.SIGTERM) == before


def test_status_and_line_say_what_stopped_it(capsys: pytest.CaptureFixture[str]) -> None:
    def ends_by(number: signal.Signals) -> int:
        def run() -> int:
            signal.raise_signal(number)
            threading.Event().wait(600)
            return 0

        return stoppable("demo", run)

    assert ends_by(signal.SIGTERM) == 143
    assert capsys.readouterr().err == "demo: stopped by SIGTERM\n"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert ends_by(signal.SIGINT) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "demo: interrupted\n"
    assert stoppable("demo", lambda: 7) == 7


def test_other_threads_keep_their_hands_off_signals() -> None:
    seen = []

    def run() -> None:
        with sigterm_interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
