"""Outputs are whole or not there, whenever an interruption comes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from enc_caffe.errors import OutputError
from enc_caffe.files.output import atomic_file, atomic_folder, check_new, claimed, sweep_folder
from enc_caffe.terminal.stopping import Terminated, sigterm_interrupts


def interrupted(at: int, run: Callable[[], None]) -> bool:
    """Run with a SIGTERM at the so manieth call, or the return of one of C's: there Python looks for signals. Whether there was one."""
    left = at

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal left
        # What a frame raises as it returns is not seen by its own handlers, and Python looks for no signals there.
        if event == "return" or Path(frame.f_code.co_filename).name not in ("output.py", "signals.py", "contextlib.py"):
            return
        left -= 1
        if left == 0:
            # Before it is sent, or the handler would be profiled too.
            sys.setprofile(None)
            os.kill(os.getpid(), signal.SIGTERM)

    with sigterm_interrupts():
        try:
            sys.setprofile(profile)
            run()
        except Terminated:
            pass
        finally:
            sys.setprofile(None)
    return left <= 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_interruption_at_any_time_leaves_nothing_beside_the_output(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "place" / "out"

    def run() -> None:
        if kind == "file":
            with atomic_file(out) as handle:
                handle.write(b"whole")
        else:
            with atomic_folder(out, force=True) as work:
                (work / "file").write_text("whole")

    times = 1
    out.parent.mkdir()
    while interrupted(times, run):
        left = sorted(p.name for p in out.parent.iterdir())
        # Writing what was begun may be over; half of it may not be there.
        assert left in ([], ["out"]), (times, left)
        if kind == "folder" and left:
            assert (out / "file").read_text() == "whole"
        # This process holds nothing any more.
        with claimed(out):
            pass
        times += 1
    assert times > 50


def test_what_a_killed_command_left_hinders_nobody(tmp_path: Path) -> None:
    lock = tmp_path / ".out.lock"
    for text in ("", "process 1 on elsewhere, since 2026-01-01 00:00:00"):
        lock.write_text(text)
        with claimed(tmp_path / "out"):
            assert lock.read_text().startswith(f"process {os.getpid()} on ")
        assert list(tmp_path.iterdir()) == []
    # One that is alive does.
    holder = "import sys\nfrom pathlib import Path\nfrom enc_caffe.files.output import claimed\nwith claimed(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    command = [sys.executable, "-c", holder, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        with (
            pytest.raises(OutputError, match=f"another command is writing there \\(process {process.pid} on"),
            claimed(tmp_path / "out"),
        ):
            pass
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError), claimed(tmp_path / "out"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_swept_of_what_killed_commands_left_half_written_and_of_nothing_else(tmp_path: Path) -> None:
    writer = (
        "import sys\nfrom pathlib import Path\nfrom enc_caffe.files.output import atomic_file, atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1])) as work, atomic_file(work.parent / 'file') as handle:\n"
        "    (work / 'part').write_text('half')\n    handle.write(b'half')\n    print('writing', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", writer, str(tmp_path / "folder")]
    (tmp_path / "other").mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "writing\n"
        begun = {path.name for path in tmp_path.iterdir()}
        assert len(begun) > 3
        sweep_folder(tmp_path)
        # Whoever is alive keeps what it writes.
        assert {path.name for path in tmp_path.iterdir()} == begun
        process.kill()
        process.wait()
        sweep_folder(tmp_path)
        with contextlib.suppress(BrokenPipeError):
            process.communicate()
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == ["other"]


def test_a_link_to_a_folder_stays_one_when_the_folder_is_replaced(tmp_path: Path) -> None:
    place, link = tmp_path / "disk" / "place", tmp_path / "link"
    place.mkdir(parents=True)
    (place / "old").touch()
    link.symlink_to(place)
    # Both names are of one place: whoever holds it by the one keeps others from the other.
    with claimed(link), atomic_folder(link, force=True) as work:
        assert [p.name for p in place.iterdir()] == ["old"] and work.parent == place.parent
        assert (place.parent / ".place.lock").is_file()
        (work / "new").touch()
    assert link.is_symlink() and [p.name for p in place.iterdir()] == ["new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["disk", "link"]
    assert [p.name for p in place.parent.iterdir()] == ["place"]


def test_a_mount_point_is_refused_before_any_work(tmp_path: Path) -> None:
    """No folder can be renamed to one, and none away: an output there would be lost after hours."""
    mounted = next(p for p in (Path("/proc"), Path("/dev"), Path("/")) if os.path.ismount(p))
    (tmp_path / "link").symlink_to(mounted, target_is_directory=True)
    for path in (mounted, tmp_path / "link"):
        with pytest.raises(OutputError, match="is where a file system is mounted"):
            check_new(path, force=True)
    check_new(tmp_path, force=True)
