"""A network, its caffemodel and its images, held against each other before anything runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel, layer_record, write_caffemodel
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.errors import WeightsError
from enc_caffe.installation import TYPES
from enc_caffe.measuring.images import look_at
from tests.measuring import nets

pytestmark = pytest.mark.caffe
TEXT = 'name: "n"\ninput: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n' + nets.conv("c", "data", 4)


def test_blobs_that_stock_caffe_would_abort_on_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A BatchNorm of NVIDIA's Caffe has scale and bias of its own: five blobs in place of three."""
    text = TEXT + nets.simple("bn", "BatchNorm", "c")
    model, weights = nets.write_net(tmp_path, text)
    nets.write_images(tmp_path / "lmdb", 3)

    def looked() -> int:
        return look_at(read_net(model), str(model), weights, tmp_path / "lmdb", any_output=True).images

    assert looked() == 3
    records = [bytes(CaffeModel(weights).record(layer)) for layer in CaffeModel(weights) if layer.name != "bn"]
    with open(weights, "wb") as handle:
        write_caffemodel(
            handle, "n", [*records, layer_record("bn", "BatchNorm", [np.ones(4)] * 2 + [np.ones(1)] + [np.ones(4)] * 2)]
        )
    with pytest.raises(
        WeightsError, match="layer 'bn' has 5 blobs, stock Caffe needs 3; --caffe_root DIR runs a Caffe that takes it"
    ):
        looked()
    # Which blobs another Caffe has is its own affair.
    monkeypatch.setenv(TYPES, "Convolution,BatchNorm")
    assert looked() == 3
