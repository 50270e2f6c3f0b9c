"""What is emitted costs the same in every command that says so."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from enc_caffe.cli import main
from enc_caffe.form import Form
from enc_caffe.network import Network
from enc_caffe.pipeline.emission import budgeted
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.plan import Plan, Provenance, write_plan
from tests.decomposition.layers import conv
from tests.measuring.nets import residual, write_images, write_net

pytestmark = pytest.mark.caffe
LINE = re.compile(r"^MACs .*of the decomposable layers.*$", re.MULTILINE)


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("costs")
    write_net(folder, residual())
    write_images(folder / "lmdb", 4, labels=False)
    return folder


@pytest.mark.parametrize(
    ("schemes", "more"),
    [
        # It takes a 1x1 convolution, which the paper leaves whole, and so does this plan.
        ("channel", ["--whole", "c4"]),
        ("prune", ["--method", "uniform"]),
    ],
)
def test_decomposable_layers_are_the_same_in_every_command(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], schemes: str, more: list[str]
) -> None:
    net = ["--model", str(kit / "train_val.prototxt"), "--lmdb", str(kit / "lmdb")]
    weights, out = ["--weights", str(kit / "net.caffemodel")], tmp_path / "out"
    assert main(["inspect", *net, "--schemes", schemes]) == 0
    inspected = int(re.search(r"in decomposable layers ([\d,]+);", capsys.readouterr().out)[1].replace(",", ""))
    few = ["--target_flops", "0.8", "--count", "all", "--first_layer", "search", "--store", str(tmp_path / "s")]
    status = main(["compress", *net, *weights, "--schemes", schemes, *more, *few, "--out", str(out)])
    said = capsys.readouterr()
    assert status == 0, said.err
    compressed, costs = LINE.search(said.out)[0], json.loads((out / "evaluation.json").read_text())["macs"]
    assert main(["emit", *net[:2], *weights, "--input_shape", "3,12,12", "--ranks", str(out / "ranks.json"), "--out", str(tmp_path / "again")]) == 0  # fmt: skip
    assert LINE.search(capsys.readouterr().out)[0] == compressed
    # What the original's decomposable layers cost, by what is saved of them and of all layers.
    saved = 1 - costs["exact, all"]
    whole = int(re.search(r"original +([\d,]+)", said.out)[1].replace(",", ""))
    assert inspected == pytest.approx(saved * whole / (1 - costs["exact, decomposable"]), rel=1e-9)
    assert read_run(out).networks[1].macs["exact"] == costs["exact, decomposable"]


def test_an_lmdb_that_nothing_reads_is_named(kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = 'type: "HDF5Data"\\1 hdf5_data_param { source: "list.txt" batch_size: 4 }'
    text = re.sub(r'type: "Data"(.*) transform_param.*backend: LMDB }', own, (kit / "train_val.prototxt").read_text())
    (tmp_path / "own.prototxt").write_text(text)
    write_plan(tmp_path / "ranks.json", Plan("residual", {"c2": Form("spatial", (2,))}))
    command = [
        "emit",
        "--model",
        str(tmp_path / "own.prototxt"),
        "--weights",
        str(kit / "net.caffemodel"),
        "--input_shape",
        "3,12,12",
    ]
    command += [
        "--ranks",
        str(tmp_path / "ranks.json"),
        "--train_lmdb",
        str(kit / "lmdb"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(command) == 0
    assert "--train_lmdb: layer 'data' (HDF5Data) brings the images of the TRAIN phase" in capsys.readouterr().err
    assert 'source: "list.txt"' in (tmp_path / "out" / "train_val.prototxt").read_text()


def test_an_lmdb_is_named_where_no_data_layer_can_read_it(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network of two inputs gets no data layer, so the LMDB of the command line is used nowhere."""
    text = 'name: "two"' + "".join(
        f' layer {{ name: "{x}" type: "Input" top: "{x}" input_param {{ shape {{ dim: 1 dim: 3 dim: 12 dim: 12 }} }} }}'
        for x in "ab"
    )
    text += ' layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }'
    text += ' layer { name: "c1" type: "Convolution" bottom: "sum" top: "c1" convolution_param { num_output: 8 kernel_size: 3 } }'
    (model, weights), out = write_net(tmp_path / "two", text), tmp_path / "out"
    command = [
        "compress",
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--target_flops",
        "0.6",
        "--first_layer",
        "search",
    ]
    assert main([*command, "--train_lmdb", str(kit / "lmdb"), "--out", str(out)]) == 0
    told = capsys.readouterr().err
    assert (
        f"--train_lmdb: train_val.prototxt does not name {kit / 'lmdb'}, since it has no data layer to read it" in told
    )
    assert "--test_lmdb" not in told


def test_images_that_only_choose_are_not_spoken_of_as_a_flag(
    kit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would take the place of a test's, were there a data layer; nobody gave ``--test_lmdb``."""
    text = (
        'name: "one" layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 1 dim: 3 dim: 12 dim: 12 } } }'
    )
    text += ' layer { name: "c1" type: "Convolution" bottom: "a" top: "c1" convolution_param { num_output: 8 kernel_size: 3 } }'
    model, weights = write_net(tmp_path / "one", text)
    command = ["compress", "--model", str(model), "--weights", str(weights), "--first_layer", "search"]
    command += ["--target_flops", "0.6", "--lmdb", str(kit / "lmdb"), "--decomposition", "weighted"]
    for flags in ([], ["--test_lmdb", str(kit / "lmdb")]):
        assert main([*command, *flags, "--force", "--out", str(tmp_path / "out")]) == 0
        assert ("--test_lmdb: train_val.prototxt does not name" in capsys.readouterr().err) == bool(flags)


def test_a_budget_that_counted_other_strides_says_so() -> None:
    # 8 to 8 channels, 3x3, stride 2, 12x12 to 6x6, rank 4: the vertical half makes 6x12 places, with published strides 6x6.
    network = Network("n", (replace(conv(8, 8, (3, 3), stride=(2, 2), pad=(1, 1), size=(12, 12)), name="a"),))
    forms = {"a": Form("spatial", (4,))}
    exact, paper = (Plan("n", forms, Provenance(convention=c)) for c in ("exact", "paper"))
    (line,) = budgeted(network, exact, "published")
    assert f"counted {8 * 3 * 4 * 72 + 4 * 3 * 8 * 36:,} MACs" in line and f"has {2 * 8 * 3 * 4 * 36:,} (" in line
    assert budgeted(network, exact, "exact") == [] == budgeted(network, paper, "published")
    assert budgeted(network, replace(exact, forms={}), "published") == []
