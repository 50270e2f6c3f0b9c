"""The environment of processes that load Caffe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from enc_caffe.installation import find_caffe
from enc_caffe.workers import blas


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch):
    """As if the installation had measured that Haswell's kernels are the best."""
    monkeypatch.setattr(blas, "best_kernel", lambda: "Haswell")
    monkeypatch.setattr(blas, "kernel_variable", lambda: "OPENBLAS_CORETYPE")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)


def test_kernel_and_threads(slow_cpu: None) -> None:
    env = blas.blas_environment(1)
    assert env["OPENBLAS_CORETYPE"] == "Haswell"
    assert env["OPENBLAS_NUM_THREADS"] == env["OMP_NUM_THREADS"] == env["MKL_NUM_THREADS"] == "1"
    assert set(blas.blas_environment()) == {"OPENBLAS_CORETYPE"}


def test_the_users_choice_stays(slow_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    assert blas.blas_environment() == {}


def test_the_variable_is_that_of_the_blas_that_was_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, variable in (("mkl", "MKL_CBWR"), ("openblas", "OPENBLAS_CORETYPE")):
        monkeypatch.setattr(blas, "find_caffe", lambda name=name: SimpleNamespace(about={"blas": name}))
        monkeypatch.setattr(blas, "best_kernel", lambda: "")
        for kernel in ("OPENBLAS_CORETYPE", "MKL_CBWR"):
            monkeypatch.setenv(kernel, f"of {kernel}")
        assert blas.wanted_kernel() == f"of {variable}"
        assert blas.blas_environment(kernel="AVX2") == {variable: "AVX2"}


@pytest.mark.parametrize(
    ("asked", "own", "words"),
    [
        (1, 14, "mkl 2026.0.2 AVX512_E1"),
        (1, 10, "mkl 2026.0.2 AVX2"),
        (2, 10, "mkl 2026.0.2 AVX2 fixed"),
        (10, 14, "mkl 2026.0.2 AVX2 fixed"),
        (0x10000 + 12, 14, "mkl 2026.0.2 AVX512 fixed strict"),
        (1, 99, "mkl 2026.0.2 branch 99"),
    ],
)
def test_what_mkl_computes_with(asked: int, own: int, words: str) -> None:
    def version(at) -> None:
        at._obj.major, at._obj.minor, at._obj.update = 2026, 0, 2

    library = SimpleNamespace(
        MKL_Get_Version=version, MKL_CBWR_Get=lambda which: asked, MKL_CBWR_Get_Auto_Branch=lambda: own
    )
    assert blas.mkl_kernel(library) == words


@pytest.mark.caffe
def test_plain_python_gets_the_kernel_that_the_installation_names() -> None:
    caffe = find_caffe()
    if caffe.kernel_tool is None:
        pytest.skip("this Caffe was not built by make caffe")
    wanted = subprocess.run([str(caffe.kernel_tool)], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    env = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    code = f"import sys; sys.path.insert(0, {str(caffe.python_dir)!r}); import caffe, os; print(os.environ.get('OPENBLAS_CORETYPE', ''))"
    got = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True)
    assert got.stdout.strip() == wanted
    env["OPENBLAS_CORETYPE"] = "Haswell"
    got = subprocess.run([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True)
    assert got.stdout.strip() == "Haswell"


@pytest.mark.caffe
def test_the_command_itself_computes_with_one_thread_and_the_same_kernel(tmp_path: Path, shared_data: Path) -> None:
    pytest.importorskip("threadpoolctl")
    # A whole search: a BLAS that is loaded on the way, behind the environment of its start, would have threads of its own.
    code = (
        "import os, sys\nfrom enc_caffe.__main__ import main\nassert main() == 0\n"
        "import threadpoolctl\nblas = [x for x in threadpoolctl.threadpool_info() if x['user_api'] == 'blas']\n"
        "print({(x['architecture'], x['num_threads']) for x in blas}, os.environ['OPENBLAS_NUM_THREADS'], len(blas) > 0)"
    )
    arguments = ["search", shared_data / "metrics" / "vgg16.json", "--target_flops", "0.25", "--metric", "combined"]
    env = {**os.environ, "OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments), "--out", str(tmp_path / "ranks.json")], env=env, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    # What it starts later, such as caffe train, takes as many threads as the user says.
    assert done.stdout.splitlines()[-1] == "{('Nehalem', 1)} 3 True", done.stderr
