"""Sizes of images: what the user says, then the given LMDB, then the network's own sources; a name where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.caffe_io.sizing import image_shape, sized_network
from tests.caffe_io.test_variants import INPUT, LMDB, conv


@pytest.mark.parametrize(
    ("lmdb", "said", "wanted"),
    [(None, None, None), ((3, 20, 20), None, (3, 20, 20)), ((3, 20, 20), (1, 9, 9), (1, 9, 9))],
)
def test_what_the_user_says_comes_first(tmp_path: Path, lmdb, said, wanted) -> None:
    (tmp_path / "n.prototxt").write_text(LMDB.replace('"x"', f'"{tmp_path / "missing"}"') + conv("c", "data"))
    assert image_shape(read_net(tmp_path / "n.prototxt"), lmdb, said) == wanted


def test_a_network_without_a_name_is_known_by_its_file(tmp_path: Path) -> None:
    for name, wanted in (("", "face_v2"), ('name: "mine"\n', "mine")):
        (tmp_path / "face_v2.prototxt").write_text(name + INPUT + conv("c", "data"))
        network = sized_network(read_net(tmp_path / "face_v2.prototxt"), str(tmp_path / "face_v2.prototxt"))
        assert network.name == wanted
        assert network.shape_of("c") == (2, 5, 8, 8)


def test_a_top_that_the_user_sizes(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(LMDB + conv("c", "data"))
    net = read_net(tmp_path / "n.prototxt")
    network = sized_network(net, "n.prototxt", None, None, {"data": (4, 3, 16, 16), "label": (4,)})
    assert network.shape_of("c") == (4, 5, 16, 16)
    assert sized_network(net, "n.prototxt", (3, 12, 12)).shape_of("c") == (8, 5, 12, 12)
