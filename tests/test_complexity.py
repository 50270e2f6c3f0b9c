"""What is in no count of MACs."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.complexity import uncounted
from tests.caffe_io.test_variants import INPUT, conv, fc, layer, read

pytestmark = pytest.mark.caffe
UP = layer("up", "Deconvolution", "c", "convolution_param { num_output: 4 kernel_size: 2 stride: 2 }")


def test_what_multiplies_and_is_in_no_count_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = INPUT + conv("c", "data") + UP + layer("w", "MyWarp", "up") + conv("d", "w") + layer("r", "ReLU", "d")
    _, network = read(tmp_path, text)
    assert uncounted(network) == ["up (Deconvolution)", "d (Convolution)"]
    assert main(["inspect", "--model", str(tmp_path / "n.prototxt")]) == 0
    said = capsys.readouterr().out
    # 5 x 3 x 9 weights at 8 x 8 places.
    assert "MACs of one image 8,640," in said and "not counted: up (Deconvolution), d (Convolution)" in said
    _, network = read(tmp_path, INPUT + conv("c", "data") + fc("f", "c"))
    assert uncounted(network) == []
