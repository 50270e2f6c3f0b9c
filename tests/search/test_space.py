"""The candidate space of the paper: bounds, steps, groups, window, and the published VGG-16 run."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.errors import InfeasibleError
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import exact, space
from enc_caffe.search.build import build_problem
from enc_caffe.search.options import SearchOptions, space_settings
from tests.search.tables import entry, tables

LATTICE = (17, 27, 75, 87, 121, 148, 141, 227, 368, 281, 555, 554)
STEPS = (4, 4, 7, 11, 15, 15, 18, 29, 29, 29, 29, 29)


@pytest.fixture(scope="module")
def vgg16(shared_data: Path) -> MetricsTable:
    """The authors' metrics of VGG-16."""
    return read_metrics(shared_data / "metrics" / "vgg16.json")


def published(target: float, **changes: object) -> SearchOptions:
    """The authors' settings for VGG-16."""
    base = SearchOptions("model", "measured", target, first_layer="half", preset="published", solver="space")
    return replace(base, **changes)  # type: ignore[arg-type]


def test_the_published_plan_lies_on_the_published_lattice(vgg16: MetricsTable, shared_data: Path) -> None:
    runs = {p["id"]: p["ranks"] for p in json.loads((shared_data / "published_ranks.json").read_text())}
    # METHOD section 6: C_t of 0.250 to 0.251, density 0.094 to 0.0955; the plan itself costs 0.25165, 1.1% of
    # C(R_max) - C_t above that C_t.
    problem = build_problem(vgg16, published(0.2505, complexity_margin=0.012))
    made = space.make_space(problem)
    assert made.highest == LATTICE and made.steps == STEPS
    plan = tuple(runs["table1-vgg16-flop_0.25_enc_model"][x.name] for x in problem.layers)
    assert made.holds(problem, plan)
    assert len(made.groups) == 8
    for metric in ("measured", "pca", "combined"):
        same = build_problem(vgg16, published(0.2505, complexity_margin=0.012, metric=metric))
        # The lattice comes from y_m whatever chooses on it: R_max by A_p's mapping is another one.
        stages = space.options_of(same, made)
        best, _ = space.best_plans(same, stages, space.limits_of(same, made), 1, space.most_macs(same, made))
        assert best[0][1] >= same.score(plan), metric
        assert made.holds(same, best[0][0])


def test_about_32000_candidates(vgg16: MetricsTable) -> None:
    problem = build_problem(vgg16, published(0.2505))
    made = space.make_space(problem)
    # METHOD section 6: about 32,000.
    assert 31_000 <= space.count(space.options_of(problem, made), made.window) <= 33_500


def test_density_of_the_shipped_setting_gives_another_step() -> None:
    ranks = [96, 128, 192, 256, 384, 384, 512, 768, 768, 768, 768, 768]
    for density in (0.094, 0.095, 0.0955):
        assert space.steps_for(ranks, density) == STEPS
    assert space.steps_for(ranks, 0.096)[4:6] == (14, 14)


def test_resnet56_steps(shared_data: Path) -> None:
    table = read_metrics(shared_data / "metrics" / "res56.json")
    options = SearchOptions("model", "pca", 0.504, preset="published", solver="space")
    problem = build_problem(table, options)
    assert set(space.make_space(problem).steps) == {2}
    found = space.search(problem)
    # METHOD section 8: the published ranks have 6.329e-7.
    assert np.exp(found.log_objective) >= 6.329e-7
    assert found.log_objective <= exact.plans(replace(problem, budgets={"macs": problem.macs(found.ranks)}))[0][0][1]


def brute_force(problem, made) -> list[tuple[float, tuple[int, ...]]]:
    """Every candidate of the lattice, without groups."""
    lattice = [made.candidates_of(problem, i).tolist() for i in range(len(problem.layers))]
    plans = [p for p in itertools.product(*lattice) if made.holds(problem, p)]
    return sorted(((problem.score(p), p) for p in plans), reverse=True)


@settings(max_examples=120, deadline=None)
@given(
    tables(), st.floats(0.3, 0.8), st.sampled_from(("pca", "measured", "combined")),
    st.sampled_from(("budget", "paper", "published")), st.booleans(), st.sampled_from((1, 2)),
)  # fmt: skip
def test_against_all_candidates(table, target, metric, preset, groups, multiple) -> None:
    options = SearchOptions(
        "model", metric, target, first_layer="search", preset=preset, solver="space", groups=groups, density=0.5,
        complexity_margin=0.2, multiple_of=multiple,
    )  # fmt: skip
    problem = build_problem(table, options)
    try:
        made = space.make_space(problem)
        size = np.prod([len(made.candidates_of(problem, i)) for i in range(len(problem.layers))])
        if size > 20_000:
            return
        wanted = brute_force(problem, made)
        found = space.search(problem, 3)
    except InfeasibleError:
        return
    assert made.holds(problem, found.ranks)
    if preset == "budget":
        assert problem.fits(found.ranks)
    assert found.log_objective <= wanted[0][0] + 1e-9
    if metric != "combined" or not groups:
        # For a product, keeping only the best split of every sum loses nothing.
        assert found.log_objective == pytest.approx(wanted[0][0], abs=1e-9)
    if not groups:
        assert found.candidates == len(wanted)
        assert [s for _, s in found.best] == pytest.approx([s for s, _ in wanted[:3] if s > -np.inf], abs=1e-9)


def test_an_empty_window_says_what_helps() -> None:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 16, 8, i) for i in range(3)), 1.0)
    options = SearchOptions("model", "pca", 0.5, preset="published", solver="space", complexity_margin=1e-9)
    with pytest.raises(InfeasibleError, match="--complexity_margin, --density or --space_margin"):
        space.search(build_problem(table, options))


def test_every_parameter_overrides_its_preset() -> None:
    options = SearchOptions(target_flops=0.5, preset="published", space_margin=0.2, complexity_margin=0.3, density=0.4)
    got = space_settings(options, 12)
    assert (got.space_margin, got.complexity_margin, got.density) == (0.2, 0.3, 0.4)
    assert space_settings(SearchOptions(target_flops=0.5), 8).candidates == 50
    assert space_settings(SearchOptions(target_flops=0.5), 12).candidates == 20
    assert space_settings(SearchOptions(target_flops=0.5, candidates=7), 12).candidates == 7
