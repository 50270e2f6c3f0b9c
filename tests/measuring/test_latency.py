"""Latency by rank, measured in real Caffe, and a search within it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Mapping

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.cli import main
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import RuntimeRefusal
from enc_caffe.measuring.clock import Timing
from enc_caffe.measuring.latency import TOGETHER, measure_latency, sampled_forms
from enc_caffe.metrics.files import write_metrics
from enc_caffe.metrics.latency import read_latency
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.plan import read_plan
from enc_caffe.runtimes.known import RUNTIMES
from tests.decomposition.layers import conv
from tests.search.tables import entry

NET = """
name: "three"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 32 dim: 32 dim: 32 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
layer { name: "c" type: "Convolution" bottom: "b" top: "c"
  convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
"""


def test_sampled_ranks_go_from_a_tenth_to_all_by_the_steps_of_runtimes() -> None:
    # r_max of 64 channels is 96, of 2 by 1 it is 2; evenly they are 10, 39, 67, 96: of 10 the next multiple of 4 that is no less.
    assert [str(f) for f in sampled_forms(conv(64, 64, (3, 3)), "spatial", 4)] == [
        "spatial:12", "spatial:40", "spatial:64", "spatial:96",
    ]  # fmt: skip
    assert [str(f) for f in sampled_forms(conv(2, 1, (3, 3)), "spatial")] == ["spatial:1", "spatial:2"]
    # Of two ranks, evenly along the ladder: rising MACs, the last the dearest.
    layer = conv(24, 16, (3, 3))
    forms = sampled_forms(layer, "tucker2", 4)
    costs = [form_cost(layer, f)[0] for f in forms]
    assert len(forms) == 4 and costs == sorted(costs) and {f.scheme for f in forms} == {"tucker2"}
    assert all(r % 4 == 0 for f in forms for r in f.ranks)


class Clock:
    """Gives every layer 1000 ns whole and 500 in a form, and the network 4000, or 3500 with all layers in a scheme.

    In a context a layer stands three times.
    """

    def __init__(self, refused: str = "", network: float = 4000.0, slow: tuple[float, ...] = (1.0, 1.0)) -> None:
        self.runtime, self.about, self.refused, self.network = RUNTIMES["mnn"], {"runtime": "mnn"}, refused, network
        self.asked, self.slow = list[list[str]](), slow

    def one(self, name: str, what: str) -> Timing:
        return Timing(100.0 if name.startswith("without") else 3100.0 if name == "whole" else 1600.0, 9.0)

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> dict[str, Timing]:
        self.asked.append(list(nets))
        if what == "the network":
            return {n: Timing(self.network - 500 * (n != "original"), 2.0) for n in nets}
        if what == TOGETHER:
            # Some forms of each geometry, as they were, or slower than when they were alone.
            one = {n: self.one(n.partition(" ")[2], what) for n in nets}
            return {n: Timing(t.nanoseconds * self.slow[int(n[0])], 9.0) for n, t in one.items()}
        known = {n: self.one(n, what) for n in nets}
        return {n: t for n, t in known.items() if (what, n) != (f"layer '{self.refused}'", "whole")}


def test_times_are_made_right_by_the_whole_networks() -> None:
    net = from_text(NET.replace("kernel_size: 3 pad: 1", "kernel_size: 5 pad: 2", 1))
    network, clock, lines = describe(net), Clock(), []
    schemes = {"a": ("spatial",), "b": ("spatial",), "c": ("spatial", "channel")}
    table = measure_latency(net, network, schemes, clock, ranks=2, notice=lines.append)
    # b and c are of one geometry and timed as one, in the forms of both schemes.
    assert [len(asked) for asked in clock.asked] == [1 + 1 + 2, 1 + 1 + 4, 4 + 4, 1 + 2]
    # Beside its layers the network takes 1000. In the spatial scheme 2500 are predicted and 3500 measured: so that 1500 are 2500.
    assert table.network_time == 4000 and table.rest("abc") == 1000
    assert {x.name + x.scheme: (x.whole, x.nanoseconds) for x in table.layers} == {
        "aspatial": (1000, (833, 833)), "bspatial": (1000, (833, 833)), "cspatial": (1000, (833, 833)), "cchannel": (1000, (500, 500)),
    }  # fmt: skip
    assert table.about["corrected"] == {"spatial": pytest.approx(5 / 3), "channel": pytest.approx(1.0)} and lines == []
    assert table.layers[0].intervals == (4, 7, 7) and table.about["anchors"]["spatial"] == {
        "predicted_ns": 2500,
        "measured_ns": 3500,
    }
    # Layers that take more alone than the whole network were timed too long.
    small = measure_latency(net, network, {"a": ("spatial",)}, Clock(network=800.0), ranks=2)
    assert small.layers[0].whole == 800 and small.rest("a") == 0


def test_geometries_that_were_timed_at_another_moment_are_put_right_together() -> None:
    net = from_text(NET.replace("kernel_size: 3 pad: 1", "kernel_size: 5 pad: 2", 1))
    schemes = {"a": ("spatial",), "b": ("spatial",)}
    # When all were timed in turns those of the second took twice as long as alone: the machine did something else. So it still does when the
    # whole network is timed right after, of which the layers must be parts.
    clock = Clock(network=9000.0, slow=(1.0, 2.0))
    table = measure_latency(net, describe(net), schemes, clock, ranks=2)
    first, second = table.layers
    assert (
        (first.whole, second.whole) == (1000, 2000)
        and table.rest("ab") == 6000
        and second.nanoseconds == pytest.approx((2 * first.nanoseconds[0],) * 2, abs=1)
    )
    assert second.intervals[0] == pytest.approx(2 * first.intervals[0], abs=1)
    # One geometry has no other to be put right with, but the network.
    table = measure_latency(net, describe(net), {"b": ("spatial",)}, Clock(slow=(3.0,)), ranks=2)
    assert table.layers[0].whole == 3000 and table.rest("b") == 1000


def test_a_layer_that_is_refused_is_left_out_and_the_others_are_timed() -> None:
    net = from_text(NET.replace("kernel_size: 3 pad: 1", "kernel_size: 5 pad: 2", 1))
    schemes = {"a": ("spatial",), "b": ("spatial",)}
    table = measure_latency(net, describe(net), schemes, Clock("a"), ranks=2)
    assert [x.name for x in table.layers] == ["b"] and "a" not in table and table.rest("ab") == 3000
    with pytest.raises(RuntimeRefusal, match="mnn takes none of the layers of 'three'"):
        measure_latency(net, describe(net), {"a": ("spatial",)}, Clock("a"), ranks=2)


def test_a_machine_that_is_too_noisy_is_said() -> None:
    class Noisy(Clock):
        def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> dict[str, Timing]:
            return {n: Timing(t.nanoseconds, 240.0) for n, t in super().times(nets, what, sweep).items()}

    net, lines = from_text(NET), []
    measure_latency(net, describe(net), {"b": ("spatial",)}, Noisy(), ranks=2, notice=lines.append)
    (line,) = lines
    assert (
        "too noisy to decide on 1 layer(s), the first layer 'b', spatial:8: 0.0005 ms, give or take 0.00011; give more --rounds"
        in line
    )


STRIPS = """
name: "strips"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 8 dim: 64 dim: 16 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 8 kernel_size: 3 pad: 1 } }
layer { name: "part" type: "Slice" bottom: "a" top: "0" top: "1" top: "2" top: "3" slice_param { axis: 2 } }
layer { name: "strips" type: "Concat" bottom: "0" bottom: "1" bottom: "2" bottom: "3" top: "strips" concat_param { axis: 0 } }
layer { name: "b" type: "Convolution" bottom: "strips" top: "b" convolution_param { num_output: 64 kernel_size: 3 pad: 1 } }
layer { name: "f" type: "InnerProduct" bottom: "b" top: "f" inner_product_param { num_output: 10 } }
"""


class Looking(Clock):
    """Remembers on how many images, or regions, what was timed."""

    def __init__(self) -> None:
        super().__init__(network=9000.0)
        self.items: dict[str, set[int]] = {}

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> dict[str, Timing]:
        self.items.setdefault(what, set()).update(int(x.layer[0].input_param.shape[0].dim[0]) for x in nets.values())
        return super().times(nets, what, sweep) if what != TOGETHER else {}


def test_a_layer_is_timed_on_as_many_regions_as_it_runs_on() -> None:
    net = from_text(STRIPS)
    network, schemes = describe(net), {"a": ("spatial",), "b": ("spatial",), "f": ("inner_product",)}
    for batch in (1, 2):
        clock = Looking()
        table = measure_latency(net, network, schemes, clock, batch, ranks=2)
        assert clock.items["layer 'a'"] == clock.items["the network"] == {batch}
        assert clock.items["layer 'b'"] == clock.items["layer 'f'"] == {4 * batch}
        # Those of few MACs stand there six times.
        assert [x.whole for x in table.layers] == [500, 1000, 500]
    # A runtime that takes one at a time runs it so often.
    clock = Looking()
    clock.runtime = RUNTIMES["ncnn"]
    table = measure_latency(net, network, schemes, clock, ranks=2)
    assert clock.items["layer 'b'"] == {1} and [x.whole for x in table.layers] == [500, 2000, 2000]


@pytest.mark.caffe
def test_regions_are_in_the_times_of_stock_caffe(tmp_path: Path) -> None:
    (tmp_path / "n.prototxt").write_text(STRIPS)
    out = tmp_path / "l.json"
    assert main(["latency", "--model", str(tmp_path / "n.prototxt"), "--fully_connected", "--ranks", "2", "--rounds", "6", "--store",
                 str(tmp_path / "s"), "--out", str(out)]) == 0  # fmt: skip
    table = read_latency(out)
    times = {x.name: x.whole for x in table.layers}
    # b has 8 times the MACs of a, and all layers together take most of the network's time: of one strip it would be a quarter of that.
    assert (
        table.network_time is not None and 0.6 * table.network_time < sum(times.values()) <= 1.001 * table.network_time
    )
    assert times["b"] > 3 * times["a"]


@pytest.mark.caffe
def test_measured_and_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    out = tmp_path / "latency.json"
    assert (
        main(["latency", "--model", str(tmp_path / "net.prototxt"), "--ranks", "4", "--rounds", "6", "--out", str(out)])
        == 0
    )
    assert "whole" in capsys.readouterr().out
    table = read_latency(out)
    assert [x.name for x in table.layers] == ["a", "b", "c"] and table.about["threads"] == 1
    # Layers of equal geometry are timed once.
    assert table.layers[1].nanoseconds == table.layers[2].nanoseconds
    for layer in table.layers[1:]:
        assert layer.ranks == (8, 20, 32, 48) and min(layer.nanoseconds) > 1000
        # Ten times the rank takes longer, on however busy a machine: each is the least of several passes.
        assert layer.nanoseconds[-1] > layer.nanoseconds[0]
    write_metrics(tmp_path / "m.json", MetricsTable("three", "", (entry("b", 32, 32, 0), entry("c", 32, 32, 1)), 1.0))
    status = main(
        ["search", str(tmp_path / "m.json"), "--method", "model", "--first_layer", "search", "--latency", str(out),
         "--target_latency", "0.99", "--target_flops", "0.9", "--out", str(tmp_path / "r.json")]
    )  # fmt: skip
    assert status == 0
    about = read_plan(tmp_path / "r.json").about
    assert about.latency_ratio <= 0.99 and about.flops_ratio <= 0.9 and about.proven_optimal
