"""All rivals on the digits' network in real Caffe: one table, interrupted and gone on with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from enc_caffe.caffe_io.describe import describe
from enc_caffe.caffe_io.prototxt import read_net
from enc_caffe.complexity import network_complexity
from enc_caffe.errors import UsageError
from enc_caffe.experiments import policies, rivals
from enc_caffe.experiments.retrained import Training
from enc_caffe.measuring.evaluate import evaluate_net
from enc_caffe.measuring.store import ResultStore
from enc_caffe.pipeline.reporting import read_run
from enc_caffe.pipeline.source import Source
from enc_caffe.plan import read_plan
from enc_caffe.report.paper import RESULTS
from enc_caffe.report.rows import Network, Run, Score
from enc_caffe.report.sections import report_of, summary_table
from enc_caffe.search.methods import METHODS
from enc_caffe.workers.choice import Workers
from tests.experiments.digits import trained_digits

NAMES = ("uniform", "y_d", "3c", "amc", "adc", "map", "balf")


@pytest.fixture
def arena(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> rivals.Arena:
    """The digits' network with weights of a few iterations."""
    monkeypatch.setenv("ENC_CAFFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    folder, weights, train, test = trained_digits(tmp_path)
    source = Source(folder / "train_val.prototxt", weights)
    settings = {"episodes": 6, "exploration": 3}
    return rivals.Arena("r", "digits", source, train, test, (0.6,), "all", "search", settings)


def evaluate(folder: Path, arena: rivals.Arena) -> int:
    """Right images of an emitted network, as stock tools would count them."""
    with Workers(1).executor() as executor:
        net, weights = folder / "train_val.prototxt", folder / "compressed.caffemodel"
        return evaluate_net(read_net(net), str(net), weights, arena.test, executor).correct[1]


@pytest.mark.caffe
def test_one_table_that_goes_on_where_it_was(arena: rivals.Arena, tmp_path: Path) -> None:
    out, said = tmp_path / "out", []

    def stop(line: str) -> None:
        said.append(line)
        if line == "balf-0.6 ...":
            raise KeyboardInterrupt

    with ResultStore(tmp_path / "store.sqlite") as store:
        with pytest.raises(KeyboardInterrupt):
            rivals.run(arena, NAMES, out, store, Workers(1), lambda *a: None, stop)
        before = [line for line in said if line.endswith("...")]
        said.clear()
        missing = rivals.run(arena, NAMES, out, store, Workers(1), lambda *a: None, said.append)
    in_turn = ["3c-0.6-1_spatial ...", "3c-0.6-2_channel ...", "3c-0.6-3_prune ..."]
    assert before == ["original ...", "uniform-0.6 ...", "y_d ...", "map-0.6 ...", *in_turn, "balf-0.6 ..."]
    assert [line for line in said if line.startswith("3c") and line.endswith("done before")] == [
        line.replace(" ...", ": done before") for line in in_turn
    ]
    # A step without a result is tried again.
    assert [line for line in said if line.endswith("...")] == ["y_d ...", "balf-0.6 ...", "amc-0.6 ...", "adc-0.6 ..."]
    nothing = "Y-D et al. [13] at 0.6: network 'digits': VBMF finds in no layer a rank that would save anything"
    assert len(missing) == 1 and missing[0].startswith(nothing)
    run = read_run(out)
    rows = {n.method: n for n in run.networks}
    assert list(rows) == ["original", "uniform", "3c", "amc", "adc", "map", "balf"]
    assert all(n.score is not None and n.score.images == 60 for n in run.networks)
    for key in ("uniform", "3c", "amc", "adc", "map", "balf"):
        assert rows[key].macs["exact"] <= 0.6 + 1e-9 or arena.count == "paper"
    assert 1 <= (rows["adc"].evaluations or 0) <= 6 and rows["uniform"].evaluations == 0
    assert len(rows["adc"].learning) == 6 and (rows["adc"].search_seconds or 0) > 0
    assert read_plan(out / "ranks-adc-0.6.json").about.method == "adc"
    # Three networks, the last of which has what was asked for.
    last = describe(read_net(out / "3c-0.6" / "3_prune" / "deploy.prototxt"))
    loaded = arena.source.load(arena.choose)
    costs = [network_complexity(n, {}).macs for n in (loaded.network, last)]
    # Of all layers, as the arena counts: the layers that the paper counts are fewer here.
    counted = network_complexity(loaded.network, {}).macs
    assert counted > network_complexity(loaded.network, {}, counted=loaded.policy.schemes).macs
    assert (
        rows["3c"].macs["exact"] == pytest.approx(1 - (costs[0] - costs[1]) / counted)
        and 0.5 < rows["3c"].macs["exact"] <= 0.6
    )
    assert len(rows["amc"].learning) == 6 and (rows["amc"].search_seconds or 0) > 0
    assert all(f.scheme == "prune_magnitude" for f in read_plan(out / "ranks-amc-0.6.json").forms.values())
    table = summary_table(run)
    assert {"evaluations", "search s"} <= set(table.headers) and list(run.remarks) == missing
    titles = [s.title for s in report_of([run]).sections]
    assert "Learning curves" in titles and "Forms side by side" in titles
    record = json.loads((out / "experiment.json").read_text())
    assert record["networks"][1]["options"]["episodes"] is None
    # The same training for each of them, by the weights that each was given; it is done once.
    training = Training(4, arena.source.model.parent / "solver.prototxt", arena.choose)
    for line in (" ...", ": done before"):
        said.clear()
        with ResultStore(tmp_path / "store.sqlite") as store:
            rivals.run(
                replace(arena, training=training),
                ("uniform", "3c", "amc"),
                out,
                store,
                Workers(1),
                lambda *a: None,
                said.append,
            )
        tuned = ["finetune-original", "finetune-uniform-0.6", "finetune-3c-0.6", "finetune-amc-0.6"]
        assert [s for s in said if s.startswith("finetune")] == [t + line for t in tuned]
    run = read_run(out)
    trained = {n.method: n for n in run.networks if n.finetuned}
    assert set(trained) == {"original", "uniform", "3c", "amc"} and "after 4 iterations %" in summary_table(run).headers
    for key, network in trained.items():
        assert network.iterations == 4 and network.finetuned is not None and network.finetuned.images == 60
        # What was trained is the very network that was tested before.
        if key in ("uniform", "amc"):
            folder = out / f"{key}-0.6"
            macs = network_complexity(describe(read_net(folder / "deploy.prototxt")), {}).macs
            assert network.macs["exact"] == pytest.approx(1 - (costs[0] - macs) / counted)
            stated = evaluate(folder, arena)
            assert network.score is not None and stated == network.score.correct[1]
    # One of them at another target joins the table.
    with ResultStore(tmp_path / "store.sqlite") as store:
        more = replace(arena, targets=(0.7,))
        rivals.run(more, ("map",), out, store, Workers(1), lambda *a: None, lambda line: None)
    assert [(n.method, n.target) for n in read_run(out).networks] == [
        ("original", None), ("map", 0.7), ("uniform", 0.6), ("3c", 0.6), ("amc", 0.6), ("adc", 0.6), ("map", 0.6), ("balf", 0.6),
    ]  # fmt: skip


def test_names_that_are_none_and_rivals_that_are_missing() -> None:
    with pytest.raises(UsageError, match="METHOD=uniform,magic: no rival 'magic'; there is uniform, heuristic"):
        rivals.chosen(("uniform", "magic"))
    there, missing = rivals.chosen(())
    assert {r.method for r in there} <= set(METHODS)
    assert len(there) + len(missing) == len(rivals.RIVALS) == len({r.key for r in rivals.RIVALS})


def test_every_policy_of_the_papers_tables_is_a_rival() -> None:
    assert all(policies.rival_of(p.policy) for p in RESULTS)
    rows = {(p.table, p.network, p.policy): policies.command_for(p) for p in RESULTS}
    assert rows["I", "VGG-16", "ADC [17]"] == "make vgg16-25 METHOD=adc IMAGENET_LMDB= TEST_LMDB="
    assert rows["II", "VGG-16", "Y-D et al. [13]"] == "make vgg16-20 METHOD=y_d IMAGENET_LMDB= TEST_LMDB="
    assert rows["I", "ResNet-56", "Uniform"] == "make resnet56-50 METHOD=uniform"
    assert rows["IV", "VGG-16", "ADC [17]"] == "-"
    assert (
        rows["II", "VGG-16", "Asym.3D [11]"] == "make rivals METHOD=asym TARGETS=0.2 MODEL= WEIGHTS= LMDB= TEST_LMDB="
    )
    assert rows["I", "ResNet-56", "AMC [4]"] == "make rivals METHOD=amc TARGETS=0.5"


def test_resnet56_beside_a_policy() -> None:
    def network(method: str, right: int, macs: float, target: float = 0.5) -> Network:
        return Network(method, method, "", {"paper": macs}, score=Score(1000, {1: right}), target=target)

    run = Run("rivals", "", "ResNet-56", networks=[
        network("original", 930, 1.0), network("adc", 900, 0.49), network("adc", 700, 0.3, 0.3), network("y_d", 100, 0.37),
    ])  # fmt: skip
    assert policies.on_resnet56("ADC [17]", run) == "3.00 at 0.490"
    assert policies.on_resnet56("Y-D et al. [13]", run) == "83.00 at 0.370"
    assert policies.on_resnet56("Uniform", run) == policies.on_resnet56("ADC [17]", None) == "make rivals"
