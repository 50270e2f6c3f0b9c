"""The processor time of evaluations: kept over interruptions, and a median where the store knew the result."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from enc_caffe.experiments import timed
from enc_caffe.experiments.timed import Timed, cpu_seconds
from enc_caffe.form import Form


def forms(rank: int) -> dict[str, Form]:
    return {"a": Form("spatial", (rank,))}


def test_workers_count_and_sleep_does_not() -> None:
    code = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before, start = cpu_seconds(), time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        spent = cpu_seconds() - before
        child.communicate(b"\n")
    assert 0.4 < spent < 0.5 + time.perf_counter() - start


def test_what_the_store_knew_counts_as_much_as_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timed, "cpu_seconds", lambda: clock[0])

    def accuracy(plan) -> float:
        (rank,) = plan["a"].ranks
        # Above 3 the store knows them, and takes a while to say so.
        if rank <= 3:
            made.measuring()
        clock[0] += float(rank) if rank <= 3 else 0.3
        return 1.0 / rank

    made = Timed(accuracy, tmp_path / "seconds.json")
    made.begin()
    clock[0] += 0.5
    assert [made(forms(r)) for r in (1, 2, 3, 3)] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 3])
    # Three networks, the last of them asked for twice: once from memory in truth, here the slowest case.
    assert made.ended() == (3, pytest.approx(0.5 + 1 + 2 + 3))
    made.begin()
    made(forms(7))
    # Nobody timed it: the median of 1, 2 and 3.
    assert made.ended() == (1, pytest.approx(2.0, abs=0.01))
    again = Timed(lambda plan: 0.0, tmp_path / "seconds.json")
    again.begin()
    again(forms(3))
    assert again.ended() == (1, pytest.approx(3.0))


def test_a_damaged_file_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text("{")
    made = Timed(lambda plan: 0.5, path)
    made.begin()
    assert made(forms(1)) == 0.5 and made.ended()[0] == 1
