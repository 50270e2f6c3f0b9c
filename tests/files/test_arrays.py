"""Files of arrays: whole or not there, never believed when damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.errors import EncError, OutputError
from enc_caffe.files.arrays import arrays_writer, read_arrays, write_arrays
from enc_caffe.form import Form
from enc_caffe.measuring.factors import factor_file, read_error, read_factors, write_factors


def test_what_is_written_is_read(tmp_path: Path) -> None:
    arrays = {"a/b": np.arange(6.0).reshape(2, 3), "n": np.array(3)}
    write_arrays(tmp_path / "x" / "y.npz", arrays)
    found = read_arrays(tmp_path / "x" / "y.npz")
    assert found is not None and set(found) == set(arrays)
    np.testing.assert_array_equal(found["a/b"], arrays["a/b"])


def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), arrays_writer(tmp_path / "y.npz") as add:
        add("a", np.ones(3))
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ("cut", "byte", "empty", "absent"))
def test_damaged_files_are_not_believed(tmp_path: Path, damage: str) -> None:
    form, rng = Form("spatial", (3,)), np.random.default_rng(0)
    path = factor_file(tmp_path, "conv/1", form)
    factors = [rng.standard_normal((3, 4, 3, 1)), rng.standard_normal((5, 3, 1, 3)), rng.standard_normal((6, 5, 1, 1))]
    write_factors(tmp_path, "conv/1", form, factors, 0.25)
    assert read_error(tmp_path, "conv/1", form) == 0.25
    kept = read_factors(tmp_path, "conv/1", form)
    assert [k.dtype for k in kept] == [np.float32] * 3
    for ours, theirs in zip(factors, kept):
        np.testing.assert_array_equal(ours.astype(np.float32), theirs)
    data = bytearray(path.read_bytes())
    if damage == "absent":
        path.unlink()
    else:
        data[300] ^= 255
        path.write_bytes({"cut": data[: len(data) // 2], "byte": data, "empty": b""}[damage])
    assert read_arrays(path) is None
    with pytest.raises(EncError, match="factors are missing or damaged; run the command again"):
        read_factors(tmp_path, "conv/1", form)
    with pytest.raises(EncError, match="factors are missing or damaged; run the command again"):
        read_error(tmp_path, "conv/1", form)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_arrays(tmp_path / "file" / "y.npz", {"a": np.ones(2)})


def test_a_file_that_lost_its_last_members_is_not_whole(tmp_path: Path) -> None:
    np.savez(tmp_path / "y.npz", a0=np.ones(3))
    assert read_arrays(tmp_path / "y.npz") is None


def test_every_form_has_a_file_of_its_own(tmp_path: Path) -> None:
    forms = [
        Form("spatial", (3,)),
        Form("spatial_t", (3,)),
        Form("spatial", (31,)),
        Form("tucker2", (3, 1)),
        Form("tucker2", (1, 3)),
    ]
    paths = {factor_file(tmp_path, name, form) for name in ("a", "a/b", "a-spatial") for form in forms}
    assert len(paths) == 15 and {p.parent for p in paths} == {tmp_path}
