"""Kills, full disks, folders that cannot be written, two commands in one place, workers that hang, networks that give NaN."""

from __future__ import annotations

import ast
import contextlib
import errno
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Iterator

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_tools.training import is_whole
from enc_caffe.cli import main
from enc_caffe.errors import CaffeError, OutputError
from enc_caffe.files import output
from enc_caffe.files.output import atomic_file, atomic_folder, claimed, scratch_folder
from enc_caffe.measuring.store import ResultStore
from enc_caffe.workers.executor import CaffeExecutor, run_all

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
import kill_runs  # noqa: E402

pytestmark = pytest.mark.caffe


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums come out the same, and a busy machine is not made to wait for itself."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> kill_runs.Kit:
    """The small network with images, its metrics and ranks, and a compression to report."""
    made = kill_runs.Kit(tmp_path_factory.mktemp("kit"))
    folder = made.folder
    network = ["--model", str(made.model), "--weights", str(made.weights)]
    assert main(["metrics", *network, "--input_shape", "1,8,8", "--out", str(folder / "metrics.json")]) == 0
    assert (
        main(["search", str(folder / "metrics.json"), "--target_flops", "0.5", "--out", str(folder / "ranks.json")])
        == 0
    )
    arguments = ["--ranks", str(folder / "ranks.json"), "--input_shape", "1,8,8"]
    assert main(["emit", *network, *arguments, "--out", str(folder / "network")]) == 0
    return made


def commands(kit: kill_runs.Kit, out: Path) -> dict[str, list[str]]:
    """Every command that writes, its output ``out``; those that load Caffe in a worker come last."""
    folder, network = kit.folder, ["--model", str(kit.model), "--weights", str(kit.weights)]
    metrics, lmdb = str(folder / "metrics.json"), ["--lmdb", str(kit.lmdb)]
    store = ["--store", str(folder / "store.sqlite")]
    return {
        "inspect": ["inspect", *network, *lmdb, "--json", str(out)],
        "metrics": ["metrics", *network, "--input_shape", "1,8,8", "--out", str(out)],
        "search": ["search", metrics, "--target_flops", "0.5", "--out", str(out)],
        "metrics plot": ["metrics plot", metrics, "--out", str(out.with_suffix(".png"))],
        "search plot": ["search plot", metrics, "--target_flops", "0.5", "--out", str(out.with_suffix(".svg"))],
        "emit": ["emit", *network, "--ranks", str(folder / "ranks.json"), *lmdb, "--out", str(out)],
        "report": ["report", str(folder / "network"), "--out", str(out)],
        "data": ["data", "partial", str(kit.lmdb), "--images", "30", "--out", str(out)],
        "finetune": ["finetune", "--solver", str(kit.solver), *network, "--train_lmdb", str(kit.lmdb), "--test_lmdb", str(kit.lmdb),
                     "--max_iter", "8", "--snapshot", "4", "--out", str(out)],
        "evaluate": ["evaluate", *network, *lmdb, "--json", str(out)],
        "compress": ["compress", *network, *lmdb, "--target_flops", "0.5", *store, "--out", str(out)],
        "latency": ["latency", "--model", str(kit.model), *lmdb, "--ranks", "2", "--store", str(folder / f"{out.parent.name}.sqlite"), "--out", str(out)],
    }  # fmt: skip


NAMES = ("inspect", "metrics", "search", "metrics plot", "search plot", "emit", "report", "data", "finetune", "evaluate", "compress", "latency")  # fmt: skip
#: Those that hold their output from their first step to their last.
CLAIMING = ("metrics", "search", "latency", "emit", "report", "data", "finetune", "compress")


def says(capsys: pytest.CaptureFixture[str], arguments: list[str], *words: str) -> None:
    """A command fails with a short message that holds the words."""
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error and len(error.splitlines()) <= 3 and "Traceback" not in error, error
    for word in words:
        assert word in error, error


@contextlib.contextmanager
def full_disk(left: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a write then gives is what a full disk gives, under another name."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_folders_that_cannot_be_written(kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:  # fmt: skip
    (tmp_path / "file").write_text("")
    # Nobody, root included, can write below a file.
    says(capsys, commands(kit, tmp_path / "file" / "out")[name], str(tmp_path / "file"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", NAMES[:9])
def test_full_disks(kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    with full_disk(300):
        says(capsys, commands(kit, tmp_path / "out")[name], str(tmp_path / "out"), "cannot be written")
    left = sorted(p.name for p in tmp_path.rglob("*"))
    # A training goes on in its folder.
    assert left == (["finetune.json", "out"] if name == "finetune" else [])


@pytest.mark.parametrize(
    ("name", "words"),
    [("evaluate", "make room there, or name another folder by TMPDIR"), ("compress", "store.sqlite: the store cannot be opened"),
     ("latency", ".sqlite: the store cannot be opened")],
)  # fmt: skip
def test_disks_that_are_full_before_any_output(
    kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, words: str
) -> None:
    # The store's, and what workers need.
    with full_disk(300):
        says(capsys, commands(kit, tmp_path / "out")[name], words)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_while_caffe_trains(kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    command = commands(kit, tmp_path / "out")["finetune"]
    with full_disk(5000):
        # Room for the prototxts, not for Caffe's log, nor for a snapshot.
        says(capsys, command, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "finetuned.caffemodel").exists()
    assert main(command) == 0 and (tmp_path / "out" / "finetuned.caffemodel").is_file()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the output ``out``."""
    code = f"from enc_caffe.files.output import claimed; from pathlib import Path\nwith claimed(Path({str(tmp_path / 'out')!r})): print(1, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kill_runs.environment()
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("name", CLAIMING)
def test_two_commands_in_one_place(
    kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], holder: subprocess.Popen[str], name: str
) -> None:
    command = commands(kit, tmp_path / "out")[name]
    words = f"another command is writing there (process {holder.pid} on "
    says(
        capsys,
        command,
        str(tmp_path / "out"),
        words,
        f"since {time.strftime('%Y-')}",
        "wait for its end, or name another --out",
    )
    assert [p.name for p in tmp_path.iterdir()] == [".out.lock"]
    # The lock goes with its process; the file that it leaves holds nobody up.
    holder.kill()
    holder.wait()
    if name in ("data", "emit", "metrics"):
        assert main(command) == 0
        assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_two_writers_of_one_file_leave_each_other_whole(tmp_path: Path) -> None:
    code = f"""from enc_caffe.files.output import atomic_file; from pathlib import Path
with atomic_file(Path({str(tmp_path / "m.json")!r})) as handle:
    handle.write(b"first"); print(1, flush=True); input()"""
    command = [sys.executable, "-c", code]
    first = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=kill_runs.environment()
    )
    assert first.stdin is not None and first.stdout is not None and first.stdout.readline() == "1\n"
    for _ in range(2):
        with atomic_file(tmp_path / "m.json") as handle:
            handle.write(b"second")
    assert (tmp_path / "m.json").read_bytes() == b"second"
    first.stdin.write("\n")
    first.communicate()
    assert first.returncode == 0 and (tmp_path / "m.json").read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_file_systems_without_locks_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(output.fcntl, "flock", refuse)
    (tmp_path / "plan-of-another-machine").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with (
        claimed(tmp_path / "out"),
        atomic_folder(tmp_path / "out") as work,
        scratch_folder(tmp_path, "plan-") as scratch,
    ):
        (work / "x").write_text("")
        assert scratch.is_dir()
    with atomic_file(tmp_path / "m.json") as handle:
        handle.write(b"{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".plan-lock", "m.json", "out", "plan-of-another-machine"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_lock_file_of_another_user_holds_nobody_up(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        folder.chmod(0o777)
        (folder / ".out.lock").write_text("process 1")
        (folder / ".out.lock").chmod(0o644)
        code = f"from enc_caffe.files.output import claimed; from pathlib import Path\nwith claimed(Path({str(folder / 'out')!r})): print('held')"
        # The interpreter may lie where another user cannot look; the group stays, the file is not the user's.
        done = subprocess.run(["/usr/bin/python3", "-c", code], user=65534, env={"PYTHONPATH": str(_readable_copy(folder))},
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.stdout == "held\n", done.stderr
    finally:
        shutil.rmtree(folder)


def _readable_copy(folder: Path) -> Path:
    """The package's two modules that claims need, where every user can read them."""
    (folder / "code" / "enc_caffe" / "files").mkdir(parents=True)
    (folder / "code" / "enc_caffe" / "__init__.py").write_text("")
    for name in ("files/__init__.py", "files/output.py", "errors.py"):
        shutil.copy(ROOT / "enc_caffe" / name, folder / "code" / "enc_caffe" / name)
    return folder / "code"


def test_kills_remove_only_what_they_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").write_text("")
    monkeypatch.setattr(kill_runs, "kill_runs", lambda *a: [])
    monkeypatch.setattr(sys, "argv", ["kill_runs.py", "--out", str(tmp_path)])
    assert kill_runs.main() == 0 and [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_claims_of_one_process_are_nested(tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "a" / "out"),
        atomic_folder(tmp_path / "a" / "out") as work,
        atomic_file(work / "x") as handle,
    ):
        handle.write(b"1")
    assert [p.name for p in (tmp_path / "a").rglob("*")] == ["out", "x"]
    with pytest.raises(ValueError), claimed(tmp_path / "b" / "c" / "out"):
        raise ValueError
    # Folders that were made for nothing go again.
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_killed_commands_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.enc-caffe-abc").mkdir()
    (tmp_path / ".out.enc-caffe-abc" / "half").write_text("")
    (tmp_path / ".out.json.enc-caffe-abc").write_text("half")
    (tmp_path / ".out.settings").write_text("mine")
    with atomic_folder(tmp_path / "out") as work:
        (work / "whole").write_text("")
    with atomic_file(tmp_path / "out.json") as handle:
        handle.write(b"{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".out.settings", "out", "out.json"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(output, "_exchanged", lambda first, second: False)
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "out", force=True) as work:
            (work / name).write_text("")
    assert [p.name for p in tmp_path.rglob("*")] == ["out", "new"]
    # A kill between two renames: the old one comes back with the next command, and is not replaced without being asked.
    (tmp_path / "out").rename(tmp_path / ".out.enc-caffe-abc.old")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(tmp_path / "out"):
        pass
    (tmp_path / "out").rename(tmp_path / ".out.enc-caffe-abc.old")
    with claimed(tmp_path / "out"):
        assert [p.name for p in tmp_path.rglob("*") if p.name != ".out.lock"] == ["out", "new"]


def test_scratch_folders_of_killed_commands_are_removed(tmp_path: Path) -> None:
    (tmp_path / "plan-killed").mkdir()
    with scratch_folder(tmp_path, "plan-") as first, scratch_folder(tmp_path, "plan-") as second:
        # A living one stays, if it is this process's own.
        assert first.is_dir() and second.is_dir() and not (tmp_path / "plan-killed").exists()
    assert [p.name for p in tmp_path.iterdir()] == [".plan-lock"]


def test_snapshots_that_were_cut_off_are_not_gone_on_from(kit: kill_runs.Kit, tmp_path: Path) -> None:
    command, out = commands(kit, tmp_path / "out")["finetune"], tmp_path / "out"
    assert main(command) == 0
    wanted = (out / "finetuned.caffemodel").read_bytes()
    last = out / "snapshot_iter_8.solverstate"
    assert is_whole(last)
    whole = last.read_bytes()
    for length in (0, len(whole) // 2, len(whole) - 1):
        last.write_bytes(whole[:length])
        assert not is_whole(last)
    # A kill while the last snapshot is written: it looked as if the training had ended, with half a caffemodel.
    caffemodel = out / "snapshot_iter_8.caffemodel"
    caffemodel.write_bytes(caffemodel.read_bytes()[:-100])
    last.unlink()
    (out / "finetuned.caffemodel").unlink()
    assert main(command) == 0
    assert (out / "finetuned.caffemodel").read_bytes() == wanted


def test_kills(tmp_path: Path) -> None:
    tallies = kill_runs.kill_runs(tmp_path, 2, 1, ("best", "finetune"))
    assert [t.failures for t in tallies] == [[], []] and sum(t.kills for t in tallies) == 2


def test_workers_that_hang_are_stopped() -> None:
    # Seconds, where a command has 60 minutes: a worker that lives says so 20 times in them.
    limit = 5.0
    with (
        CaffeExecutor(1, limit=limit) as executor,
        pytest.raises(CaffeError, match="Caffe hangs: no sign of life for 0.08") as caught,
    ):
        executor.result(executor.submit(time.sleep, 10**6))
    assert "--task_limit" in str(caught.value)
    with CaffeExecutor(1, limit=limit) as executor:
        # A long task that says now and then that it gets on is none that hangs.
        work = "import time; from enc_caffe.workers.executor import beat\nfor _ in range(30): time.sleep(0.25); beat()"
        executor.result(executor.submit(exec, work))
        # Waiting without a task is no hang, nor are many tasks that take long together.
        time.sleep(limit * 1.1)
        assert run_all(executor, abs, [(-1,)], [1]) == [1]
        with pytest.raises(CaffeError, match="Caffe hangs"):
            run_all(executor, time.sleep, [(10**6,)], [1])


def test_a_worker_that_is_killed_is_said() -> None:
    with CaffeExecutor(1, 1) as executor:
        future = executor.submit(time.sleep, 10**6)
        for process in executor._pool._processes.values():
            process.kill()
        with pytest.raises(CaffeError, match="Caffe stopped: its process was killed"):
            executor.result(future)


@pytest.mark.parametrize("name", ["evaluate", "compress", "metrics"])
def test_networks_that_give_nan(kit: kill_runs.Kit, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:  # fmt: skip
    model, huge = CaffeModel(kit.weights), tmp_path / "huge.caffemodel"
    with open(huge, "wb") as handle:
        write_caffemodel(
            handle,
            "x",
            [layer_record(x.name, x.type, [np.float32(1e18) * model.array(b) for b in x.blobs]) for x in model],
        )
    command = [str(huge) if a == str(kit.weights) else a for a in commands(kit, tmp_path / "out")[name]]
    if name == "metrics":
        command += ["--lmdb", str(kit.lmdb), "--store", str(tmp_path / "s.sqlite")]
    says(capsys, command, "scores are not finite", "do the images have the scale that it expects?")
    assert not (tmp_path / "out").exists()


def test_nothing_asks_what_time_of_day_it_is() -> None:
    # The clock may jump: durations are monotonic, and files are compared by identity, never by which is newer.
    allowed = {"measuring/store.py": "when a context was begun, for people", "cli/store.py": "prune --older"}
    for path in sorted((ROOT / "enc_caffe").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in (
                "time.time",
                "time.time_ns",
                "datetime.now",
                "os.utime",
            ):
                assert path.relative_to(ROOT / "enc_caffe").as_posix() in allowed, path
            if isinstance(node, ast.Compare) and "mtime" in ast.unparse(node):
                assert all(isinstance(op, (ast.Eq, ast.NotEq)) for op in node.ops), path


def test_a_store_whose_clock_jumps_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResultStore(tmp_path / "s") as store:
        first = store.context({}, 1)
        store.put(first, 0, 1, {"x": [1]})
        monkeypatch.setattr(time, "time", lambda: -1e9)
        second = store.context({}, 2)
        store.put(first, 0, 1, {"x": [2]})
        store.put(second, 0, 1, {"x": [3]})
        assert store.known(first) == {("x", 0, 1): [2]} and store.known(second) == {("x", 0, 1): [3]}
        assert {c.digest for c in store.contexts()} == {first, second}


def test_an_output_that_becomes_unwritable_is_an_error_of_one_line(tmp_path: Path) -> None:
    with (
        full_disk(10),
        pytest.raises(OutputError, match="cannot be written") as caught,
        atomic_file(tmp_path / "x") as handle,
    ):
        handle.write(b"y" * 100)
        handle.flush()
    assert len(str(caught.value).splitlines()) == 1 and list(tmp_path.iterdir()) == []
