"""The part of a network that stock Caffe has."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.partial import deploy_shapes, foreign, known_part
from tests.caffe_io.test_variants import INPUT, SHAPES, conv, fc, layer, read

pytestmark = pytest.mark.caffe


def test_unknown_layers_give_way_to_inputs_of_their_shapes(tmp_path: Path) -> None:
    text = (
        INPUT
        + conv("c", "data")
        + layer("gate", "MyGate", "c", top="c")
        + layer("warp", "MyWarp", "c")
        + conv("d", "warp")
    )
    text += layer("other", "MyOther", "d") + fc("f", "other") + conv("e", "d")
    net, network = read(tmp_path, text, {"warp": (2, 5, 6, 6), "c": (2, 5, 8, 8)})
    left = foreign(net)
    assert left.keys() == {"gate", "warp", "other"} and "(MyWarp)" in left["warp"]
    part, behind = known_part(net, network, left)
    assert [(x.name, x.type) for x in part.layer] == [
        ("data", "Input"), ("c", "Convolution"), ("warp/warp", "Input"), ("d", "Convolution"), ("e", "Convolution"),
    ]  # fmt: skip
    assert behind == 1 and list(part.layer[2].input_param.shape[0].dim) == [2, 5, 6, 6]


def test_given_shapes_follow_the_batch_of_the_deploy_form(tmp_path: Path) -> None:
    from enc_caffe.caffe_io.variants import deploy_net
    from tests.caffe_io.test_variants import LMDB

    net, network = read(
        tmp_path, LMDB + layer("warp", "MyWarp", "data") + conv("d", "warp"), {**SHAPES, "warp": (8, 5, 6, 6)}
    )
    given = {"warp": (8, 5, 6, 6), "data": (8, 3, 8, 8)}
    assert deploy_shapes(given, network, deploy_net(net, network)) == {"warp": (1, 5, 6, 6)}
