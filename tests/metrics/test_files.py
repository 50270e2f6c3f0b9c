"""The metrics formats: what is written is read again, whichever version, and what is wrong is named."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enc_caffe.decomposition import form_cost
from enc_caffe.errors import MetricsError
from enc_caffe.form import parse_form
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import InnerProduct, Layer
from tests.decomposition.layers import conv
from tests.metrics.test_table import tucker

GOOD = {
    "format": "enc-caffe-metrics/1", "network": "n", "source": "test", "baseline_accuracy": 0.8, "later": [1],
    "layers": [{
        "name": "conv", "type": "Convolution", "scheme": "spatial", "in_channels": 4, "out_channels": 4, "kernel": [3, 3],
        "stride": [1, 1], "groups": 1, "output": [5, 5], "max_rank": 6, "singular_values": [[6, 5, 4, 3, 2, 1]],
        "sampled_ranks": [1, 3, 3, 6], "sampled_accuracy": [0.2, None, 0.6, 0.8],
    }],
}  # fmt: skip


def saved(tmp_path: Path, **changes: object) -> Path:
    """The good file with fields of its one layer changed (None takes the field away)."""
    data = copy.deepcopy(GOOD)
    for key, value in changes.items():
        target = data if key in data else data["layers"][0]
        if value is None:
            target.pop(key)
        else:
            target[key] = value
    (tmp_path / "m.json").write_text(json.dumps(data))
    return tmp_path / "m.json"


def test_round_trip(tmp_path: Path) -> None:
    table = read_metrics(saved(tmp_path))
    entry = table.layers[0]
    assert entry.sampled_ranks == (1, 3, 6) and entry.sampled_accuracy == (0.2, 0.6, 0.8)
    np.testing.assert_allclose(entry.energy, [0, 0, 5 / 15, 9 / 15, 12 / 15, 14 / 15, 1])
    ranks, values = entry.measured_points(table.baseline_accuracy)
    np.testing.assert_allclose(values, [0.25, 0.75, 1.0])
    write_metrics(tmp_path / "again.json", table)
    again = read_metrics(tmp_path / "again.json")
    assert again.extra == (("later", [1]),)
    assert again.layers[0].layer.convolution.kernel == (3, 3)
    assert again.layers[0].sampled_accuracy == entry.sampled_accuracy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "enc-caffe-metrics/3"}, "format is 'enc-caffe-metrics/3'; 'enc-caffe-metrics/2' is needed"),
        # What a later version calls curves is not there.
        ({"format": "enc-caffe-metrics/2"}, "layer 'conv': field 'curves' is missing"),
        ({"layers": []}, "field 'layers' must be a list of at least one layer"),
        ({"max_rank": None}, "layer 'conv': field 'max_rank' is missing"),
        ({"scheme": "tucker"}, "layer 'conv': unknown scheme 'tucker'"),
        ({"singular_values": [[1, 2, 3, 4, 5, 6]]}, "layer 'conv': field 'singular_values' must decrease"),
        ({"singular_values": [[6, 5, 4]]}, "layer 'conv': 3 singular_values, but max_rank is 6"),
        ({"singular_values": [[6, 5, 4, 3, 2, -1]]}, "finite values of 0 or more"),
        ({"max_rank": 13, "singular_values": [list(range(13, 0, -1))]}, "max_rank 13 is above 12"),
        ({"sampled_ranks": [1]}, "layer 'conv': 1 sampled_ranks, but 4 sampled_accuracy"),
        ({"sampled_ranks": [0, 1, 2, 3]}, "sampled rank 0 is outside 1 to max_rank 6"),
        ({"sampled_accuracy": [0.1, 0.2, 0.3, float("nan")]}, "holds NaN or infinity"),
        ({"baseline_accuracy": 7}, "baseline_accuracy is 7"),
        ({"kernel": 3}, "wrong type or length"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(MetricsError) as caught:
        read_metrics(saved(tmp_path, **changes))
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "m.json"))
    assert len(str(caught.value).splitlines()) == 1


def test_either_version_says_the_same(tmp_path: Path) -> None:
    table = read_metrics(saved(tmp_path))
    for version, kind in ((1, "enc-caffe-metrics/1"), (2, "enc-caffe-metrics/2")):
        write_metrics(tmp_path / "again.json", table, version)
        assert json.loads((tmp_path / "again.json").read_text())["format"] == kind
        again = read_metrics(tmp_path / "again.json")
        assert again.layers[0].layer == table.layers[0].layer and again.layers[0].forms == table.layers[0].forms
        assert again.layers[0].sampled_accuracy == (0.2, 0.6, 0.8) and again.baseline_accuracy == 0.8
        assert again.extra == table.extra and again.layers[0].paper
        np.testing.assert_array_equal(again.layers[0].energy, table.layers[0].energy)


def mixed() -> MetricsTable:
    """One layer with curves of two schemes, one of them of two ranks."""
    entry = tucker()
    spatial = replace(
        entry, scheme="spatial", max_rank=4, singular_values=(np.array([4.0, 3, 2, 1]),), sampled_ranks=(1, 4),
        sampled_accuracy=(0.5, None), extra=(("sampled_divergence", [0.5, 0.0]),), ladder=(), paper=True, known_vbmf_rank=2,
    )  # fmt: skip
    return MetricsTable("n", "test", (spatial, entry), 0.8, (("network_macs", 10**6),))


def test_curves_of_several_schemes_are_written_and_read(tmp_path: Path) -> None:
    table = mixed()
    write_metrics(tmp_path / "m.json", table)
    data = json.loads((tmp_path / "m.json").read_text())
    (stored,) = data["layers"]
    assert [c["scheme"] for c in stored["curves"]] == ["spatial", "tucker2"] and stored["paper_scheme"] == "spatial"
    assert stored["curves"][1]["forms"] == [str(f) for f in table.layers[1].ladder]
    assert stored["curves"][0]["sampled_forms"] == ["spatial:1", "spatial:4"]
    again = read_metrics(tmp_path / "m.json")
    for ours, theirs in zip(table.layers, again.layers):
        # A file says shapes and geometry of a layer, not what its blobs are called.
        assert theirs.layer.convolution == ours.layer.convolution and theirs.layer.top_shapes == ours.layer.top_shapes
        same = replace(theirs, layer=ours.layer, singular_values=ours.singular_values)
        assert same == replace(ours, singular_values=ours.singular_values)
        for a, b in zip(ours.singular_values, theirs.singular_values):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(ours.axis, theirs.axis)
    assert again.extra == table.extra


@pytest.mark.parametrize("shape", [(2, 6), (2, 3, 6), (2, 3, 4, 6), (7, 2, 6), (2, 1, 6)])
def test_inner_products_over_later_axes_cost_what_they_did(tmp_path: Path, shape: tuple[int, ...]) -> None:
    # 6 inputs, 5 outputs, and for each item as many rows as the axes between the first and the last have places.
    layer = Layer(
        "f", "InnerProduct", bottom_shapes=(shape,), top_shapes=((*shape[:-1], 5),), inner_product=InnerProduct(5)
    )
    layer = replace(layer, repeats=shape[0])  # as of regions
    curve = LayerMetrics(layer, "inner_product", 2, (np.array([2.0, 1.0]),), (1, 2), (None, None))
    write_metrics(tmp_path / "m.json", MetricsTable("n", "test", (curve,)))
    (again,) = read_metrics(tmp_path / "m.json").layers
    for form in ("whole", "inner_product:2"):
        assert form_cost(again.layer, parse_form(form)) == form_cost(layer, parse_form(form))
    assert form_cost(again.layer, parse_form("whole")) == (int(np.prod(shape[:-1])) * 30, 30)


@pytest.mark.parametrize("repeats", [1, 30, Fraction(3, 2), Fraction(7, 3)])
def test_layers_of_regions_cost_what_they_did(tmp_path: Path, repeats: Any) -> None:
    layer = replace(conv(6, 4, (3, 3)), repeats=repeats)
    curve = LayerMetrics(layer, "spatial", 2, (np.array([2.0, 1.0]),), (1, 2), (None, None))
    write_metrics(tmp_path / "m.json", MetricsTable("n", "test", (curve,)))
    (again,) = read_metrics(tmp_path / "m.json").layers
    assert again.layer.repeats == repeats
    for form in ("whole", "spatial:2"):
        assert form_cost(again.layer, parse_form(form)) == form_cost(layer, parse_form(form))


def test_version_1_says_what_it_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(
        MetricsError,
        match="enc-caffe-metrics/1 cannot say it: layer 'c' has spatial, tucker2; write enc-caffe-metrics/2",
    ):
        write_metrics(tmp_path / "m.json", mixed(), 1)
    with pytest.raises(MetricsError, match="cannot say it: layer 'c' has tucker2"):
        write_metrics(tmp_path / "m.json", MetricsTable("n", "", (tucker(),)), 1)
    assert not (tmp_path / "m.json").exists()


def changed(curve: int, **changes: Any):
    """A change of fields of one curve; None takes a field away."""

    def change(layer: dict[str, Any]) -> None:
        for key, value in changes.items():
            if value is None:
                layer["curves"][curve].pop(key)
            else:
                layer["curves"][curve][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x.update(curves=[]), "layer 'c': field 'curves' must be a list of at least one object"),
        (lambda x: x.update(curves=[1]), "layer 'c': field 'curves' must be a list of at least one object"),
        (lambda x: x["curves"].append(x["curves"][0]), "layer 'c': a scheme stands twice in 'curves'"),
        (changed(0, scheme="spatail"), "layer 'c', scheme 'spatail': unknown scheme 'spatail' (did you mean spatial?)"),
        (changed(0, scheme="inner_product"), "cannot have scheme 'inner_product'"),
        (changed(1, scheme="channel"), "layer 'c', scheme 'channel': field 'max_rank' is missing"),
        (changed(0, max_rank=None), "layer 'c', scheme 'spatial': field 'max_rank' is missing"),
        (changed(0, sampled_forms=["spatial:1", "spatial:5"]), "sampled rank 5 is outside 1 to max_rank 4"),
        (changed(0, sampled_forms=["spatial:1", "channel:2"]), "sampled form 'channel:2' is not among the forms"),
        (changed(0, sampled_forms=["spatial:1"]), "1 sampled_ranks, but 2 sampled_accuracy"),
        (changed(1, forms=[]), "field 'forms' must be a list of at least one form"),
        (changed(1, forms=["tucker2:1x1", "spatial:2"]), "form 'spatial:2' stands among those of scheme 'tucker2'"),
        (changed(1, forms=["tucker2:1"]), "form 'tucker2:1' has 1 rank(s); scheme 'tucker2' takes 2"),
        (changed(1, forms=["tucker2:9x1"]), "rank 9 is outside 1 to 8"),
        (changed(1, forms=["tucker2:1x1", "tucker2:1x1"]), "a form stands twice in 'forms'"),
        (changed(1, forms=["tucker2:3x3", "tucker2:1x1"]), "field 'forms' must be in order of MACs"),
        (changed(1, sampled_forms=["tucker2:8x12", "tucker2:1x1", "tucker2:1x2"]), "sampled form 'tucker2:8x12' is not among"),
        (changed(1, singular_values=[[2.0, 1.0]]), "singular_values, but max_rank is 8"),
        (changed(1, singular_values=[[1.0] * 8]), "1 spectra, 2 are needed"),
        (changed(1, sampled_divergence=[1.0]), "field 'sampled_divergence' must be a list of 3 values"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_curves_is_named(tmp_path: Path, change, words: str) -> None:
    write_metrics(tmp_path / "m.json", mixed())
    data = json.loads((tmp_path / "m.json").read_text())
    change(data["layers"][0])
    (tmp_path / "m.json").write_text(json.dumps(data))
    with pytest.raises(MetricsError) as caught:
        read_metrics(tmp_path / "m.json")
    assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / "m.json"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("text", ["tucker2", "tucker2:", "tucker2:1y2", "", 7, None, "whole:3"])
def test_what_is_no_form_is_named(tmp_path: Path, text: object) -> None:
    write_metrics(tmp_path / "m.json", mixed())
    for key in ("forms", "sampled_forms"):
        data = json.loads((tmp_path / "m.json").read_text())
        data["layers"][0]["curves"][1][key][0] = text
        (tmp_path / "x.json").write_text(json.dumps(data))
        with pytest.raises(MetricsError, match=f"layer 'c', scheme 'tucker2': an entry of '{key}' is ") as caught:
            read_metrics(tmp_path / "x.json")
        assert str(caught.value).count("x.json") == 1


def test_the_whole_layer_costs_less_than_its_ladder_s_last_form() -> None:
    entry = tucker()
    assert form_cost(entry.layer, parse_form("whole"))[0] > entry.axis[-1]
