"""Settings files: those that are shipped, and words that are unknown."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.errors import UsageError
from enc_caffe.experiments.fetch import RESOURCES
from enc_caffe.experiments.paper import TABLES
from enc_caffe.experiments.settings import experiments, read_experiment
from enc_caffe.report.paper import RESULTS

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("name", experiments(ROOT))
def test_a_shipped_experiment_is_complete(name: str) -> None:
    x = read_experiment(name, ROOT)
    assert x.model.is_file() and x.solver.is_file() and x.weights in RESOURCES
    # Every target is one that the paper has a row for.
    assert any(r.network == x.network and abs(r.macs - x.search["target_flops"]) < 1e-9 for r in RESULTS)
    assert x.options("map").metric == x.search["metric"] and x.options("uniform").metric == "pca"
    assert name.split("-")[1] == str(int(100 * x.search["target_flops"] + 1e-9))


def test_tables_name_experiments_that_exist() -> None:
    assert {name for table in TABLES.values() for name, _ in table} <= set(experiments(ROOT))


def write(folder: Path, text: str) -> str:
    (folder / "own.toml").write_text(text)
    return str(folder / "own.toml")


GOOD = 'network = "N"\n[search]\ntarget_flops = 0.5\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("network", "netwrok"), r"unknown key 'netwrok'; did you mean network"),
        (GOOD + 'metrc = "pca"\n', r"unknown key 'metrc'; did you mean metric"),
        (GOOD + "[finetune]\nepoch = 2\n", r"unknown key 'epoch'; did you mean epochs"),
        ('network = "N"\n', "key 'search' is missing"),
        ('data = "mnist"\n' + GOOD, "data = 'mnist'; known are cifar10, imagenet"),
        (GOOD + "target_params = 2.0\n", "a part of the original parameters"),
        ("network = ", "cannot be read as TOML"),
        ('network = "N"\nsearch = 3\n', "stands where a table is needed"),
    ],
)  # fmt: skip
def test_a_settings_file_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_experiment(write(tmp_path, text), ROOT)


def test_a_file_of_ones_own_stands_beside_its_network(tmp_path: Path) -> None:
    x = read_experiment(write(tmp_path, GOOD), ROOT)
    assert (x.name, x.model) == ("own", tmp_path.resolve() / "train_val.prototxt")
    with pytest.raises(UsageError, match="no such experiment; there is vgg16-25"):
        read_experiment("vgg16-26", ROOT)
