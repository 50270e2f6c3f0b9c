"""scripts/three_c.py: what it refuses before a step, and steps of another run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from tests.conftest import script

ABOUT = ("model", "weights", "lmdb", "test_lmdb")


@pytest.fixture
def asked(tmp_path: Path) -> argparse.Namespace:
    """Arguments whose files are there."""
    for name in ABOUT:
        (tmp_path / name).write_text("")
    return argparse.Namespace(**{n: tmp_path / n for n in ABOUT}, out=tmp_path / "out", target_flops=0.5)


def test_steps_of_another_run_are_not_taken(asked: argparse.Namespace, capsys: pytest.CaptureFixture[str]) -> None:
    three_c = script("three_c")
    three_c._same(asked, [])
    three_c._same(asked, [])
    for name, value in (("target_flops", 0.3), ("model", asked.weights)):
        other = argparse.Namespace(**{**vars(asked), name: value})
        assert three_c.run(other, []) == 2
        assert f"its steps are of {name}" in capsys.readouterr().err
    assert (
        three_c.run(asked, ["--decomposition", "svd"]) == 2 and "its steps are of flags []" in capsys.readouterr().err
    )
    (asked.out / "three_c.json").unlink()
    (asked.out / "1_spatial").mkdir()
    assert three_c.run(asked, []) == 2 and "has steps, and nothing says of what" in capsys.readouterr().err


def test_damaged_steps_and_missing_files_are_said_in_a_line(
    asked: argparse.Namespace, capsys: pytest.CaptureFixture[str]
) -> None:
    three_c = script("three_c")
    three_c._same(asked, [])
    (asked.out / "1_spatial").mkdir()
    for text in ("{", json.dumps({"format": "enc-caffe-compression/1", "macs": []})):
        (asked.out / "1_spatial" / "evaluation.json").write_text(text)
        assert three_c.run(asked, []) == 2
        error = capsys.readouterr().err
        assert "1_spatial" in error and len(error.splitlines()) <= 3
    asked.lmdb.unlink()
    assert three_c.run(asked, []) == 1 and f"--lmdb {asked.lmdb}: no such file or folder" in capsys.readouterr().err
