"""What a deploy.prototxt keeps of a training network: what a person would."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe import pipeline
from enc_caffe.caffe_io.inference import for_inference
from enc_caffe.caffe_io.prototxt import read_net, to_text, verbatim_text
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.form import Form
from enc_caffe.plan import Plan
from tests.caffe_io.legacy import write_legacy
from tests.caffe_io.test_variants import LMDB, SHAPES, read
from tests.caffe_tools.test_loadable import weights_of

pytestmark = pytest.mark.caffe

TRAINED = (
    LMDB
    + """# the first one
layer {
  name: "c1" type: "Convolution" bottom: "data" top: "c1"
  param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 }  # twice for the bias
  convolution_param {
    num_output: 6 kernel_size: 3 pad: 1
    weight_filler {
      type: "msra"  # He et al.
    }
    bias_filler { type: "constant" }
  }
}
layer { name: "p" type: "PReLU" bottom: "c1" top: "c1" param { lr_mult: 0 } prelu_param { filler { value: 0.1 } } }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" param { name: "w" lr_mult: 1 } param { name: "b" }
  include { phase: TEST } convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "fork" type: "MyBN" bottom: "c2" top: "c2" param { lr_mult: 1 } my_param { slope_filler { value: 1 } eps: 1 } }
layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 } data_filler { value: 2 } } }
"""
)
WANTED = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
# the first one
layer {
  name: "c1" type: "Convolution" bottom: "data" top: "c1"
  # twice for the bias
  convolution_param {
    num_output: 6 kernel_size: 3 pad: 1
  }
}
layer { name: "p" type: "PReLU" bottom: "c1" top: "c1" }
layer { name: "c2" type: "Convolution" bottom: "c1" top: "c2" param { name: "w" } param { name: "b" }
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "fork" type: "MyBN" bottom: "c2" top: "c2" my_param { eps: 1 } }
layer { name: "d" type: "DummyData" top: "d" dummy_data_param { shape { dim: 3 } data_filler { value: 2 } } }
"""


def test_nothing_that_only_training_reads_is_in_it(tmp_path: Path) -> None:
    net, network = read(tmp_path, TRAINED, SHAPES)
    deploy = for_inference(deploy_net(net, network))
    written = verbatim_text(deploy)
    (tmp_path / "wanted.prototxt").write_text(WANTED)
    assert [line.strip() for line in written.splitlines()] == [line.strip() for line in WANTED.splitlines()]
    # The messages say what the texts do.
    assert to_text(read_net(tmp_path / "wanted.prototxt")) == to_text(deploy)
    # The network itself has it all.
    assert "weight_filler" in verbatim_text(net) and "lr_mult" in verbatim_text(net)


def test_fillers_stay_where_no_weights_are(tmp_path: Path) -> None:
    net, network = read(tmp_path, TRAINED, SHAPES)
    written = verbatim_text(for_inference(deploy_net(net, network), {"c1"}))
    assert written.count("weight_filler") == 1 and "He et al." in written and "xavier" not in written


def test_an_emitted_pair_is_laid_out_as_its_network_is(tmp_path: Path) -> None:
    from tests.caffe_tools.test_loadable import PLAIN

    write_legacy(tmp_path / "w", "V1", weights_of("c1 c2 fc"))
    (tmp_path / "n.prototxt").write_text(PLAIN.replace("num_output: 8", 'num_output: 8 weight_filler { type: "msra" }'))
    done = pipeline.emit(
        pipeline.load(tmp_path / "n.prototxt"), tmp_path / "w", Plan("old", {"c2": Form("", (3,))}), tmp_path / "out"
    )
    assert done.unchecked == ""
    lines = (tmp_path / "out" / "deploy.prototxt").read_text().splitlines()
    assert lines[3:5] == [
        'layer { name: "c2_v" type: "Convolution" bottom: "c1" top: "c2_v" convolution_param { num_output: 3 bias_term: false '
        "pad_h: 1 pad_w: 0 kernel_h: 3 kernel_w: 1 } }",
        'layer { name: "c2_h" type: "Convolution" bottom: "c2_v" top: "c2" convolution_param { num_output: 8 pad_h: 0 pad_w: 1 '
        "kernel_h: 1 kernel_w: 3 } }",
    ]
