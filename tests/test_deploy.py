"""The parts of ``make deploy-test`` that run no converter: errors, cells, what is kept, and which Python is taken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.decomposition import form_cost, scheme_for
from enc_caffe.form import WHOLE
from tests.conftest import script
from tests.measuring import nets

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
table = script("deploy_table")
converters = script("deploy_converters")
networks = script("deploy_networks")
runner = script("deploy_run")
Found = table.Found

pytestmark = pytest.mark.caffe


def test_the_worst_output_counts_by_its_own_scale() -> None:
    wanted = {"a": np.array([[100.0, -50]]), "b": np.array([0.01, 0])}
    assert table.worst_error(wanted, wanted) == 0
    # Another shape of the same values is the same output.
    assert table.worst_error(wanted, {"a": np.array([100.0, -49]), "b": np.array([0.01, 0])}) == pytest.approx(0.01)
    assert table.worst_error(wanted, {"a": wanted["a"], "b": np.array([0.01, 0.001])}) == pytest.approx(0.1)
    assert table.worst_error(wanted, {"a": wanted["a"], "b": np.array([0.01, np.nan])}) == np.inf
    assert table.worst_error(wanted, {"a": wanted["a"], "b": np.zeros(3)}) == np.inf


@pytest.mark.parametrize(
    ("rows", "cell"),
    [
        ({"original": Found(2e-6), "spatial": Found(1e-6), "channel": Found(3e-7)}, "2e-06; 1e-06"),
        ({"original": Found(2e-6), "spatial": Found(0.5), "channel": Found(3e-7)}, "2e-06; not spatial"),
        ({"original": Found(2e-6), "spatial": Found(refused="no")}, "2e-06; not spatial"),
        ({"original": Found(0.2), "spatial": Found(0.3)}, "wrong (0.2); so are the emissions"),
        ({"original": Found(refused="no"), "spatial": Found(refused="no")}, "refuses"),
        ({"original": Found(refused="no"), "spatial": Found(2e-6)}, "refuses; 2e-06"),
        ({"original": Found(2e-6)}, "2e-06"),
    ],
)
def test_a_cell_says_the_original_and_the_worst_emission(rows, cell: str) -> None:
    assert table.cell(rows) == cell


def test_an_emission_is_at_fault_where_the_original_is_right() -> None:
    assert Found(0.01).worse_than(Found(1e-6)) and Found(refused="x").worse_than(Found(1e-3))
    assert not Found(0.01).worse_than(Found(0.01)) and not Found(1e-3).worse_than(Found(1e-6))


def test_the_table_has_the_reasons_below() -> None:
    by = {"X": {"original": Found(1e-6)}, "Y": {"original": Found(refused="/a/b.cc:3 no `type` | here")}}
    text = table.table({"net": by, "other": {"X": {}, "Y": {}}}, [SimpleNamespace(name=n, version="1.2") for n in "XY"])
    assert (
        text.splitlines()[0] == "| network | X 1.2 | Y 1.2 |"
        and text.splitlines()[3] == "| other | not run | not run |"
    )
    assert text.splitlines()[2] == "| net | 1e-06 | refuses |"
    assert text.splitlines()[-1] == "- Y: net (the original too): `no 'type' / here`"
    by["Y"] = {
        "original": Found(1e-6),
        "spatial": Found(refused="no"),
        "channel": Found(1e-6),
        "tucker2": Found(refused="no"),
    }
    assert table.table({"net": by}, [SimpleNamespace(name="Y", version="1")]).endswith(
        "- Y: net (spatial, tucker2 alone): `no`"
    )
    assert len(table.short("word " * 90)) <= 160


def test_outputs_are_found_by_name_else_by_size() -> None:
    a, b, c = np.zeros(3), np.zeros(5), np.zeros(5)
    found = runner.named(
        {"x": a, "second": b, "y": c}, ["first", "second", "third"], {"first": 3, "second": 5, "third": 5}
    )
    assert found["first"] is a and found["second"] is b and found["third"] is c
    with pytest.raises(RuntimeError, match="no output of the 4 values of 'first'"):
        runner.named({"x": a}, ["first"], {"first": 4})


def test_a_job_that_aborts_is_told_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "jobs.json").write_text(
        '[{"prototxt": "p", "caffemodel": "c", "inputs": "none.npz", "outputs": "o.npz", "names": [], "layers": {}, "sizes": {}, '
        f'"folder": "{tmp_path}/f", "version": "1"}}]'
    )
    done = subprocess.run(
        [sys.executable, runner.__file__, "mnn", str(tmp_path / "jobs.json")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith('{"job": 0, "refused": "FileNotFoundError')


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("input_dim: 10\ninput_dim: 3", "input_dim: 1\ninput_dim: 3"),
        ("input_param { shape: { dim: 10 dim: 3 } }", "input_param { shape: { dim: 1 dim: 3 } }"),
        ("input_shape {\n  dim: 5\n  dim: 3 }", "input_shape {\n  dim: 1\n  dim: 3 }"),
        ("reshape_param { shape { dim: 0 } }", "reshape_param { shape { dim: 0 } }"),
    ],
)
def test_a_batch_of_one(text: str, wanted: str) -> None:
    assert networks.one_image(text) == wanted


@pytest.mark.parametrize("scheme", networks.SCHEMES)
def test_half_of_a_layer(tmp_path: Path, scheme: str) -> None:
    (tmp_path / "n.prototxt").write_text(networks.DILATED)
    layer = describe(read_net(tmp_path / "n.prototxt"))["c2"]
    form = networks.half(layer, scheme_for(scheme), np.random.default_rng(0).standard_normal((24, 16, 3, 3)))
    assert form.scheme == scheme and 0.4 < form_cost(layer, form)[0] / form_cost(layer, WHOLE)[0] < 0.6


def test_the_part_that_stock_caffe_has(tmp_path: Path) -> None:
    text = (
        'input: "data" input_shape { dim: 1 dim: 3 dim: 12 dim: 12 }\n'
        + nets.conv("c1", "data", 8)
        + nets.conv("box", "c1", 4)
    )
    (tmp_path / "n.prototxt").write_text(text + nets.simple("p", "Permute", "box", "p", "permute_param { order: 0 }"))
    (tmp_path / "part.prototxt").write_text(networks.stock_part(tmp_path / "n.prototxt"))
    net = read_net(tmp_path / "part.prototxt")
    assert [p.name for p in net.layer if p.type != "Input"] == ["c1", "box"]


def test_every_network_of_its_own_is_legal_and_compressible(tmp_path: Path) -> None:
    cases = networks.cases(None)
    assert len(cases) >= 9
    for case in cases:
        (tmp_path / "n.prototxt").write_text(case.text)
        network = describe(read_net(tmp_path / "n.prototxt"))
        assert sum(x.convolution is not None for x in network.layers) >= 3, case.name
        assert all(network.shape_of(top)[0] == 1 for top in network.inputs)


def test_python_is_this_one_where_it_may_be() -> None:
    assert converters.python_for((sys.version_info[0], sys.version_info[1])) == Path(sys.executable)
    assert converters.python_for((3, 7)) is None
    names = [c.name for c in converters.CONVERTERS]
    assert len(set(names)) == len(names) and len({c.folder for c in converters.CONVERTERS}) == len(names)
    # Every version is pinned.
    assert all("==" in p for c in converters.CONVERTERS for p in (*c.packages, *c.alone))
