"""Which networks' images are seen in parts, and how large the parts are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import from_text, read_net
from enc_caffe.calibration.windows import window_of
from enc_caffe.network import Network
from tests.measuring import nets


def net(text: str, columns: int = 227) -> tuple[Any, Network]:
    shape = f"input_param {{ shape {{ dim: 1 dim: 3 dim: 227 dim: {columns} }} }}"
    own = from_text(f'name: "n"\nlayer {{ name: "data" type: "Input" top: "data" {shape} }}\n' + text)
    return own, describe(own)


def pool(name: str, bottom: str, extra: str = "kernel_size: 3 stride: 2") -> str:
    return nets.simple(name, "Pooling", bottom, name, f"pooling_param {{ {extra} }}")


def test_a_window_has_a_third_of_the_area_and_rounds_as_the_image_does() -> None:
    one = net(nets.conv("a", "data", 3, stride=2) + pool("p", "a") + nets.conv("b", "p", 3, stride=2), 451)
    rows, columns = window_of([one, one], (3, 227, 451), "b")
    assert (227 - rows) % 8 == 0 == (451 - columns) % 8
    assert rows / 227 == pytest.approx(0.577, abs=0.02) and columns / 451 == pytest.approx(0.577, abs=0.02)
    # Up to an earlier blob strides are less.
    assert (227 - window_of([one], (3, 227, 227), "a")[0]) % 2 == 0
    assert window_of([one], (3, 120, 227), "b") == () == window_of([one], (12,), "b")


@pytest.mark.parametrize(
    "text",
    (
        nets.simple("f", "InnerProduct", "a", "f", "inner_product_param { num_output: 4 }"),
        pool("f", "a", "pool: AVE global_pooling: true"),
        nets.simple("f", "Flatten", "a", "f"),
        # Kernels as large as what they see, or most of it: global in all but name.
        pool("f", "a", "pool: AVE kernel_size: 227"),
        pool("p", "a", "kernel_size: 32 stride: 32") + nets.conv("f", "p", 3, kernel=5),
        # A number for every place.
        nets.simple("f", "Scale", "a", "f", "scale_param { num_axes: 3 }"),
        nets.simple("f", "Bias", "a", "f", "bias_param { axis: 2 }"),
        # Strides of 64: less than four positions would be left.
        "".join(nets.conv(f"s{n}", f"s{n - 1}" if n else "a", 3, stride=2) for n in range(6)) + nets.conv("f", "s5", 3),
        # What joins places of different strides.
        nets.conv("c", "a", 3, stride=2) + nets.conv("u", "a", 3, stride=4).replace("pad: 1", "pad: 114")
        + 'layer { name: "f" type: "Eltwise" bottom: "c" bottom: "u" top: "f" }',
    ),
)  # fmt: skip
def test_images_are_whole_where_a_layer_needs_all_of_them(text: str) -> None:
    assert window_of([net(nets.conv("a", "data", 3) + text)], (3, 227, 227), "f") == ()
    # What comes behind the blob does not matter.
    assert window_of([net(nets.conv("a", "data", 3) + text)], (3, 227, 227), "a")


def test_squeezenet_is_seen_in_windows(shared_data: Path) -> None:
    found = read_net(shared_data / "squeezenet" / "squeezenet_v1.1_deploy.prototxt")
    assert window_of([(found, describe(found))], (3, 227, 227), "conv10") == (131, 131)
