"""Where Caffe is found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.installation import find_caffe


@pytest.fixture(autouse=True)
def fresh():
    """The answer is cached for the process; tests need it anew."""
    find_caffe.cache_clear()
    yield
    find_caffe.cache_clear()


def make_root(root: Path, tools: str) -> Path:
    """A folder that looks like a Caffe."""
    (root / "python" / "caffe" / "proto").mkdir(parents=True)
    (root / "python" / "caffe" / "proto" / "caffe_pb2.py").write_text("")
    (root / tools).mkdir(parents=True)
    program = root / tools / "caffe"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return root


@pytest.mark.parametrize("tools", ["bin", "build/tools"])
def test_caffe_root_names_an_installation_or_a_source_tree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tools: str
) -> None:
    root = make_root(tmp_path / "caffe", tools)
    monkeypatch.setenv("CAFFE_ROOT", str(root))
    found = find_caffe()
    assert found.python_dir == root.resolve() / "python"
    assert found.tool("caffe") == root.resolve() / tools / "caffe"
    assert "CAFFE_ROOT" in found.origin


def test_wrong_caffe_root_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_ROOT", str(tmp_path))
    with pytest.raises(CaffeNotFoundError, match="make caffe"):
        find_caffe()


def test_missing_tool_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAFFE_ROOT", str(make_root(tmp_path / "caffe", "bin")))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nowhere" / "python"))
    with pytest.raises(CaffeNotFoundError, match="convert_imageset"):
        find_caffe().tool("convert_imageset")


def test_no_caffe_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAFFE_ROOT", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CaffeNotFoundError, match="make caffe builds one"):
        find_caffe()


def test_searching_ranks_loads_no_caffe() -> None:
    code = (
        "import sys, enc_caffe.cli, enc_caffe.search.methods, enc_caffe.metrics.table;"
        "bad = [m for m in sys.modules if m == 'caffe' or m.startswith('caffe.') or m.endswith('caffe_pb2')];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
