"""What steps hand on: whole or not there, the file of the step before untouched, and its room used again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.errors import OutputError
from enc_caffe.files.passed_on import handed_on, handing_on


def hand(folder: Path, step: int, arrays: dict[str, np.ndarray], before: int = -1) -> None:
    with handing_on(folder, "x", step, before) as add:
        for key, array in arrays.items():
            add(key, array)


def values(step: int, length: int = 7) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    shapes = {"0/c/data": (2, 3, length), "0/o/data": (length,), "1/c/none": (0, 4)}
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def same(found: dict[str, np.ndarray] | None, wanted: dict[str, np.ndarray]) -> bool:
    return found is not None and found.keys() == wanted.keys() and all(
        np.array_equal(found[k], wanted[k]) and found[k].shape == wanted[k].shape for k in wanted
    )  # fmt: skip


def test_each_step_reads_what_the_one_before_handed_on(tmp_path: Path) -> None:
    assert handed_on(tmp_path, "x", 0) is None
    hand(tmp_path, 0, values(0))
    for step in range(1, 6):
        # Shorter and longer than what lay there.
        hand(tmp_path, step, values(step, 9 - step), step - 1)
        assert same(handed_on(tmp_path, "x", step - 1), values(step - 1, 9 - step + 1 if step > 1 else 7))
        assert same(handed_on(tmp_path, "x", step), values(step, 9 - step))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x-a.json", "x-a.raw", "x-b.json", "x-b.raw"]


def test_a_step_that_stops_half_way_leaves_the_one_before(tmp_path: Path) -> None:
    hand(tmp_path, 3, values(3))
    hand(tmp_path, 4, values(4), 3)
    with pytest.raises(KeyboardInterrupt), handing_on(tmp_path, "x", 5, 4) as add:
        add("0/c/data", values(5)["0/c/data"])
        raise KeyboardInterrupt
    assert same(handed_on(tmp_path, "x", 4), values(4))
    # Half of it was written over.
    assert handed_on(tmp_path, "x", 5) is None and handed_on(tmp_path, "x", 3) is None
    hand(tmp_path, 5, values(5), 4)
    assert same(handed_on(tmp_path, "x", 5), values(5)) and same(handed_on(tmp_path, "x", 4), values(4))


@pytest.mark.parametrize("damage", ["cut", "gone", "index cut", "index of something else", "index gone"])
def test_what_is_not_whole_is_not_believed(tmp_path: Path, damage: str) -> None:
    hand(tmp_path, 2, values(2))
    raw, index = tmp_path / "x-a.raw", tmp_path / "x-a.json"
    if damage == "cut":
        raw.write_bytes(raw.read_bytes()[:-1])
    elif damage == "index cut":
        index.write_bytes(index.read_bytes()[:-3])
    elif damage == "index of something else":
        index.write_text("[1]")
    else:
        (raw if damage == "gone" else index).unlink()
    assert handed_on(tmp_path, "x", 2) is None
    hand(tmp_path, 2, values(2))
    assert same(handed_on(tmp_path, "x", 2), values(2))


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        hand(tmp_path / "file", 0, values(0))
