"""The doctor's findings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_tools import doctor
from enc_caffe.cli import main, parse
from enc_caffe.cli.doctor import of_model
from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.installation import CaffeInstallation
from enc_caffe.workers import blas
from tests.caffe_io.test_variants import INPUT, conv, layer
from tests.conftest import script


@pytest.mark.caffe
def test_it_measures_the_blas_that_caffe_uses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["import caffe"]["status"] == "ok"
    assert "GFLOP/s" in found["BLAS"]["found"]
    assert "64x64x576" in found["BLAS"]["found"]
    assert all(f["status"] in ("ok", "slow", "missing") for f in found.values())
    assert all(f["advice"] for f in found.values() if f["status"] != "ok")


def test_the_blas_of_a_caffe_for_gpus_is_that_of_its_cpu_part() -> None:
    listing = """\tlinux-vdso.so.1 (0x00007ffd)
\tlibcublas.so.11 => /lib/x86_64-linux-gnu/libcublas.so.11 (0x00007f51)
\tlibcublasLt.so.11 => /lib/x86_64-linux-gnu/libcublasLt.so.11 (0x00007f52)
\tlibopenblas.so.0 => /lib/x86_64-linux-gnu/libopenblas.so.0 (0x00007f53)
"""
    for blas_in in (blas.blas_in, script("measure_blas").blas_in):
        assert blas_in(listing) == "/lib/x86_64-linux-gnu/libopenblas.so.0"
        assert not blas_in("\tlibcublas.so.11 => /lib/libcublas.so.11 (0x0)\n\tlibopenblas.so.0 => not found\n")


def test_it_works_without_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CaffeNotFoundError("make caffe builds one")

    monkeypatch.setattr(doctor, "find_caffe", missing)
    found = {f.what: f for f in doctor.collect()}
    assert found["Caffe"].status == "missing"
    assert "make caffe" in found["Caffe"].advice


@pytest.mark.parametrize(
    ("cuda", "cudnn", "status", "text"),
    [
        ("", "", "ok", "BLAS openblas"),
        ("13.0", "9.19.0", "ok", "CUDA 13.0, cuDNN 9.19.0"),
        ("11.8", "", "slow", "CUDA 11.8, no cuDNN"),
    ],
)
def test_it_says_what_a_build_for_gpus_has(
    cuda: str, cudnn: str, status: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"commit": "99bd997", "origin": "git", "blas": "openblas", "cuda": cuda, "cudnn": cudnn}
    for part in ("_blas", "_layers"):
        monkeypatch.setattr(doctor, part, lambda caffe: [])
    caffe = CaffeInstallation(tmp_path, {}, "CAFFE_ROOT", about)
    found = doctor._caffe(caffe)[0]
    assert found.status == status and found.found.endswith(text)
    assert ("USE_CUDNN=ON" in found.advice) == (status == "slow")


def test_a_network_of_a_fork_is_told_as_far_as_it_can_be_run(tmp_path: Path) -> None:
    text = (
        INPUT + conv("a", "data", 8) + conv("b", "a", 8) + layer("dw", "ConvolutionDepthwise", "b", "convolution_param { num_output: 8 kernel_size: 3 }")
        + layer("warp", "MyWarp", "dw") + conv("c", "warp", 8)
    )  # fmt: skip
    (tmp_path / "n.prototxt").write_text(text)
    found = of_model(pipeline.load(tmp_path / "n.prototxt", input_shapes={"warp": (2, 8, 4, 4)}))
    assert [(f.status, f.what) for f in found] == [
        ("ok", "layer a (Convolution)"), ("ok", "layer b (Convolution)"), ("missing", "layer dw (ConvolutionDepthwise)"),
        ("missing", "layer c (Convolution)"),
    ]  # fmt: skip
    assert all((f.found == "not run" and "--caffe_root" in f.advice) == (f.status == "missing") for f in found)
    assert parse(["doctor", "--model", "n", "--top_shape", "x=1,2", "--stage", "s", "--allow_python_layers"]).stage == (
        "s",
    )
