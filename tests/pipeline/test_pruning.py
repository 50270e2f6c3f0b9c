"""Pruned networks from the commands: emitted, loaded and trained in stock Caffe, counted from their own files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.caffe_io.caffemodel import CaffeModel
from enc_caffe.caffe_io.datum import write_lmdb
from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net, verbatim_text
from enc_caffe.caffe_io.sources import from_arrays
from enc_caffe.caffe_io.variants import deploy_net
from enc_caffe.caffe_tools.programs import parse_training
from enc_caffe.cli import main
from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition.widths import widths
from enc_caffe.form import Form
from enc_caffe.network import Network
from enc_caffe.plan import read_plan
from enc_caffe.workers.executor import CaffeExecutor
from tests.integration.test_random_networks import save_random

pytestmark = pytest.mark.caffe
DIGITS = Path(__file__).resolve().parent.parent.parent / "prototxt" / "digits"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine OpenBLAS's threads wait for each other."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")


def whole() -> Network:
    """The digits network."""
    return describe(read_net(DIGITS / "train_val.prototxt"), (1, 8, 8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits network with random weights, and images of ten patterns under noise."""
    out = tmp_path_factory.mktemp("digits")
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 10
    patterns = rng.integers(0, 17, (10, 1, 8, 8))
    images = np.clip(patterns[labels] + rng.integers(-2, 3, (80, 1, 8, 8)), 0, 16).astype(np.uint8)
    write_lmdb(out / "lmdb", from_arrays(images, labels)[1])
    with CaffeExecutor(1, 1) as executor:
        net = read_net(DIGITS / "train_val.prototxt")
        text = verbatim_text(deploy_net(net, whole()))
        executor.result(executor.submit(save_random, text, str(out / "net.caffemodel"), 1))
    return out


def command(folder: Path, name: str, *more: str) -> list[str]:
    return [
        name, "--model", str(DIGITS / "train_val.prototxt"), "--weights", str(folder / "net.caffemodel"), "--lmdb", str(folder / "lmdb"),
        "--store", str(folder / "store.sqlite"), *more,
    ]  # fmt: skip


def ranks(path: Path, **forms: str) -> str:
    path.write_text(json.dumps({"format": "enc-caffe-ranks/2", "network": "digits", "forms": forms}))
    return str(path)


def costs_of(out: Path) -> tuple[int, int]:
    """MACs and weights of an emitted folder by its own files: every stored weight at every position of its layer's output."""
    network = describe(read_net(out / "deploy.prototxt"))
    macs = weights = 0
    for stored in CaffeModel(out / "compressed.caffemodel"):
        if stored.name in network and network[stored.name].has_weights:
            size = int(np.prod(stored.blobs[0].shape))
            weights += size
            macs += size * int(np.prod(network[stored.name].output))
    return macs, weights


def test_an_emitted_plan_trains_in_stock_caffe(folder: Path, tmp_path: Path) -> None:
    plan = ranks(
        tmp_path / "r.json",
        conv1="channel:4",
        conv2="prune:20+spatial:24",
        conv4="prune_lasso:30",
        fc5="prune_magnitude:40",
    )
    out = tmp_path / "out"
    main(command(folder, "emit", "--ranks", plan, "--decomposition", "weighted", "--distill", "--out", str(out)))
    shapes = {x.name: [b.shape for b in x.blobs] for x in CaffeModel(out / "compressed.caffemodel")}
    assert shapes["conv1_h"][0] == (20, 4, 1, 1) and shapes["conv2_v"][0] == (24, 20, 3, 1)
    assert (
        shapes["conv3"][0] == (30, 48, 3, 3) and shapes["conv4"][0] == (40, 30, 3, 3) and shapes["fc5"][0] == (10, 160)
    )
    cost = network_complexity(whole(), read_plan(out / "ranks.json").forms)
    assert (cost.macs, cost.parameters) == costs_of(out)
    main([
        "finetune", "--solver", str(out / "solver.prototxt"), "--weights", str(out / "compressed.caffemodel"), "--train_lmdb",
        str(folder / "lmdb"), "--test_lmdb", str(folder / "lmdb"), "--max_iter", "100", "--out", str(tmp_path / "tuned"),
    ])  # fmt: skip
    losses = [
        p.loss for p in parse_training((tmp_path / "tuned" / "caffe_train.log").read_text()) if p.loss is not None
    ]
    assert len(losses) >= 5 and losses[-1] < 0.5 * losses[0]


MIXED = (
    "--schemes", "spatial,inner_product", "--prune_by", "error", "--method", "model", "--metric", "fisher", "--decomposition", "asymmetric",
    "--recalibrate", "bias", "--reconstruct", "blocks",
)  # fmt: skip
AMC = ("--method", "amc", "--schemes", "prune_magnitude", "--decomposition", "weighted", "--episodes", "6")


@pytest.mark.parametrize(
    "how",
    [MIXED, ("--quality", "channel_pruning", "--distill_iterations", "10"), AMC],
    ids=["mixed", "channel pruning", "amc"],
)
def test_compress_with_fewer_channels_meets_its_budget(folder: Path, tmp_path: Path, how: tuple[str, ...]) -> None:
    out = tmp_path / "out"
    assert main(command(folder, "compress", *how, "--target_flops", "0.3", "--out", str(out))) == 0
    plan = read_plan(out / "ranks.json")
    assert any(f.scheme.startswith("prune") for f in plan.forms.values())
    macs, weights = costs_of(out)
    before = network_complexity(whole(), {})
    assert plan.about.flops_ratio == pytest.approx(macs / before.macs) and plan.about.flops_ratio <= 0.3
    # An agent's actions are its own: they need not use a budget up.
    assert plan.about.flops_ratio > 0.2 or how is AMC
    assert plan.about.params_ratio == pytest.approx(weights / before.parameters)
    assert main(["report", str(out), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.html").read_text()
    assert all(str(f) in text for f in plan.forms.values())
    if how is MIXED:
        # All layers have curves, so that the rows add up to the network.
        assert f"{macs:,}" in text


@pytest.mark.parametrize(
    ("forms", "words"),
    [
        ({"conv1": "prune:1"}, "layer 'conv1' (Convolution) cannot have scheme 'prune': it reads one channel"),
        ({"conv2": "prune:33"}, "layer 'conv2': form 'prune:33': rank 33 is outside 1 to 32"),
        ({"conv2": "prune:8+spatial:2+channel:1"}, "the form of layer 'conv2' is 'prune:8+spatial:2+channel:1'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_in_a_line(
    folder: Path, tmp_path: Path, forms: dict[str, str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = ranks(tmp_path / "r.json", **forms)
    assert main(command(folder, "emit", "--ranks", plan, "--out", str(tmp_path / "out"))) != 0
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and not (tmp_path / "out").exists()


def test_pruning_across_a_layer_that_forbids_it_says_which_and_why(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (DIGITS / "train_val.prototxt").read_text()
    lrn = 'layer { name: "norm" type: "LRN" bottom: "conv1" top: "norm" }\n'
    text = text.replace(
        'layer {\n  name: "conv2" type: "Convolution" bottom: "conv1"',
        lrn + 'layer {\n  name: "conv2" type: "Convolution" bottom: "norm"',
    )
    (tmp_path / "lrn.prototxt").write_text(text)
    given = command(
        folder, "emit", "--ranks", ranks(tmp_path / "r.json", conv2="prune:8"), "--out", str(tmp_path / "out")
    )
    given[2] = str(tmp_path / "lrn.prototxt")
    assert main(given) != 0
    assert (
        "layer 'conv2' cannot lose input channels: layer 'norm' (LRN): it normalises across channels"
        in capsys.readouterr().err
    )


def test_an_agent_is_not_refined(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = command(folder, "compress", *AMC, "--refine", "2", "--target_flops", "0.5", "--out", str(tmp_path / "out"))
    assert main(given) == 2
    assert "--refine 2: moves what a sum over layers was least by" in capsys.readouterr().err


def test_a_budget_that_channels_alone_cannot_meet(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            command(folder, "compress", "--schemes", "prune", "--target_flops", "0.001", "--out", str(tmp_path / "out"))
        )
        != 0
    )
    error = capsys.readouterr().err
    assert "target 0.0010 of the MACs cannot be reached" in error and "the lowest ranks miss it by" in error


def test_widths_are_multiples_where_that_is_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics, plan = tmp_path / "m.json", tmp_path / "r.json"
    measure = [
        *command(folder, "metrics")[:5],
        "--input_shape",
        "1,8,8",
        "--schemes",
        "spatial,prune",
        "--out",
        str(metrics),
    ]
    only = ["--schemes", "prune", "--first_layer", "search", "--target_flops", "0.5"]
    search = ["search", str(metrics), *only, "--out", str(plan)]
    assert main([*measure, "--multiple_of", "8"]) == 0
    assert main([*search, "--multiple_of", "8"]) == 0
    left = widths(whole(), read_plan(plan).forms)
    # Readers, and with them every layer that makes what they read.
    assert len(left) >= 2 and all(k % 8 == 0 for k in left.values())
    # What conv2 reads has 32 channels, and no multiple of 32 below all of them. Of the others two may read 32 of their 48 and 64.
    capsys.readouterr()
    assert main(command(folder, "compress", *only, "--multiple_of", "32", "--out", str(tmp_path / "out"))) == 1
    said = capsys.readouterr().err
    assert (
        "--multiple_of 32: there is no rank or number of channels of layer conv2 in such multiples" in said
        and "it stays whole" in said
    )
    assert "metrics --multiple_of" not in said and "or give a smaller --multiple_of" in said
    fewest = {n: Form("prune", (32,)) for n in ("conv3", "fc5")}
    least = network_complexity(whole(), fewest).macs / network_complexity(whole(), {}).macs
    assert f"{least:.4f} to 1.0000 of the MACs can" in said
    # Metrics of any numbers of channels have hardly any of these, and say how others are made.
    assert main(measure) == 0
    assert main([*search, "--multiple_of", "16"]) == 1
    assert "enc-caffe metrics --multiple_of 16 looks at such forms" in capsys.readouterr().err
