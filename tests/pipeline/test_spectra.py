"""What is said where no layer can be decomposed."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.errors import MetricsError
from tests.measuring import nets

PAIR = (
    'name: "pair" layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 6 dim: 12 dim: 12 } } }\n'
    'layer { name: "sides" type: "Slice" bottom: "data" top: "left" top: "right" slice_param { axis: 1 } }\n'
)


def test_branches_with_the_same_weights_are_told_what_to_give(tmp_path: Path) -> None:
    branches = "".join(
        nets.conv(f"c_{side}", side, 8).replace(
            "convolution_param", 'param { name: "w" } param { name: "b" } convolution_param'
        )
        for side in ("left", "right")
    )
    model, weights = nets.write_net(tmp_path, PAIR + branches)
    loaded = pipeline.load(model)
    with pytest.raises(
        MetricsError, match=r"layer 'c_left' and 1 more share weights .* give the deploy prototxt of one"
    ):
        pipeline.pca_metrics(loaded, weights)
