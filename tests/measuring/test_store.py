"""The result store: shared, killed, damaged and full."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.errors import EncError, OutputError
from enc_caffe.measuring.store import ResultStore, digest_of


def filled(path: Path, rows: int = 150) -> str:
    """A store with results of one context; returns its digest."""
    with ResultStore(path) as store:
        context = store.context({"network": "net", "weights": "w", "lmdb": "l", "images": 10}, {"a": 1})
        for i in range(rows):
            store.put(context, i, i + 1, {"layer 3": [i, i / 3], "original": [i, 0.1]})
    return context


def test_what_was_put_is_known_again(tmp_path: Path) -> None:
    context = filled(tmp_path / "s.sqlite", 3)
    with ResultStore(tmp_path / "s.sqlite") as store:
        assert store.known(context) == {
            (w, i, i + 1): [i, v] for i in range(3) for w, v in (("layer 3", i / 3), ("original", 0.1))
        }
        assert store.known("other") == {}
        assert [c.results for c in store.contexts()] == [6]
        assert store.find(context[:8]).about["network"] == "net"
        with pytest.raises(EncError, match="0 contexts begin with 'zz'"):
            store.find("zz")
        assert store.remove([context]) == 6 and store.contexts() == []


def test_digests_follow_content(tmp_path: Path) -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": 3})
    file = tmp_path / "f"
    with ResultStore(tmp_path / "s.sqlite") as store:
        file.write_bytes(b"one")
        first = store.file_digest(file)
        assert store.file_digest(file) == first
        file.write_bytes(b"two")
        os.utime(file, ns=(1, 1))
        assert store.file_digest(file) != first


def _write(path: str, worker: int, rows: int) -> None:
    with ResultStore(Path(path)) as store:
        context = store.context({}, "shared")
        for i in range(rows):
            store.put(context, i, i + 1, {f"worker {worker}": [i]})


def test_two_commands_share_a_store(tmp_path: Path) -> None:
    path, spawn = str(tmp_path / "s.sqlite"), multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_write, args=(path, w, 40)) for w in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join()
    assert [p.exitcode for p in processes] == [0, 0, 0]
    with ResultStore(Path(path)) as store:
        assert len(store.known(digest_of("shared"))) == 120


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_writer_that_is_killed_leaves_whole_results(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "s.sqlite"
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_store as t; t._write({str(path)!r}, 0, 10**6)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    wanted, there = random.Random(seed).randint(1, 100), 0
    while there < wanted and process.poll() is None:
        time.sleep(0.01)
        if path.exists():
            with ResultStore(path) as store:
                there = len(store.known(digest_of("shared")))
    process.send_signal(signal.SIGKILL)
    process.wait()
    warnings: list[str] = []
    with ResultStore(path, warnings.append) as store:
        rows = store.known(digest_of("shared"))
    assert not warnings
    # One after the other: what is there is a beginning, without gaps.
    assert sorted(start for _, start, _ in rows) == list(range(len(rows))) and len(rows) > 0


@pytest.mark.parametrize("damage", ["page", "value", "header", "cut"])
def test_a_damaged_store_is_set_aside(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "s.sqlite"
    context = filled(path)
    raw = bytearray(path.read_bytes())
    if damage == "page":
        middle = len(raw) // 2 // 4096 * 4096
        raw[middle : middle + 4096] = os.urandom(4096)
    elif damage == "value":
        at = raw.index(b"[123, ")
        raw[at : at + 4] = b"[124"
    elif damage == "header":
        raw[:16] = b"no database here"
    else:
        del raw[len(raw) // 2 :]
    path.write_bytes(raw)
    warnings: list[str] = []
    with ResultStore(path, warnings.append) as store:
        store.context({}, {"a": 1})
        assert store.known(context) == {}
        store.put(context, 0, 1, {"x": [1]})
        assert store.known(context) == {("x", 0, 1): [1]}
    assert len(warnings) == 1 and "damaged" in warnings[0] and "set aside" in warnings[0]
    aside = [p for p in tmp_path.iterdir() if ".damaged-" in p.name]
    assert len(aside) == 1 and aside[0].read_bytes() == bytes(raw)


def test_a_full_disk_is_said_and_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    context = filled(path, 5)
    code = (
        "import resource, signal, sys; from pathlib import Path; from enc_caffe.measuring.store import ResultStore;"
        "from enc_caffe.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"store = ResultStore(Path({str(path)!r}))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n"
        "try:\n"
        f"    for i in range(10_000): store.put({context!r}, i + 100, i + 101, {{'x': ['y' * 500]}})\n"
        "except OutputError as exc:\n"
        "    print(exc); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "the store cannot be used" in done.stdout and "goes on from there" in done.stdout
    warnings: list[str] = []
    with ResultStore(path, warnings.append) as store:
        known = store.known(context)
    assert not warnings and ("original", 4, 5) in known and ("x", 100, 101) in known


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be opened"):
        ResultStore(tmp_path / "file" / "s.sqlite")


def test_other_files_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"format": "enc-caffe-metrics/1"}')
    with pytest.raises(OutputError, match="is no store of results"):
        ResultStore(tmp_path / "metrics.json")
    # Whole pages long as a database is, but a picture, an archive, a text.
    for at, head in enumerate((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"PK\x03\x04", b"some words\n" * 100)):
        (tmp_path / f"{at}").write_bytes((head + bytes(1024))[:1024])
        with pytest.raises(OutputError, match="is no store of results, and is left as it is"):
            ResultStore(tmp_path / f"{at}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "2", "3", "metrics.json"]


def test_a_damaged_store_that_another_command_replaced_is_not_moved_again(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    context = filled(path)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"[123, ")
    raw[at : at + 4] = b"[124"
    path.write_bytes(raw)
    # Both open it: the pages are in order, only a value is not what was written.
    with ResultStore(path) as first, ResultStore(path) as second:
        first.context({}, {"a": 1})
        second.context({}, {"a": 1})
        assert second.known(context) == {}
        second.put(context, 0, 1, {"x": [1]})
        assert first.known(context) == {}
        assert first.known(context) == {("x", 0, 1): [1]}


def test_results_of_a_context_that_was_pruned_meanwhile_can_be_listed_and_pruned(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "s.sqlite") as first, ResultStore(tmp_path / "s.sqlite") as second:
        context = first.context({"network": "n"}, 1)
        second.remove([context])
        first.put(context, 0, 1, {"x": [1]})
        assert [c.results for c in second.contexts()] == [1]
        assert second.remove([context]) == 1


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.sqlite"
    context = filled(path, 4)
    assert main(["store", "list", "--store", str(path)]) == 0
    assert context[:12] in capsys.readouterr().out
    assert main(["store", "explain", context[:6], "--store", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "layer 3" in printed and "network: net" in printed
    assert main(["store", "prune", "--store", str(path)]) == 2
    assert main(["store", "prune", "--older", "1", "--store", str(path)]) == 0
    assert "0 results of 0 contexts" in capsys.readouterr().out
    assert main(["store", "prune", context[:6], "--store", str(path)]) == 0
    assert "8 results of 1 contexts" in capsys.readouterr().out


def test_a_context_has_a_folder_beside_the_file(tmp_path: Path) -> None:
    with ResultStore(tmp_path / "s.sqlite") as store:
        digest = store.context({"network": "n"}, {"a": 1})
        folder = store.folder(digest)
        assert folder == tmp_path / "s.sqlite.arrays" / digest
        folder.mkdir(parents=True)
        alone = store.size()
        (folder / "x.npz").write_bytes(b"1" * 5000)
        assert store.size() == alone + 5000
        other = store.folder(store.context({"network": "n"}, {"a": 2}))
        other.mkdir()
        store.remove([digest])
        assert not folder.exists() and other.exists()
