"""Whether halves are likely to be slower where 3x3 convolutions run by Winograd: by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from enc_caffe.form import WHOLE, Form
from enc_caffe.network import Network
from enc_caffe.pipeline.slower import effort, slower, winograd_ratio
from tests.decomposition.layers import conv

LAYER = replace(conv(64, 64, (3, 3), size=(30, 40)), name="a")
MACS = 64 * 64 * 9 * 30 * 40


def test_effort_by_hand() -> None:
    assert effort(LAYER, WHOLE) == pytest.approx(MACS / 2.8)
    # Halves are not by Winograd; of channel's two layers the first, of few outputs, is by less.
    assert effort(LAYER, Form("spatial", (48,))) == MACS / 2
    assert effort(LAYER, Form("channel", (16,))) == pytest.approx(MACS / 4 / 1.9 + 16 * 64 * 30 * 40)
    # With a stride nothing is, nor on small images.
    assert effort(replace(conv(64, 64, (3, 3), stride=(2, 2), size=(60, 80)), name="a"), WHOLE) == MACS
    assert effort(replace(conv(64, 64, (3, 3), size=(14, 14)), name="a"), WHOLE) == pytest.approx(
        64 * 64 * 9 * 196 / 1.7
    )
    assert effort(replace(conv(64, 64, (3, 3), size=(8, 8)), name="a"), WHOLE) == 64 * 64 * 9 * 64


def test_a_warning_names_the_flags_and_stands_only_where_the_network_gets_slower() -> None:
    network = Network("net", (LAYER, replace(LAYER, name="b")))
    half = {n: Form("spatial", (48,)) for n in "ab"}
    assert winograd_ratio(network, half) == pytest.approx(1.4)
    (line,) = slower(network, half)
    assert "likely slower than the original in mnn, ncnn (about 1.40 of its time)" in line and "'a' first" in line
    assert "--latency and --target_latency" in line and "--schemes channel" in line
    assert slower(network, {n: Form("spatial", (16,)) for n in "ab"}) == []
    assert slower(network, {n: Form("channel", (16,)) for n in "ab"}) == [] and slower(network, {}) == []
