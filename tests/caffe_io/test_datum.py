"""LMDBs: writing, reading, parts of them, and where images come from."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.caffe_io.datum import ImageLmdb, array_records, stratified, write_lmdb
from enc_caffe.cli import main
from enc_caffe.errors import DatasetError, OutputError, UsageError

pytestmark = pytest.mark.caffe


def read(path: Path) -> list[tuple[bytes, np.ndarray, int]]:
    """Everything in an LMDB."""
    images = ImageLmdb(path)
    found = [(i.key, i.pixels, i.label) for i in images.images()]
    images.close()
    return found


@pytest.fixture
def arrays(tmp_path: Path) -> Path:
    """A .npz with 50 images of five classes of unequal size."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), (5, 5, 10, 10, 20))
    np.savez(tmp_path / "a.npz", images=rng.integers(0, 256, (50, 3, 6, 5)).astype(np.uint8), labels=labels)
    return tmp_path / "a.npz"


def test_arrays_and_partial(arrays: Path, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    assert main(["data", "arrays", str(arrays), "--out", str(whole)]) == 0
    data = np.load(arrays)
    stored = read(whole)
    assert len(stored) == 50
    seen = {pixels.tobytes(): label for _, pixels, label in stored}
    assert all(seen[i.tobytes()] == n for i, n in zip(data["images"], data["labels"]))
    assert [n for _, _, n in stored] != sorted(n for _, _, n in stored)
    assert main(["data", "partial", str(whole), "--fraction", "0.2", "--out", str(part)]) == 0
    kept = read(part)
    assert np.bincount([n for _, _, n in kept]).tolist() == [1, 1, 2, 2, 4]
    original = {key: (pixels.tobytes(), n) for key, pixels, n in stored}
    assert all(original[key] == (pixels.tobytes(), n) for key, pixels, n in kept)
    again = tmp_path / "again"
    assert main(["data", "partial", str(whole), "--images", "10", "--out", str(again)]) == 0
    assert [k for k, _, _ in read(again)] == [k for k, _, _ in kept]
    assert main(["data", "partial", str(whole), "--images", "10", "--seed", "1", "--out", str(again), "--force"]) == 0
    assert [k for k, _, _ in read(again)] != [k for k, _, _ in kept]


def test_padding(arrays: Path, tmp_path: Path) -> None:
    assert main(["data", "arrays", str(arrays), "--pad", "2", "--out", str(tmp_path / "p")]) == 0
    pixels = read(tmp_path / "p")[0][1]
    assert pixels.shape == (3, 10, 9) and pixels[:, :2].max() == 0 and pixels[:, 2:8, 2:7].max() > 0


def test_cifar10(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        records = rng.integers(0, 256, (4, 3073)).astype(np.uint8)
        records[:, 0] = range(4)
        records.tofile(tmp_path / name)
    assert main(["data", "cifar10", str(tmp_path), "--split", "train", "--out", str(tmp_path / "train")]) == 0
    assert len(read(tmp_path / "train")) == 20
    raw = np.fromfile(tmp_path / "test_batch.bin", np.uint8).reshape(4, 3073)
    assert main(["data", "cifar10", str(tmp_path), "--split", "test", "--out", str(tmp_path / "test")]) == 0
    for _, pixels, label in read(tmp_path / "test"):
        np.testing.assert_array_equal(pixels.ravel(), raw[label, 1:])
    (tmp_path / "test_batch.bin").write_bytes(b"short")
    assert main(["data", "cifar10", str(tmp_path), "--split", "test", "--out", str(tmp_path / "no")]) == 1
    assert not (tmp_path / "no").exists()


def test_folders(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "src" / name).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / "src" / name / f"{i}.png"), rng.integers(0, 256, (8, 9, 3)).astype(np.uint8))
    assert main(["data", "folder", str(tmp_path / "src"), "--out", str(tmp_path / "l")]) == 0
    found = read(tmp_path / "l")
    assert sorted(n for _, _, n in found) == [0, 0, 0, 1, 1, 1]
    for key, pixels, label in found:
        file = tmp_path / "src" / ("cat", "dog")[label] / key.decode().split("_")[1]
        np.testing.assert_array_equal(pixels, cv2.imread(str(file)).transpose(2, 0, 1))
    cv2.imwrite(str(tmp_path / "src" / "cat" / "9.png"), np.zeros((4, 4, 3), np.uint8))
    assert main(["data", "folder", str(tmp_path / "src"), "--out", str(tmp_path / "m")]) == 1
    assert not (tmp_path / "m").exists()
    assert (
        main(["data", "folder", str(tmp_path / "src"), "--resize", "6,7", "--gray", "--out", str(tmp_path / "m")]) == 0
    )
    assert read(tmp_path / "m")[0][1].shape == (1, 6, 7)


def test_nothing_is_left_by_a_write_that_fails(tmp_path: Path) -> None:
    def breaking():
        yield b"0", b"x"
        raise DatasetError("broken source")

    with pytest.raises(DatasetError, match="broken source"):
        write_lmdb(tmp_path / "l", breaking())
    with pytest.raises(DatasetError, match="there is no image to write"):
        write_lmdb(tmp_path / "l", [])
    assert list(tmp_path.iterdir()) == []
    records = list(array_records(np.zeros((2, 1, 2, 2), np.uint8), np.array([0, 1])))
    write_lmdb(tmp_path / "l", records)
    with pytest.raises(OutputError, match="exists already"):
        write_lmdb(tmp_path / "l", records)
    assert len(read(tmp_path / "l")) == 2


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 60), st.integers(0, 3))
def test_stratified_keeps_proportions(labels: list[int], number: int, seed: int) -> None:
    array = np.array(labels)
    if number > len(array):
        with pytest.raises(UsageError):
            stratified(array, number, seed)
        return
    picked = stratified(array, number, seed)
    assert len(set(picked.tolist())) == number and np.all(np.diff(picked) > 0)
    for value in set(labels):
        share = np.sum(array == value) * number / len(array)
        assert np.floor(share) <= np.sum(array[picked] == value) <= np.ceil(share)
