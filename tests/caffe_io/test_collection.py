"""How image files become records, by what the network and the user's flags say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.collection import collection, wanted_of
from enc_caffe.caffe_io.datum import ImageLmdb
from enc_caffe.caffe_io.feed import AS_WRITTEN
from enc_caffe.caffe_io.inputs import set_input_shape
from enc_caffe.errors import UsageError
from tests.caffe_io.test_variants import INPUT, conv, fc, layer, read

pytestmark = pytest.mark.caffe


def test_pictures_are_not_brought_to_one_pixel(tmp_path: Path) -> None:
    """Files whose size is set when they run say 1x1; --input_shape says the size that pictures are brought to."""
    net, _ = read(tmp_path, INPUT.replace("dim: 8", "dim: 1") + conv("c", "data"))
    with pytest.raises(UsageError, match="n.prototxt: its input is 1x1, .* give --input_shape C,H,W"):
        wanted_of(net, "n.prototxt", AS_WRITTEN)
    set_input_shape(net, (3, 24, 40), "n.prototxt", {})
    assert wanted_of(net, "n.prototxt", AS_WRITTEN).fixed == (24, 40)


LABEL = layer("loss", "SoftmaxWithLoss", "f label")


@pytest.mark.parametrize(
    ("inputs", "loss"),
    [
        (INPUT + 'layer { name: "l" type: "Input" top: "label" input_param { shape { dim: 2 } } }\n', LABEL),
        ('input: "label" input: "data" input_shape { dim: 2 } input_shape { dim: 2 dim: 3 dim: 8 dim: 8 }\n', LABEL),
        # One shape for both: what it is held against is an image too.
        (INPUT.replace('top: "data"', 'top: "data" top: "label"'), layer("loss", "EuclideanLoss", "c label")),
    ],
)
def test_pictures_are_resized_where_labels_come_by_an_input_too(tmp_path: Path, inputs: str, loss: str) -> None:
    """Only what a layer with weights sees can be images."""
    net, _ = read(tmp_path, inputs + conv("c", "data", 3) + fc("f", "c") + loss)
    assert wanted_of(net, "n.prototxt", AS_WRITTEN).fixed == (8, 8)


def test_of_several_inputs_of_images_none_says_the_size(tmp_path: Path) -> None:
    two = INPUT + INPUT.replace('"data"', '"other"')
    net, _ = read(tmp_path, two + conv("c", "data") + conv("d", "other"))
    assert wanted_of(net, "n.prototxt", AS_WRITTEN).fixed is None


def test_arrays_of_one_place_are_what_they_are(tmp_path: Path) -> None:
    """Features, or the noise of a generator: nothing brings arrays to a size, so nothing needs one."""
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py: pip install 'enc-caffe[hdf5]'")
    net, _ = read(tmp_path, INPUT.replace("dim: 8", "dim: 1") + conv("c", "data"))
    arrays = np.zeros((4, 3, 1, 1), np.float32)
    np.savez(tmp_path / "i.npz", images=arrays)
    with h5py.File(tmp_path / "i.h5", "w") as file:
        file["data"] = arrays
    (tmp_path / "h5.txt").write_text(f"{tmp_path / 'i.h5'}\n")
    for name in ("i.npz", "i.h5", "h5.txt"):
        wanted = wanted_of(net, "n.prototxt", AS_WRITTEN, tmp_path / name)
        images = ImageLmdb(collection(tmp_path / name, tmp_path / "cache", wanted))
        assert [image.pixels.shape for image in images.images()] == [(3, 1, 1)] * 4
        images.close()
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UsageError, match="its input is 1x1"):
        wanted_of(net, "n.prototxt", AS_WRITTEN, tmp_path / "pictures")
