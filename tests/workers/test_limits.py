"""What is refused before Caffe is asked to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import NetworkError
from enc_caffe.workers import limits

TEXT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [10, 3, 8, 8] } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "f0" type: "InnerProduct" bottom: "c" top: "f0" inner_product_param { num_output: 5 } }
"""


def network(folder: Path, gigabytes: int = 0):
    """Description of a small network with so many gigabytes of weights behind it, at least."""
    path = folder / "n.prototxt"
    large = "".join(
        f'layer {{ name: "f{i + 1}" type: "InnerProduct" bottom: "f{i}" top: "f{i + 1}" inner_product_param '
        "{ num_output: 40000 } }\n"
        for i in range(-(-gigabytes // 6) + 1 if gigabytes else 0)
    )
    path.write_text(TEXT + large)
    return describe(read_net(path))


def test_bytes_by_hand(tmp_path: Path) -> None:
    weights = 4 * 3 * 9 + 5 * 4 * 36
    blobs = 3 * 64 + 4 * 36 + 5
    assert limits.bytes_needed(network(tmp_path)) == 4 * (weights + blobs)
    assert limits.bytes_needed(network(tmp_path), training=True) == 4 * (3 * weights + 2 * 10 * blobs)


def test_more_than_the_machine_has(tmp_path: Path) -> None:
    large = network(tmp_path, limits.memory() // 10**9 + 1)
    assert limits.bytes_needed(large) > limits.memory()
    with pytest.raises(
        NetworkError, match=r"n.prototxt: one image takes at least [\d.]+ GiB in Caffe, and this machine has"
    ):
        limits.check_runs(large, "n.prototxt")
    with pytest.raises(NetworkError, match="training it takes at least"):
        limits.check_runs(large, "n.prototxt", training=True)
    limits.check_runs(network(tmp_path), "n.prototxt", training=True)
