"""What is in a count of MACs, how often, and what is in none."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.complexity import network_complexity, uncounted, uncounted_words
from enc_caffe.form import CONVENTIONS, parse_form
from tests.caffe_io.test_variants import INPUT, conv, fc, layer, read
from tests.measuring import nets

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
    assert uncounted(network) == [] and uncounted_words(network) == ""


def test_an_emission_says_what_its_costs_leave_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of all MACs are not half of them where a layer, however large, is in no count."""
    both = conv("both", "a b", 8).replace('top: "both"', 'top: "x" top: "y"')
    text = INPUT + conv("a", "data", 8) + conv("b", "data", 8) + both + fc("f", "x") + fc("g", "y")
    model, weights = nets.write_net(tmp_path, 'name: "n"\n' + text)
    ranks = tmp_path / "ranks.json"
    for chosen, words in (({"a": 4}, "; not counted: both (Convolution)\n"), ({}, "")):
        ranks.write_text(json.dumps({"format": "enc-caffe-ranks/1", "ranks": chosen or {"c": 4}}))
        if not chosen:
            model, weights = nets.write_net(tmp_path, 'name: "n"\n' + INPUT + conv("c", "data", 8))
        emit = [
            "emit",
            "--model",
            str(model),
            "--weights",
            str(weights),
            "--ranks",
            str(ranks),
            "--out",
            str(tmp_path / "out"),
            "--force",
        ]
        assert main(emit) == 0
        said = capsys.readouterr().out
        assert words in said and ("not counted" in said) == bool(words)


def test_regions_and_steps_of_an_image_count_as_often_as_there_are(tmp_path: Path) -> None:
    images = INPUT.replace("dim: 2", "dim: %d")
    regions = 'layer { name: "rois" type: "Input" top: "rois" input_param { shape { dim: 12 dim: 5 } } }\n'
    pooled = layer("pool", "ROIPooling", "c rois", "roi_pooling_param { pooled_w: 2 pooled_h: 2 spatial_scale: 1 }")
    text = regions + conv("c", "data", 4) + pooled + conv("d", "pool", 4) + fc("f", "d", 6)
    for number in (1, 2, 3):
        _, network = read(tmp_path, images % number + text)
        each = 12 // number
        assert network["c"].repeats == 1 and network["d"].repeats == network["f"].repeats == each
        macs = 4 * 3 * 9 * 64 + each * (4 * 4 * 9 * 4 + 16 * 6)
        found = network_complexity(network, {})
        assert (found.macs, found.parameters) == (macs, 4 * 3 * 9 + 4 * 4 * 9 + 16 * 6)
        # Halves count as often as the whole.
        forms = {"d": parse_form("spatial:2"), "f": parse_form("inner_product:2")}
        saved = each * (4 * 4 * 9 * 4 - 2 * (4 + 4) * 3 * 4 + 16 * 6 - 2 * (16 + 6))
        for convention in CONVENTIONS:
            assert network_complexity(network, forms, convention).macs == macs - saved
    # Of 12 regions of 8 images one and a half come of each, which is no number of theirs to round.
    _, network = read(tmp_path, images % 8 + text)
    assert network["d"].repeats == network["f"].repeats == Fraction(3, 2)
    assert network_complexity(network, {}).macs == 4 * 3 * 9 * 64 + 3 * (4 * 4 * 9 * 4 + 16 * 6) // 2
    # Time comes first behind the Reshape: one line of text, eight steps.
    line = layer("t", "Reshape", "c", "reshape_param { shape { dim: 8 dim: 1 dim: 32 } }")
    steps = layer("f", "InnerProduct", "t", "inner_product_param { num_output: 5 axis: 2 }")
    _, network = read(tmp_path, images % 1 + conv("c", "data", 4) + line + steps)
    assert network_complexity(network, {}).macs == 4 * 3 * 9 * 64 + 8 * 32 * 5
    # A blob that all images share is no less work.
    shared = 'layer { name: "p" type: "DummyData" top: "p" dummy_data_param { shape { dim: 1 dim: 7 } } }\n'
    _, network = read(tmp_path, images % 4 + shared + fc("f", "p", 5))
    assert network_complexity(network, {}).macs == 35
