"""The doctor's findings."""

from __future__ import annotations

import json

import pytest

from enc_caffe.cli import main
from enc_caffe.errors import CaffeNotFoundError
from enc_caffe.runtime import doctor


@pytest.mark.caffe
def test_it_measures_the_blas_that_caffe_uses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = {f["what"]: f for f in json.loads(capsys.readouterr().out)}
    assert found["import caffe"]["status"] == "ok"
    assert "GFLOP/s" in found["BLAS"]["found"]
    assert "64x64x576" in found["BLAS"]["found"]
    assert all(f["status"] in ("ok", "slow", "missing") for f in found.values())
    assert all(f["advice"] for f in found.values() if f["status"] != "ok")


def test_it_works_without_caffe(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise CaffeNotFoundError("make caffe builds one")

    monkeypatch.setattr(doctor, "find_caffe", missing)
    found = {f.what: f for f in doctor.collect()}
    assert found["Caffe"].status == "missing"
    assert "make caffe" in found["Caffe"].advice
