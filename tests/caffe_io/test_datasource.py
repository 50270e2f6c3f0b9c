"""What the sources of data layers say, HDF5 files among them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.collection import Wanted, collection
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.errors import DatasetError, UnknownSizeError
from tests.measuring.nets import conv, write_images

h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py: pip install 'enc-caffe[hdf5]'")

CONV = conv("c", "data", 4)


def hdf5_layer(source: Path, tops: str = "data label") -> str:
    """An HDF5Data layer of both phases."""
    named = " ".join(f'top: "{top}"' for top in tops.split())
    return f'layer {{ name: "d" type: "HDF5Data" {named} hdf5_data_param {{ source: "{source}" batch_size: 6 }} }}\n'


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A list of two HDF5 files: images, landmarks, and classes as floats."""
    rng = np.random.default_rng(0)
    for name, number in (("a.h5", 3), ("b.h5", 2)):
        with h5py.File(tmp_path / name, "w") as file:
            file["data"] = rng.normal(0, 1, (number, 2, 9, 7)).astype(np.float32)
            file["landmarks"], file["label"] = np.zeros((number, 10), np.float32), np.arange(number, dtype=np.float32)
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'a.h5'}\n{tmp_path / 'b.h5'}\n")
    return tmp_path / "list.txt"


def loaded(folder: Path, text: str, **more):
    (folder / "n.prototxt").write_text(text)
    return pipeline.load(folder / "n.prototxt", **more).network


def test_sizes_of_what_hdf5_files_hold(tmp_path: Path, faces: Path) -> None:
    network = loaded(tmp_path, hdf5_layer(faces, "data landmarks label") + CONV)
    assert [network.shape_of(t) for t in ("data", "landmarks", "label")] == [(6, 2, 9, 7), (6, 10), (6,)]
    # The user's word on the images holds; it says nothing of the rest.
    network = loaded(tmp_path, hdf5_layer(faces, "data landmarks") + CONV, input_shape=(3, 5, 5))
    assert [network.shape_of(t) for t in ("data", "landmarks")] == [(6, 3, 5, 5), (6, 10)]
    # Labels beside images of an LMDB.
    lmdb = write_images(tmp_path / "lmdb", 4)
    text = f'layer {{ name: "i" type: "Data" top: "data" data_param {{ source: "{lmdb}" batch_size: 2 backend: LMDB }} }}\n'
    network = loaded(tmp_path, text + hdf5_layer(faces, "landmarks") + CONV)
    assert [network.shape_of(t) for t in ("data", "landmarks")] == [(2, 3, 12, 12), (6, 10)]


def test_why_a_source_does_not_say_it(tmp_path: Path, faces: Path) -> None:
    (tmp_path / "gone.txt").write_text(f"{tmp_path / 'c.h5'}\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "broken.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:200])
    for source, tops, words in (
        ("none.txt", "data", f"its source '{tmp_path / 'none.txt'}' is not there"),
        ("gone.txt", "data", f"names '{tmp_path / 'c.h5'}', which is not there"),
        ("empty.txt", "data", "names no HDF5 file"),
        ("list.txt", "images", "has no dataset 'images' (data, label, landmarks)"),
        ("broken.h5", "data", "is HDF5 that cannot be read"),
    ):
        with pytest.raises(UnknownSizeError) as caught:
            loaded(tmp_path, hdf5_layer(tmp_path / source, tops) + CONV.replace("data", tops))
        assert words in str(caught.value) and "give --images or --lmdb, --input_shape C,H,W" in str(caught.value)
    data = f'layer {{ name: "d" type: "Data" top: "data" data_param {{ source: "{tmp_path}/%s" batch_size: 2 backend: %s }} }}\n'
    (tmp_path / "level").mkdir()
    for source, backend, words in (
        ("none", "LMDB", "none' is not there"),
        ("list.txt", "LMDB", "list.txt' is no LMDB"),
        ("level", "LEVELDB", "level' is a LevelDB, which is not read here"),
    ):
        with pytest.raises(UnknownSizeError, match=words):
            loaded(tmp_path, data % (source, backend) + CONV)
    with pytest.raises(UnknownSizeError, match="images of its list 'l' keep their own"):
        loaded(tmp_path, 'layer { name: "d" type: "ImageData" top: "data" image_data_param { source: "l" } }\n' + CONV)


def test_images_of_hdf5_files(tmp_path: Path, faces: Path) -> None:
    every = np.concatenate([h5py.File(tmp_path / name)["data"][()] for name in ("a.h5", "b.h5")])
    for source, images in ((faces, every), (tmp_path / "a.h5", every[:3])):
        lmdb = ImageLmdb(collection(source, tmp_path / "cache", Wanted()))
        found = list(lmdb.images())
        lmdb.close()
        assert len(found) == len(images)
        for image in found:
            (place,) = [i for i, wanted in enumerate(images) if np.array_equal(image.pixels, wanted)]
            assert image.label == (place if place < 3 else place - 3)
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file["side"] = file["data"][()]
        del file["data"]
        file["other"] = file["side"][()]
    with pytest.raises(DatasetError, match="has several datasets of four axes .*, and none of them is data"):
        collection(faces, tmp_path / "cache", Wanted())
