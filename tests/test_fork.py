"""A Caffe of the user's own: a folder with links to the built one is a real Caffe of another name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from enc_caffe import fork
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.notices import notices
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.runnable import runnable
from enc_caffe.caffe_io.types import caffe_types
from enc_caffe.cli import main
from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.fork import caffe_root, types_of
from enc_caffe.installation import TYPES, find_caffe
from enc_caffe.measuring.store import ResultStore
from enc_caffe.shapes import KNOWN_TYPES
from tests.measuring import nets

pytestmark = pytest.mark.caffe


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another Caffe: its module and its programs are links."""
    root, caffe = tmp_path_factory.mktemp("fork"), find_caffe()
    (root / "python").mkdir()
    (root / "python" / "caffe").symlink_to(caffe.python_dir / "caffe")
    (root / "build" / "tools").mkdir(parents=True)
    (root / "build" / "tools" / "caffe").symlink_to(caffe.tool("caffe"))
    return root


def test_it_is_used_and_afterwards_the_one_of_before(other: Path) -> None:
    before, environment = find_caffe(), dict(os.environ)
    with caffe_root(other):
        found = find_caffe()
        assert (
            found.python_dir == other.resolve() / "python"
            and found.tool("caffe") == other.resolve() / "build/tools/caffe"
        )
        # Caffe itself was asked.
        assert "Convolution" in os.environ[TYPES] and caffe_types() >= KNOWN_TYPES - {"Python"}
        assert len(os.environ[fork.DIGEST]) == 64
    assert find_caffe().python_dir == before.python_dir and dict(os.environ) == environment
    with caffe_root(None):
        assert find_caffe().python_dir == before.python_dir


def test_results_are_kept_apart(other: Path, tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    nets.write_images(tmp_path / "lmdb", 20)
    store = tmp_path / "s.sqlite"
    command = [
        "metrics",
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(tmp_path / "lmdb"),
        "--store",
        str(store),
    ]
    for name, more in (("stock", []), ("fork", ["--caffe_root", str(other)])):
        assert main([*command, *more, "--out", str(tmp_path / f"{name}.json")]) == 0
    said = [json.loads((tmp_path / f"{name}.json").read_text())["layers"] for name in ("stock", "fork")]
    # The same build gives the same numbers, but what computed them is another Caffe to the store.
    assert said[0] == said[1]
    with ResultStore(store) as kept:
        roots = [c.about.get("caffe") for c in kept.contexts()]
    assert sorted(roots, key=str) == sorted([None, str(other.resolve())], key=str)


def test_caffe_programs_are_its_own(other: Path, tmp_path: Path) -> None:
    # A program that tells its own name: what latency runs is the fork's.
    root, told = tmp_path / "mine", tmp_path / "told"
    (root / "build" / "tools").mkdir(parents=True)
    (root / "python").symlink_to(other / "python")
    program = root / "build" / "tools" / "caffe"
    program.write_text(f'#!/bin/sh\necho "$1" >> "{told}"\nexec "{find_caffe().tool("caffe")}" "$@"\n')
    program.chmod(0o755)
    text = (
        'name: "n"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'
        + nets.conv("c1", "data", 8)
        + nets.conv("c2", "c1", 8)
    )
    model, weights = nets.write_net(tmp_path, text)
    (tmp_path / "r.json").write_text(json.dumps({"format": "enc-caffe-ranks/1", "network": "n", "ranks": {"c2": 3}}))
    assert main(["emit", "--model", str(model), "--weights", str(weights), "--ranks", str(tmp_path / "r.json"), "--out",
                 str(tmp_path / "out"), "--caffe_root", str(root)]) == 0  # fmt: skip
    assert "test" in told.read_text().split()


def test_its_types_are_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n' + nets.conv("c1", "data", 8) + nets.simple(
        "p", "Permute", "c1", "p", "permute_param { order: 0 order: 2 order: 3 order: 1 }")  # fmt: skip
    (tmp_path / "n.prototxt").write_text(text)
    net = read_net(tmp_path / "n.prototxt")
    network = describe(net, (3, 12, 12))
    assert (
        runnable(net, network, "n").missing == {"p"} and "Caffe has no type 'Permute'" in notices(net, network, "n")[0]
    )
    monkeypatch.setenv(TYPES, "Permute,Convolution")
    assert runnable(net, network, "n").net is net
    assert not any("has no type" in line for line in notices(net, network, "n"))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("", "no such folder; name that of a built Caffe"),
        ("python", "caffe_pb2.py is missing; build that Caffe with its Python module"),
        ("build", "there is no program .*build/tools/caffe; build that Caffe"),
    ],
)
def test_what_is_not_built_is_said(other: Path, tmp_path: Path, missing: str, words: str) -> None:
    root = tmp_path / "caffe"
    if missing:
        root.mkdir()
        for name in {"python", "build"} - {missing}:
            (root / name).symlink_to(other / name)
    with pytest.raises(CaffeNotFoundError, match=words):
        types_of(root)


def test_what_cannot_be_imported_is_said(other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = tmp_path / "caffe" / "python" / "caffe"
    (module / "proto").mkdir(parents=True)
    (module / "proto" / "caffe_pb2.py").write_text("")
    (module / "__init__.py").write_text("import libboost_of_another_python\n")
    (tmp_path / "caffe" / "build").symlink_to(other / "build")
    (tmp_path / "n.prototxt").write_text(
        'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n' + nets.conv("c1", "data", 8)
    )
    assert main(["inspect", "--model", str(tmp_path / "n.prototxt"), "--caffe_root", str(tmp_path / "caffe")]) != 0
    said = capsys.readouterr().err
    assert "cannot import its caffe: ModuleNotFoundError: No module named 'libboost_of_another_python'" in said
    assert "build it for this Python" in said and len(said.strip().splitlines()) == 1
