"""How image files become records, by what the network and the user's flags say."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.collection import wanted_of
from enc_caffe.caffe_io.feed import AS_WRITTEN
from enc_caffe.caffe_io.inputs import set_input_shape
from enc_caffe.errors import UsageError
from tests.caffe_io.test_variants import INPUT, conv, read

pytestmark = pytest.mark.caffe


def test_pictures_are_not_brought_to_one_pixel(tmp_path: Path) -> None:
    """Files whose size is set when they run say 1x1; --input_shape says the size that pictures are brought to."""
    net, _ = read(tmp_path, INPUT.replace("dim: 8", "dim: 1") + conv("c", "data"))
    with pytest.raises(UsageError, match="n.prototxt: its input is 1x1, .* give --input_shape C,H,W"):
        wanted_of(net, "n.prototxt", AS_WRITTEN)
    set_input_shape(net, (3, 24, 40), "n.prototxt", {})
    assert wanted_of(net, "n.prototxt", AS_WRITTEN).fixed == (24, 40)
