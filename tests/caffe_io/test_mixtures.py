"""Images made of two: each pixel is of one or between both; the same seed, the same images; what cannot be mixed is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.caffe_io.datum import ImageLmdb, array_records, datum_bytes, write_lmdb
from enc_caffe.caffe_io.mixtures import mixture, mixtures_of, zoomed
from enc_caffe.cli import main
from enc_caffe.errors import DatasetError, UsageError


def images_in(path: Path) -> list[np.ndarray]:
    images = ImageLmdb(path)
    try:
        assert (images.labels() == -1).all()
        return [x.pixels for x in images.images()]
    finally:
        images.close()


def written(path: Path, number: int, seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (number, 3, 9, 7)).astype(np.uint8)
    write_lmdb(path, array_records(pixels, np.arange(number)))
    return pixels


@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.booleans())
def test_a_pixel_is_of_one_image_or_between_both(seed: int, height: int, width: int, real: bool) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 256, (2, 3, height, width)).astype(np.float32 if real else np.uint8)
    made = mixture(first, second, rng)
    assert made.dtype == first.dtype and made.shape == first.shape
    wide = made.astype(float)
    low, high = np.minimum(first, second), np.maximum(first, second)
    assert (wide >= low - 1e-3).all() and (wide <= high + 1e-3).all()


def test_all_three_ways_are_taken() -> None:
    rng, first, second = np.random.default_rng(0), np.zeros((1, 8, 8), np.uint8), np.full((1, 8, 8), 200, np.uint8)
    kinds = {"whole": 0, "rectangle": 0, "blend": 0}
    for _ in range(300):
        made = mixture(first, second, rng)
        values = set(np.unique(made).tolist())
        # The second image counts no more than the first, but for the rounding of a rectangle's sides.
        assert made.max() <= 100 or (made == 200).sum() <= 36
        kinds["whole" if values == {0} else "rectangle" if 200 in values else "blend"] += 1
    assert min(kinds.values()) > 60
    assert not first.any()


@given(st.integers(0, 10**6), st.floats(0.05, 1))
def test_a_window_has_the_size_of_its_image_and_its_values(seed: int, least: float) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (3, 9, 7)).astype(np.uint8)
    made = zoomed(image, least, np.random.default_rng(seed))
    assert made.shape == image.shape and made.dtype == image.dtype
    assert made.min() >= image.min() and made.max() <= image.max()
    assert np.array_equal(zoomed(image, 1, np.random.default_rng(seed)), image)


def test_the_same_seed_makes_the_same_images_and_another_one_others(tmp_path: Path) -> None:
    pixels = written(tmp_path / "source", 5)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        command = [
            "data",
            "mixtures",
            str(tmp_path / "source"),
            "--number",
            "13",
            "--seed",
            str(seed),
            "--mirror",
            "--zoom",
            "0.5",
        ]
        assert main([*command, "--pad", "2", "--out", str(tmp_path / name)]) == 0
    a, b, c = (images_in(tmp_path / name) for name in "abc")
    assert len(a) == 13 and all(x.shape == (3, 13, 11) for x in a)
    assert all(np.array_equal(x, y) for x, y in zip(a, b)) and not all(np.array_equal(x, y) for x, y in zip(a, c))
    assert not any(x[:, :2].any() or x[:, -2:].any() or x[:, :, :2].any() or x[:, :, -2:].any() for x in a)
    assert len({x.tobytes() for x in a}) > len(pixels) == 5


def test_every_image_comes_first_as_often_as_the_others(tmp_path: Path) -> None:
    # Of two values that differ by 100 a mixture is nearer to the first's.
    pixels = np.repeat(np.array([10, 110, 210], np.uint8), 64).reshape(3, 1, 8, 8)
    write_lmdb(tmp_path / "source", array_records(pixels, None))
    write_lmdb(tmp_path / "out", mixtures_of(tmp_path / "source", 300)[1])
    corners = [int(np.median(x)) for x in images_in(tmp_path / "out")]
    near = [min((10, 110, 210), key=lambda v: abs(v - c)) for c in corners]
    assert all(80 <= near.count(v) <= 120 for v in (10, 110, 210))


def test_a_second_image_of_another_size_is_brought_to_the_firsts(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 8, 6), (3, 5, 9)]
    records = [(b"%d" % i, datum_bytes(rng.integers(0, 256, s).astype(np.uint8), None)) for i, s in enumerate(shapes)]
    write_lmdb(tmp_path / "source", records)
    write_lmdb(tmp_path / "out", mixtures_of(tmp_path / "source", 8)[1])
    assert sorted(x.shape for x in images_in(tmp_path / "out")) == sorted(shapes * 4)


def test_what_cannot_be_mixed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [(b"%d" % i, datum_bytes(np.zeros((c, 4, 4), np.uint8), None)) for i, c in enumerate((1, 3))]
    write_lmdb(tmp_path / "source", records)
    with pytest.raises(DatasetError, match="channels cannot be mixed"):
        write_lmdb(tmp_path / "out", mixtures_of(tmp_path / "source", 50)[1])
    assert not (tmp_path / "out").exists()
    for values, flag in (((0,), "--number"), ((1, 0, False, 0.0), "--zoom"), ((1, 0, False, 1.0, -1), "--pad")):
        with pytest.raises(UsageError, match=flag):
            mixtures_of(tmp_path / "source", *values)
    assert main(["data", "mixtures", str(tmp_path / "nowhere"), "--number", "3", "--out", str(tmp_path / "out")]) != 0
    assert "nowhere" in capsys.readouterr().err
