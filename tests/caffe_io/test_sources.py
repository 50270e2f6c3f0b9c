"""Image folders, lists and arrays as LMDB records, against stock Caffe's own convert_imageset."""

from __future__ import annotations

import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from enc_caffe.caffe_io.datum import ImageLmdb, write_lmdb
from enc_caffe.caffe_io.proto import caffe_pb2
from enc_caffe.caffe_io.sources import from_arrays, from_folder, from_list, from_npz, in_folder, in_list, pictures_of
from enc_caffe.cli import main
from enc_caffe.errors import DatasetError
from enc_caffe.installation import find_caffe

pytestmark = pytest.mark.caffe


def picture(path: Path, seed: int, size: tuple[int, ...] = (9, 7, 3)) -> Path:
    """A PNG of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8))
    return path


def raw(path: Path) -> list[tuple[bytes, dict]]:
    """Keys and what their datums hold; whether a default is written out is no difference."""
    images, datum = ImageLmdb(path), caffe_pb2().Datum()
    try:
        return [
            (k, {f.name: getattr(datum, f.name) for f in datum.DESCRIPTOR.fields if f.name != "float_data"})
            for k, v in images.raw() if datum.ParseFromString(v)
        ]  # fmt: skip
    finally:
        images.close()


@pytest.mark.parametrize(("ours", "stock"), [((None, False), ()), (((6, 5), False), ("-resize_height=6", "-resize_width=5")), ((None, True), ("-gray",))])  # fmt: skip
def test_a_list_becomes_what_convert_imageset_makes_of_it(tmp_path: Path, ours: tuple, stock: tuple[str, ...]) -> None:
    lines = []
    for i in range(5):
        picture(tmp_path / "pictures" / f"p q {i}.png", i)
        lines.append(f"p q {i}.png {3 - i}")
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    tool = find_caffe().tool("convert_imageset")
    subprocess.run([str(tool), *stock, f"{tmp_path}/pictures/", str(tmp_path / "list.txt"), str(tmp_path / "stock")],
                   check=True, capture_output=True)  # fmt: skip
    write_lmdb(tmp_path / "ours", from_list(tmp_path / "list.txt", *ours, root=tmp_path / "pictures")[1])
    assert raw(tmp_path / "ours") == raw(tmp_path / "stock")


def test_images_in_one_folder_have_no_labels(tmp_path: Path) -> None:
    for i in range(4):
        picture(tmp_path / "flat" / f"{i}.png", i)
    (tmp_path / "flat" / "notes.txt").write_text("no image")
    assert main(["data", "folder", str(tmp_path / "flat"), "--out", str(tmp_path / "lmdb")]) == 0
    images = ImageLmdb(tmp_path / "lmdb")
    assert len(images) == 4 and list(images.labels()) == [-1] * 4
    found = {i.key.split(b"_", 1)[1]: i.pixels for i in images.images()}
    images.close()
    for i in range(4):
        np.testing.assert_array_equal(
            found[f"{i}.png".encode()].transpose(1, 2, 0), cv2.imread(str(tmp_path / "flat" / f"{i}.png"))
        )
    # Folders of classes as before, and both together are refused.
    for i in range(4):
        picture(tmp_path / "classes" / "ab"[i % 2] / f"{i}.png", i)
    assert sorted(in_folder(tmp_path / "classes").labels or ()) == [0, 0, 1, 1]
    picture(tmp_path / "classes" / "stray.png", 9)
    with pytest.raises(DatasetError, match="holds 1 images beside sub-folders with 4"):
        in_folder(tmp_path / "classes")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="holds no images"):
        from_folder(tmp_path / "empty", None, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no image"),
        ("a.png 0\nb.png 1\n", "line 2: .*b.png is no file; names begin in"),
        # Not as convert_imageset takes it.
        *(
            (text, "line 1: .*a.png.* is no file; .* a line is a path and, .* a space and one whole number")
            for text in ("a.png\t0", "a.png,0", "a.png 0.5", "a.png 0 3 4")
        ),
        ("GIF89a\0", "l.txt: is not a text file that lists images; a folder, a list, an image"),
        ("a.png 0\na.png\n", "line 2: some lines have a label behind the name, and some have none"),
    ],
)
def test_lists_with_faults(tmp_path: Path, text: str, words: str) -> None:
    picture(tmp_path / "a.png", 0)
    (tmp_path / "l.txt").write_text(text)
    with pytest.raises(DatasetError, match=words):
        in_list(tmp_path / "l.txt")
    with pytest.raises(DatasetError, match="cannot be read"):
        in_list(tmp_path / "none.txt")


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    (tmp_path / "l.txt").write_bytes(b"\xef\xbb\xbfa.png 3\r\n")
    found = in_list(tmp_path / "l.txt")
    assert found.files == (tmp_path / "a.png",) and found.labels == (3,)


def test_a_single_image_is_no_list(tmp_path: Path) -> None:
    picture(tmp_path / "a.PNG.png", 0)
    found = pictures_of(tmp_path / "a.PNG.png")
    assert found.files == (tmp_path / "a.PNG.png",) and found.labels is None


def test_files_that_are_skipped_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in (tmp_path / "flat", tmp_path / "classes" / "first"):
        picture(folder / "a.png", 0)
        (folder / ".hidden").touch()
        assert in_folder(folder).left_out() == []
        (folder / "b.png").symlink_to("nowhere.png")
    assert in_folder(tmp_path / "flat").left_out() == [
        f"{tmp_path / 'flat'}: 1 of 2 files is skipped: b.png leads to no file"
    ]
    (tmp_path / "classes" / "a.gif").touch()
    assert main(["data", "folder", str(tmp_path / "classes"), "--out", str(tmp_path / "lmdb")]) == 0
    assert "classes: 2 of 3 files are skipped: a.gif is none of .bmp, .jpeg" in capsys.readouterr().err


def test_a_list_without_labels(tmp_path: Path) -> None:
    picture(tmp_path / "a b.png", 0)
    picture(tmp_path / "c.png", 1)
    (tmp_path / "l.txt").write_text("a b.png\nc.png\n")
    found = in_list(tmp_path / "l.txt")
    assert found.labels is None and found.names == ("a b.png", "c.png")
    assert (
        main(["data", "list", str(tmp_path / "l.txt"), "--gray", "--resize", "4,5", "--out", str(tmp_path / "lmdb")])
        == 0
    )
    images = ImageLmdb(tmp_path / "lmdb")
    assert images.first_shape() == (1, 4, 5)
    images.close()


@pytest.mark.parametrize("kind", ["float32", "float64", "float16"])
def test_float_arrays_are_kept_to_the_bit(tmp_path: Path, kind: str) -> None:
    pixels = np.random.default_rng(0).normal(0, 1, (6, 3, 4, 5)).astype(kind)
    np.savez(tmp_path / "f.npz", things=pixels)
    # The only array that can hold images, and no labels.
    write_lmdb(tmp_path / "lmdb", from_npz(tmp_path / "f.npz", seed=None)[1])
    images = ImageLmdb(tmp_path / "lmdb")
    found = np.stack([i.pixels for i in images.images()])
    assert list(images.labels()) == [-1] * 6
    images.close()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, pixels.astype(np.float32))


def test_arrays_with_faults(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="not finite"):
        from_arrays(np.full((1, 1, 2, 2), np.nan), None)
    with pytest.raises(DatasetError, match="there.npz: holds no image, its array of images is .0, 1, 2, 2."):
        from_arrays(np.zeros((0, 1, 2, 2), np.uint8), None, source="there.npz")
    with pytest.raises(DatasetError, match="int64 of shape"):
        from_arrays(np.zeros((1, 1, 2, 2), np.int64), None)
    np.savez(tmp_path / "two.npz", a=np.zeros((1, 1, 2, 2)), b=np.zeros((1, 1, 2, 2)))
    with pytest.raises(DatasetError, match="has no array 'images'; there are a, b"):
        from_npz(tmp_path / "two.npz")
    with pytest.raises(DatasetError, match="has no array 'marks'"):
        from_npz(tmp_path / "two.npz", "a", "marks")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DatasetError, match="cannot be read as .npz"):
        from_npz(tmp_path / "one.npy")
