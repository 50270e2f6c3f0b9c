"""Searches as plans, sweeps and files, through the command line too; no Caffe."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.cli import main
from enc_caffe.decomposition import form_cost
from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.flags.common import range_of
from enc_caffe.form import WHOLE
from enc_caffe.metrics.files import read_metrics, write_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.pipeline.planning import (
    CLOSE,
    optimality_gap,
    search_mixture,
    search_plan,
    sweep,
    sweep_data,
    with_one_scheme,
)
from enc_caffe.plan import read_plan
from enc_caffe.search import exact
from enc_caffe.search.options import SearchOptions
from tests.search.tables import curves, entry, every_plan, options, tables

TABLE = MetricsTable("net", "", tuple(entry(f"l{i}", 8, 8, i) for i in range(4)), 1.0)


@pytest.fixture
def metrics_file(tmp_path: Path) -> Path:
    """The table as a file."""
    write_metrics(tmp_path / "metrics.json", TABLE)
    return tmp_path / "metrics.json"


def test_the_plan_says_how_it_was_found(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "res56.json")
    about = search_plan(table, SearchOptions("model", target_flops=0.5)).plan.about
    assert about.solver == "exact" and about.proven_optimal is True and about.gap == 0
    assert about.flops_ratio <= 0.5 and about.targets == {"macs": 0.5}
    found = search_plan(table, SearchOptions("map", target_flops=0.5))
    assert found.plan.about.solver == "mapping" and found.plan.about.proven_optimal is False
    best = exact.plans(found.problem)[0][0][1]
    assert found.plan.about.gap == pytest.approx(best - found.result.log_objective) and found.plan.about.gap > 0


@settings(max_examples=60, deadline=None)
@given(tables(), st.sampled_from(("map", "uniform", "energy", "vbmf", "model")), st.floats(0.3, 0.9), st.booleans())
def test_no_plan_at_the_same_cost_is_better_than_the_gap_says(table, method, target, space) -> None:
    wanted = options(
        method=method, target_flops=target, first_layer="search", floor=0.4, preset="paper", density=1.0,
        complexity_margin=0.05, solver="space" if space else "exact",
    )  # fmt: skip
    try:
        found = search_plan(table, wanted)
    except InfeasibleError:
        return
    problem = found.problem
    if math.prod(len(x.ranks) for x in problem.layers) > 30_000:
        return
    # Presets of the paper may end above the target: then the plan's own cost counts.
    # Costs are whole numbers: half of one more lets rounding change nothing.
    reached = math.floor(max(problem.budgets["macs"], problem.macs(found.result.ranks))) + 0.5
    best = every_plan(problem.with_budget("macs", min(1.0, reached / problem.originals["macs"])))[0][0]
    assert best == pytest.approx(found.result.log_objective + found.result.gap, abs=1e-9)
    assert optimality_gap(problem, found.result) == found.result.gap


def test_ranges() -> None:
    assert range_of("0.2:0.9:0.05") == [round(0.2 + 0.05 * i, 10) for i in range(15)]
    assert range_of("0.5") == [0.5] and range_of("0.3:0.3:0.1") == [0.3]
    for wrong in ("0.1:inf:0.1", "0.9:0.2:0.1", "0.1:0.2:0", "0.1:0.2", "x"):
        with pytest.raises(ValueError, match="empty|needed|first|could not|finite"):
            range_of(wrong)


def test_a_sweep_rises_and_keeps_what_cannot_be_reached() -> None:
    points = sweep(TABLE, options(method="model", metric="measured", first_layer="search"), [0.01, 0.3, 0.5, 0.7])
    assert points[0].found is None and "target 0.0100 of the MACs cannot be reached" in points[0].error
    objectives = [p.found.result.log_objective for p in points[1:] if p.found]
    assert objectives == sorted(objectives) and len(objectives) == 3
    data = sweep_data(TABLE, options(), points)
    assert [p.get("forms") is None for p in data["points"]] == [True, False, False, False]
    assert data["points"][2]["predicted_accuracy"] == pytest.approx(data["points"][2]["objective"])
    json.dumps(data, allow_nan=False)
    with pytest.raises(InfeasibleError):
        sweep(TABLE, options(first_layer="search"), [0.01, 0.02])


def test_a_sweep_is_checked_before_anything_is_searched() -> None:
    asked: list[float] = []

    def accuracy(ranks):
        asked.append(1.0)
        return 1.0

    with pytest.raises(UsageError, match="--target_flops 1.1"):
        sweep(TABLE, options(method="inf", first_layer="search"), [0.5, 1.1], accuracy)
    assert not asked


def test_command_line(metrics_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.json"
    base = ["search", str(metrics_file), "--first_layer", "search", "--out", str(out)]
    more = ["--method", "model", "--metric", "measured", "--target_flops", "0.6", "--target_params", "0.55",
            "--multiple_of", "2", "--bounds", "l1=2:8", "--whole", "l2"]  # fmt: skip
    assert main([*base, *more]) == 0
    plan, printed = read_plan(out), capsys.readouterr().out
    assert "proven optimal; all 10^" in printed and f"{plan.about.params_ratio:.4f}" in printed
    assert set(plan.ranks) == {"l0", "l1", "l3"} and 2 <= plan.ranks["l1"] <= 8
    assert all(r % 2 == 0 for r in plan.ranks.values())
    assert plan.about.flops_ratio <= 0.6 and plan.about.params_ratio <= 0.55
    assert main([*base, "--target_flops", "0.3:0.9:0.2", "--method", "map"]) == 0
    printed = capsys.readouterr().out
    assert len(json.loads(out.read_text())["points"]) == 4 and "0.9 " in printed
    pytest.importorskip("matplotlib")
    assert main(["search", "plot", str(out), "--out", str(tmp_path / "pareto.png")]) == 0
    assert main(
        ["search", "plot", str(metrics_file), "--first_layer", "search", "--target_flops", "0.5", "--out", str(tmp_path / "b.svg")]
    ) == 0  # fmt: skip
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (tmp_path / "b.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--method", "inf", "--target_flops", "0.5"], "give --model, --weights and --lmdb"),
     (["--target_flops", "0.01"], "target 0.0100 of the MACs cannot be reached"), ([], "no target: give --target_flops"),
     (["--target_flops", "0.5", "--model", "x"], "--weights and --lmdb are missing"),
     (["--target_flops", "0.5", "--metric", "loss"], "field 'sampled_cross_entropy'"),
     (["--target_flops", "0.5", "--bounds", "l1=9:2"], "--bounds l1=9:2")],
)  # fmt: skip
def test_errors_of_the_command_line(metrics_file, tmp_path, capsys, arguments, message) -> None:
    status = main(
        ["search", str(metrics_file), "--first_layer", "search", "--out", str(tmp_path / "r.json"), *arguments]
    )
    assert status != 0 and message in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize("wrong", ["0.9:0.2:0.1", "a", "0.1:0.2"])
def test_an_empty_sweep_is_refused(metrics_file: Path, tmp_path: Path, capsys, wrong: str) -> None:
    with pytest.raises(SystemExit):
        main(["search", str(metrics_file), "--target_flops", wrong, "--out", str(tmp_path / "r.json")])
    assert "--target_flops" in capsys.readouterr().err


@pytest.fixture
def mixture_file(tmp_path: Path) -> Path:
    """Two layers in all schemes, in a network of twice their MACs, as a file."""
    layers = (*curves("l0", 12, 16, 8, 3, 0), *curves("l1", 16, 16, 8, 3, 1))
    whole = [sum(form_cost(layer, WHOLE)[i] for layer, _ in MetricsTable("net", "", layers).by_layer()) for i in (0, 1)]
    extra = (("network_macs", 2 * whole[0]), ("network_parameters", 2 * whole[1]))
    write_metrics(tmp_path / "mixture.json", MetricsTable("net", "", layers, 1.0, extra))
    return tmp_path / "mixture.json"


def test_mixtures_from_the_command_line(mixture_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.json"
    base = ["search", str(mixture_file), "--method", "model", "--metric", "divergence", "--out", str(out)]
    plans = {}
    for schemes in ("all", "spatial", "spatial_t", "channel", "tucker2"):
        assert main([*base, "--schemes", schemes, "--target_flops", "0.7"]) == 0
        plans[schemes] = read_plan(out)
        about = plans[schemes].about
        assert (
            about.among == schemes and about.flops_ratio <= 0.7 and about.convention == "exact" and about.proven_optimal
        )
        assert about.counted == "all convolutions and fully connected layers"
    assert all(plans["all"].about.objective >= p.about.objective - 1e-12 for p in plans.values())
    assert all(form.scheme == s for s, p in plans.items() if s != "all" for form in p.forms.values())
    assert "l0" in capsys.readouterr().out
    # 0.7 of the whole network is 0.4 of what can be decomposed: the paper counts that.
    assert main([*base, "--schemes", "all", "--target_flops", "0.4", "--count", "paper"]) == 0
    counted = read_plan(out)
    assert counted.forms == plans["all"].forms and counted.about.counted == "the layers that the metrics list"
    for method in ("map", "uniform"):
        assert main([*base, "--schemes", "all", "--target_flops", "0.7", "--method", method]) == 0
        assert read_plan(out).about.flops_ratio <= 0.7
        assert read_plan(out).about.objective <= plans["all"].about.objective + 1e-12


@pytest.mark.parametrize("target", [0.6, 0.7, 0.85])
def test_a_scheme_alone_is_looked_at_only_where_its_sum_is_close(mixture_file: Path, target: float) -> None:
    table = read_metrics(mixture_file)
    wanted = SearchOptions("model", "divergence", target, schemes="all", count="all")
    sums, plans = {}, {}
    for scheme in ("spatial", "spatial_t", "channel", "tucker2"):
        try:
            found = search_plan(with_one_scheme(table, wanted, scheme), wanted)
        except InfeasibleError:
            continue
        sums[scheme], plans[scheme] = -found.result.log_objective, found.plan.forms
    best = search_plan(table, wanted)
    close = [dict(plans[s]) for s, value in sums.items() if value <= CLOSE * -best.result.log_objective]
    seen: list[dict] = []

    def value_of(forms) -> float:
        seen.append(dict(forms))
        return -float(len(seen))

    found = search_mixture(table, wanted, value_of)
    different = [
        f for i, f in enumerate([dict(best.plan.forms), *close]) if f not in [dict(best.plan.forms), *close][:i]
    ]
    assert sorted(map(str, seen)) == sorted(map(str, different)) and len(seen) < 1 + len(sums)
    # The least value comes first, whichever plan has it.
    assert dict(found[0][1].plan.forms) == seen[-1]


def test_formats_from_the_command_line(mixture_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ranks.json"
    base = [
        "search",
        str(mixture_file),
        "--method",
        "model",
        "--metric",
        "divergence",
        "--target_flops",
        "0.7",
        "--out",
        str(out),
    ]
    assert main([*base, "--schemes", "channel", "--format", "1"]) == 0
    data = json.loads(out.read_text())
    assert data["format"] == "enc-caffe-ranks/1" and set(data["schemes"].values()) == {"channel"}
    two = read_plan(out).forms
    assert main([*base, "--schemes", "channel"]) == 0
    assert json.loads(out.read_text())["format"] == "enc-caffe-ranks/2" and read_plan(out).forms == two
    before = out.read_bytes()
    assert main([*base, "--schemes", "tucker2", "--format", "1"]) == 1
    assert "enc-caffe-ranks/1 cannot say it: layer" in capsys.readouterr().err and out.read_bytes() == before
    assert main([*base, "--schemes", "all", "--target_flops", "0.6:0.9:0.1"]) == 0
    sweep_ = json.loads(out.read_text())
    assert sweep_["format"] == "enc-caffe-sweep/2" and len(sweep_["points"]) == 4
    assert all(":" in form for point in sweep_["points"] if "forms" in point for form in point["forms"].values())
    pytest.importorskip("matplotlib")
    figure = tmp_path / "f.png"
    for source in ([str(out)], [str(mixture_file), *base[2:6], "--schemes", "all", "--target_flops", "0.7"]):
        assert main(["search", "plot", *source, "--out", str(figure)]) == 0
        assert figure.read_bytes().startswith(b"\x89PNG")
        figure.unlink()
