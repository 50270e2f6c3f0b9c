"""Forms that were chosen, measured again: by hand, and in OpenCV."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Mapping

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import from_text
from enc_caffe.errors import MetricsError
from enc_caffe.form import Form
from enc_caffe.measuring.again import measured_again
from enc_caffe.measuring.clock import Timer, Timing
from enc_caffe.measuring.latency import measure_latency
from enc_caffe.metrics.latency import LatencyTable, LayerLatency, read_latency, write_latency
from enc_caffe.runtimes.known import RUNTIMES
from enc_caffe.runtimes.process import RuntimeProcess
from tests.measuring.test_latency import NET

# a of 5x5; b and c of one geometry.
NETWORK = from_text(NET.replace("kernel_size: 3 pad: 1", "kernel_size: 5 pad: 2", 1))
TABLE = LatencyTable("three", tuple(
    LayerLatency(n, 48, whole, (8, 16), (400, 600), "spatial", (), (8, 4, 6)) for n, whole in (("a", 2000), ("b", 1000), ("c", 1000))
), {"runtime": "mnn", "network_ns": 5000, "corrected": {"spatial": 1.5}})  # fmt: skip
SPATIAL = Form("spatial", (8,))


class Clock:
    """All is twice as slow as when the table was made; a of 2400 ns where it was 2000, b and c of 800 where they were 1000."""

    def __init__(self, refused: str = "") -> None:
        self.runtime, self.about, self.refused, self.asked = (
            RUNTIMES["mnn"],
            {"runtime": "mnn"},
            refused,
            list[list[str]](),
        )

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> dict[str, Timing]:
        self.asked.append(list(nets))
        known = {"0 whole": 2400.0, "1 whole": 800.0, "0 spatial:8": 500.0, "1 spatial:8": 300.0, "1 spatial:16": 700.0}
        # Layers stand there three times; 100 ns are of the rest.
        times = {n: Timing(2 * (100.0 + 3 * known.get(n, 0.0)), 6.0 if n in known else 0.0) for n in nets}
        return {n: t for n, t in times.items() if not self.refused or self.refused not in n}


def entries(table: LatencyTable) -> dict[str, LayerLatency]:
    return {x.name: x for x in table.layers}


def test_what_was_chosen_counts_by_its_second_time() -> None:
    network, clock = describe(NETWORK), Clock()
    table = measured_again(NETWORK, network, TABLE, [{"b": SPATIAL}], clock)
    # Every geometry stands there whole; of b's the form, since it is c's as well.
    assert clock.asked == [["0 without 0", "0 whole", "1 without 0", "1 whole", "1 spatial:8"]]
    found = entries(table)
    # 4000 of whole layers were 2 x (2400 + 800 + 800): times are halved, and a scheme's are multiplied by what the table has for it.
    assert [found[n].whole for n in "abc"] == [2400, 800, 800]
    assert found["b"].again == found["c"].again == ((SPATIAL, 450, 2),) and found["a"].again == ()
    # Samples go with the layer whole: both were measured at the same moment.
    assert found["a"].nanoseconds == (480, 720) and found["b"].nanoseconds == (320, 480)
    layers = {x.name: x for x in network.weighted}
    assert table.time_of(layers["c"], SPATIAL) == 450 and table.time_of(layers["c"], Form("spatial", (16,))) == 480
    plan = {"a": SPATIAL, "b": SPATIAL}
    assert table.once(plan) == {"a": SPATIAL} and table.once({}) == {} and TABLE.once(plan) == plan
    assert table.about["again"] == 1 and table.network_time == 5000

    # What was measured again already is not once more; layers whole are, and count with what they took before.
    both = measured_again(NETWORK, network, table, [plan, {"c": Form("spatial", (16,))}], clock)
    assert clock.asked[1] == ["0 without 0", "0 whole", "0 spatial:8", "1 without 0", "1 whole", "1 spatial:16"]
    assert entries(both)["b"].again == ((SPATIAL, 450, 2), (Form("spatial", (16,)), 1050, 2))
    assert [entries(both)[n].whole for n in "abc"] == [2400, 800, 800] and both.about["again"] == 2


def test_what_was_measured_again_is_in_the_file(tmp_path: Path) -> None:
    network = describe(NETWORK)
    table = measured_again(NETWORK, network, TABLE, [{"b": SPATIAL}], Clock())
    write_latency(tmp_path / "l.json", table)
    assert read_latency(tmp_path / "l.json") == table
    text = (tmp_path / "l.json").read_text()
    for new, message in (('"spatial"', "an entry of 'again' is 'spatial'"), ("3", "an entry of 'again' is '3'")):
        (tmp_path / "l.json").write_text(text.replace('"form": "spatial:8"', f'"form": {new}'))
        with pytest.raises(MetricsError, match=f"layer 'b': {message}"):
            read_latency(tmp_path / "l.json")
    # Other times of schemes are those of what was measured again too.
    assert entries(table.corrected({"spatial": 2.0}))["b"].again == ((SPATIAL, 900, 4),)


def test_layers_of_another_network_stay_as_they_are() -> None:
    network, stranger = describe(NETWORK), replace(TABLE.layers[0], name="z")
    table = measured_again(
        NETWORK, network, replace(TABLE, layers=(*TABLE.layers, stranger)), [{"b": SPATIAL}], Clock()
    )
    assert entries(table)["z"] == stranger and entries(table)["b"].again == ((SPATIAL, 450, 2),)


def test_what_the_runtime_does_not_take_stays_as_it_was() -> None:
    network = describe(NETWORK)
    assert measured_again(NETWORK, network, TABLE, [{"b": SPATIAL}], Clock("whole")) == TABLE
    # The other geometry's alone: 2000 of the table are 2 x 2400.
    table = entries(measured_again(NETWORK, network, TABLE, [{"a": SPATIAL, "b": SPATIAL}], Clock("1 whole")))
    assert table["b"] == entries(TABLE)["b"] and table["a"].whole == 2000
    assert table["a"].again == ((SPATIAL, round(500 / 1.2 * 1.5), round(2 / 2.4 * 1.5)),)


@pytest.mark.caffe
def test_in_a_runtime_a_time_that_was_too_short_is_found_out() -> None:
    network = describe(NETWORK)
    with RuntimeProcess(RUNTIMES["opencv"]) as process:
        timer = Timer(process, rounds=6, enough=1.0)
        table = measure_latency(NETWORK, network, {"b": ("spatial",)}, timer, ranks=2)
        # Both forms look ten times as fast as they are.
        (entry,) = table.layers
        forms = [Form("spatial", (r,)) for r in entry.ranks]
        lucky = replace(table, layers=(replace(entry, nanoseconds=tuple(max(1, v // 10) for v in entry.nanoseconds)),))
        found = measured_again(NETWORK, network, lucky, [{"b": forms[0]}, {"b": forms[1]}], timer)
    again = {form: ns for form, ns, _ in found.layers[0].again}
    assert set(again) == set(forms)
    for form, first in zip(forms, entry.nanoseconds):
        assert first / 2 < again[form] < first * 2
    layer = network["b"]
    assert found.time_of(layer, forms[1]) > 4 * lucky.time_of(layer, forms[1])
