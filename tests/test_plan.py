"""Plans as files of either version, and how they came to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Form
from enc_caffe.plan import Plan, Provenance, read_plan, write_plan

FORMS = {"a": Form("spatial", (12,)), "b": Form("tucker2", (3, 4)), "c": Form("channel", (5,))}


def saved(tmp_path: Path, data: dict) -> Path:
    (tmp_path / "r.json").write_text(json.dumps(data))
    return tmp_path / "r.json"


def test_what_is_written_is_read(tmp_path: Path) -> None:
    about = Provenance(
        method="model", metric="divergence", flops_ratio=0.5, targets={"macs": 0.5}, proven_optimal=True, gap=0.0,
        refined={"evaluations": 3}, more={"later": [1, {"x": None}]},
    )  # fmt: skip
    write_plan(tmp_path / "r.json", Plan("net", FORMS, about))
    data = json.loads((tmp_path / "r.json").read_text())
    assert data["format"] == "enc-caffe-ranks/2" and data["network"] == "net"
    assert data["forms"] == {"a": "spatial:12", "b": "tucker2:3x4", "c": "channel:5"}
    assert data["later"] == [1, {"x": None}] and "note" not in data and data["gap"] == 0
    assert read_plan(tmp_path / "r.json") == Plan("net", FORMS, about)
    assert list(read_plan(tmp_path / "r.json").forms) == list(FORMS)


def test_layers_that_stay_whole_are_absent(tmp_path: Path) -> None:
    path = saved(tmp_path, {"format": "enc-caffe-ranks/2", "forms": {"a": "whole", "b": "spatial:3"}})
    assert read_plan(path).forms == {"b": Form("spatial", (3,))} and WHOLE not in read_plan(path).forms.values()


def test_version_1_is_read_and_written(tmp_path: Path) -> None:
    old = {
        "format": "enc-caffe-ranks/1",
        "network": "n",
        "ranks": {"a": 3, "b": 4},
        "schemes": {"b": "channel"},
        "method": "map",
    }
    plan = read_plan(saved(tmp_path, old))
    # Where no scheme is said the network's policy decides.
    assert plan.forms == {"a": Form("", (3,)), "b": Form("channel", (4,))} and plan.ranks == {"a": 3, "b": 4}
    assert plan.about.method == "map" and not plan.about.more
    write_plan(tmp_path / "again.json", plan, 1)
    assert json.loads((tmp_path / "again.json").read_text()) == old
    # Without any, as the published files are.
    bare = {k: v for k, v in old.items() if k != "schemes"}
    write_plan(tmp_path / "again.json", read_plan(saved(tmp_path, bare)), 1)
    assert json.loads((tmp_path / "again.json").read_text()) == bare


def test_version_1_of_a_search_is_read_again(tmp_path: Path) -> None:
    # In version 1 "schemes" are those of the layers, whatever the layers could have become.
    about = Provenance(method="map", among="spatial,channel")
    plan = Plan("n", {"a": Form("spatial", (3,)), "b": Form("channel", (4,))}, about)
    write_plan(tmp_path / "r.json", plan, 1)
    assert json.loads((tmp_path / "r.json").read_text())["schemes"] == {"a": "spatial", "b": "channel"}
    assert read_plan(tmp_path / "r.json") == plan


@pytest.mark.parametrize(
    ("data", "version"),
    [
        ({"format": "enc-caffe-ranks/1", "ranks": {"a": 3}, "schemes": {"a": "spatial"}, "forms": "x"}, 2),
        ({"format": "enc-caffe-ranks/2", "forms": {"a": "spatial:3"}, "ranks": 7, "schemes": "all"}, 1),
    ],
)
def test_fields_of_the_other_version_are_not_written_over(tmp_path: Path, data: dict, version: int) -> None:
    plan = read_plan(saved(tmp_path, data))
    write_plan(tmp_path / "again.json", plan, version)
    assert read_plan(tmp_path / "again.json").forms == {"a": Form("spatial", (3,))}


def test_a_pruned_form_is_written_with_what_is_inside(tmp_path: Path) -> None:
    forms = {"a": Form("spatial", (4,)), "b": Form("prune", (8,), (Form("spatial", (12,)),)), "c": Form("prune", (3,))}
    write_plan(tmp_path / "r.json", Plan("net", forms))
    assert json.loads((tmp_path / "r.json").read_text())["forms"]["b"] == "prune:8+spatial:12"
    assert read_plan(tmp_path / "r.json").forms == forms
    with pytest.raises(
        PlanError, match="cannot say it: layer 'b' has form 'prune:8\\+spatial:12', which is not one rank"
    ):
        write_plan(tmp_path / "one.json", Plan("net", forms), 1)


def test_version_1_says_what_it_cannot_say(tmp_path: Path) -> None:
    with pytest.raises(
        PlanError,
        match="enc-caffe-ranks/1 cannot say it: layer 'b' has form 'tucker2:3x4', which is not one rank; write enc-caffe-ranks/2",
    ):
        write_plan(tmp_path / "r.json", Plan("net", FORMS), 1)
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"format": "enc-caffe-ranks/3", "forms": {}}, "format is 'enc-caffe-ranks/3'; 'enc-caffe-ranks/2' is needed"),
        ({"format": "enc-caffe-ranks/2"}, "field 'forms' must be an object of layer: form, such as spatial:12"),
        ({"format": "enc-caffe-ranks/2", "forms": ["spatial:3"]}, "field 'forms' must be an object"),
        ({"format": "enc-caffe-ranks/2", "ranks": {"a": 3}}, "field 'forms' must be an object"),
        ({"format": "enc-caffe-ranks/2", "forms": {"a": "spatial"}}, "the form of layer 'a' is 'spatial'; a form such as"),
        ({"format": "enc-caffe-ranks/2", "forms": {"a": 3}}, "the form of layer 'a' is '3'"),
        ({"format": "enc-caffe-ranks/1", "forms": {"a": "spatial:3"}}, "field 'ranks' must be an object of layer: rank"),
        ({"format": "enc-caffe-ranks/1", "ranks": {"a": "3"}}, "rank of layer 'a' is '3'; an integer is needed"),
        ({"format": "enc-caffe-ranks/1", "ranks": {"a": True}}, "rank of layer 'a' is True; an integer is needed"),
        ({"format": "enc-caffe-ranks/1", "ranks": {"a": 3}, "schemes": {"a": 4}}, "field 'schemes' must be an object of layer: scheme name"),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "flops_ratio": "0.5"}, "field 'flops_ratio' is '0.5'; int or float is needed"),
        ({"format": "enc-caffe-ranks/1", "ranks": {}, "flops_ratio": True}, "field 'flops_ratio' is 'True'"),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "method": ["map"]}, "field 'method' is "),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "targets": 0.5}, "field 'targets' is '0.5'; dict is needed"),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "proven_optimal": 1}, "field 'proven_optimal' is '1'; bool is needed"),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "gap": float("nan")}, "field 'gap' holds NaN or infinity"),
        ({"format": "enc-caffe-ranks/2", "forms": {}, "own": [float("inf")]}, "field 'own' holds NaN or infinity"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, data: dict, words: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_plan(saved(tmp_path, data))
    assert words in str(caught.value) and str(caught.value).startswith(str(tmp_path / "r.json"))
    assert len(str(caught.value).splitlines()) == 1


@given(st.dictionaries(st.text(min_size=1, max_size=8), st.tuples(st.sampled_from(("spatial", "channel", "mine2")), st.lists(st.integers(1, 999), min_size=1, max_size=3))))  # fmt: skip
def test_any_forms_of_any_names(tmp_path_factory: pytest.TempPathFactory, drawn: dict) -> None:
    forms = {name: Form(scheme, tuple(ranks)) for name, (scheme, ranks) in drawn.items()}
    path = tmp_path_factory.mktemp("plan") / "r.json"
    write_plan(path, Plan("n", forms))
    assert read_plan(path).forms == forms


def test_a_form_whose_scheme_is_not_known_yet_is_not_written_as_version_2(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="layer 'a'"):
        write_plan(tmp_path / "r.json", Plan("net", {"a": Form("", (5,))}))
    assert not (tmp_path / "r.json").exists()
