"""Layers laid out as those beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.prototxt import read_net, verbatim_text
from enc_caffe.caffe_io.style import GROUPED, LONG, ONE_LINE, style_of

pytestmark = pytest.mark.caffe

ONE = 'layer { name: "%s" type: "Convolution" bottom: "x" top: "%s" convolution_param { num_output: 4 kernel_size: %d } }\n'
GROUP = 'layer {\n  name: "%s" type: "Convolution" bottom: "x" top: "%s"\n  convolution_param { num_output: 4 kernel_size: %d }\n}\n'
FULL = (
    'layer {\n  name: "%s"\n  type: "Convolution"\n  bottom: "x"\n  top: "%s"\n'
    "  convolution_param {\n    num_output: 4\n    kernel_size: %d\n  }\n}\n"
)


@pytest.mark.parametrize(("text", "style"), [(ONE, ONE_LINE), (GROUP, GROUPED), (FULL, LONG)])
def test_a_changed_layer_is_written_in_the_style_of_the_others(tmp_path: Path, text: str, style: str) -> None:
    (tmp_path / "n.prototxt").write_text("".join(text % (name, name, 3) for name in "abc"))
    net = read_net(tmp_path / "n.prototxt")
    net.layer[1].convolution_param.kernel_size[:] = [5]
    assert verbatim_text(net) == text % ("a", "a", 3) + text % ("b", "b", 5) + text % ("c", "c", 3)
    assert style_of([text % ("a", "a", 3)]) == style


def test_comments_are_no_lines_of_a_layer() -> None:
    assert style_of(["# one\n# two\n" + ONE % ("a", "a", 3)]) == ONE_LINE
    assert style_of([]) == LONG
