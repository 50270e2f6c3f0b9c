"""Jobs in worker processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path

import pytest

from enc_caffe.errors import CaffeError
from enc_caffe.workers.blas import Arithmetic, kernel_variable
from enc_caffe.workers.executor import CaffeExecutor, run_all
from tests.workers.names import kernels

pytestmark = pytest.mark.caffe


def after(number: int, event: str) -> list[int]:
    """A result that comes when a file is there (in a worker)."""
    while event and not os.path.exists(event):
        time.sleep(0.01)
    return [number]


def test_results_are_folded_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    # The first is the last to arrive.
    seen: list[tuple[int, int]] = []

    def jobs(name: str) -> tuple[list[tuple[int, str]], Callable[[int, int], None]]:
        def progress(done: int, all_: int) -> None:
            seen.append((done, all_))
            if done == 5:
                (tmp_path / name).touch()

        return [(i, str(tmp_path / name) if i == 0 else "") for i in range(6)], progress

    with CaffeExecutor(2) as executor:
        made, progress = jobs("one")
        assert run_all(executor, after, made, [1] * 6, progress) == [[i] for i in range(6)]
        made, progress = jobs("two")
        folded = run_all(executor, after, made, [1] * 6, progress, fold=lambda a, b: a + b)
        assert folded == [[0, 1, 2, 3, 4, 5]]
        assert run_all(executor, after, made[1:2], [1], fold=lambda a, b: a + b) == [[1]]
    assert seen[-1] == (6, 6)


SCRIPT = """
import os
from enc_caffe.workers.executor import CaffeExecutor
def own(): return "of the script"
print("begun")
executor = CaffeExecutor(2)
print(executor.result(executor.submit(os.getcwd)))
executor.close()
if __name__ == "__main__":
    executor = CaffeExecutor(1, of_main=True)
    print(executor.result(executor.submit(own)))
    executor.close()
"""


def test_workers_do_not_begin_the_script_that_started_them(tmp_path: Path) -> None:
    script, root = tmp_path / "script.py", str(Path(__file__).resolve().parents[2])
    env = {**os.environ, "PYTHONPATH": root}
    script.write_text(SCRIPT.partition("if __name__")[0])
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, f"begun\n{tmp_path}\n", "")
    # Functions of the script's own file need it.
    start = SCRIPT.index("print(")
    script.write_text(SCRIPT[:start] + SCRIPT[SCRIPT.index("if __name__") :])
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, env=env, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "of the script\n", "")


def variables() -> tuple[str, str]:
    """Threads and kernel that a worker was started with."""
    return os.environ["OPENBLAS_NUM_THREADS"], os.environ.get(kernel_variable(), "")


def test_workers_have_one_thread_and_the_kernel_that_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    variable, (first, other) = kernel_variable(), kernels()
    monkeypatch.setenv(variable, first)
    monkeypatch.setenv("ENC_CAFFE_CONV", "caffe")
    for kernel in ("", other):
        with CaffeExecutor(3, kernel=kernel) as executor:
            assert replace(executor.arithmetic, kernel="") == Arithmetic("", 1)
            assert (kernel or first) in executor.arithmetic.kernel.split()
            assert run_all(executor, variables, [()] * 9, [1] * 9) == [("1", kernel or first)] * 9
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7" and os.environ[variable] == first


def test_a_worker_that_died_between_two_jobs_is_told_as_one_that_died_in_a_job() -> None:
    with CaffeExecutor(1) as executor:
        pid = executor.result(executor.submit(os.getpid))
        running = executor.submit(after, 0, "no such file")
        os.kill(pid, signal.SIGKILL)
        # Its end is what breaks the pool; the job that comes next finds it broken.
        wait([running])
        with pytest.raises(CaffeError, match="Caffe stopped: its process was killed"):
            executor.submit(os.getpid)
