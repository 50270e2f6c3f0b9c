"""Which forms go on: all that are best at some price, none that another one surely beats; and the flag, on real Caffe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enc_caffe.cli import main
from enc_caffe.decomposition import form_cost
from enc_caffe.form import WHOLE
from enc_caffe.measuring.early import Seen
from enc_caffe.measuring.layers import Pair
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, Layer
from enc_caffe.pipeline.wanted import can_be_wanted
from tests.measuring import nets


def table_of(layers: int) -> MetricsTable:
    """Convolutions of two sizes, each at six ranks."""
    made = []
    for i in range(layers):
        channels = 8 if i % 2 else 16
        layer = Layer(f"l{i}", "Convolution", bottom_shapes=((1, channels, 8, 8),), top_shapes=((1, channels, 8, 8),),
                      convolution=Convolution(channels, (3, 3), pad=(1, 1)))  # fmt: skip
        rank = channels * 3
        made.append(LayerMetrics(layer, "spatial", rank, (np.ones(rank),), tuple(range(1, rank, rank // 6))[:6]))
    return MetricsTable("made up", "random", tuple(made))


def pairs_of(table: MetricsTable) -> list[Pair]:
    return [(m.name, m.form(r)) for m in table.layers for r in m.sampled_ranks]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from((None, 0.3, 0.6)))
@example(1, 1602264, 0.6)
def test_what_an_optimum_takes_goes_on(layers: int, seed: int, target: float | None) -> None:
    table, rng = table_of(layers), np.random.default_rng(seed)
    known = {p: float(rng.exponential(10 ** rng.uniform(-4, 0))) for p in pairs_of(table)}
    kept = set(can_be_wanted(table, target)(Seen({p: np.full(4, v) for p, v in known.items()}, 4)))
    costs = {p: form_cost(table.layers[int(p[0][1:])].layer, p[1])[0] for p in known}
    whole = {m.name: form_cost(m.layer, WHOLE)[0] for m in table.layers}
    parts = (0.25, 0.5, 0.8) if target is None else (target,)
    for part in parts:
        budget = part * sum(whole.values())
        # The plan that a price gives: the cheapest one within the budget. The first price is below any that a divergence here has (that of
        # the example is 4e-10), the next ones are nearer to each other than what goes on reaches beyond the optimum's.
        for price in np.geomspace(1e-16, 1, 760):
            best = {
                n: min([(0.0 + price * whole[n], None), *[(known[p] + price * costs[p], p) for p in known if p[0] == n]], key=lambda x: x[0])[1]
                for n in whole
            }  # fmt: skip
            if sum(whole[n] if p is None else costs[p] for n, p in best.items()) <= budget:
                assert {p for p in best.values() if p is not None} <= kept
                break


def test_what_is_surely_beaten_ends_and_what_is_doubtful_does_not() -> None:
    table = table_of(2)
    pairs = pairs_of(table)
    first, others = pairs[:6], pairs[6:]
    known = {p: np.full(5, 0.01) for p in others}
    # More divergence than what costs less: no price can want it.
    values = (0.9, 0.2, 0.5, 0.1, 0.02, 0.01)
    rule, noise = can_be_wanted(table), np.array([-1, 0.5, 1, -0.5, 0])
    sure = {p: v * (1 + 0.01 * noise) for p, v in zip(first, values)}
    kept = rule(Seen({**known, **sure}, 20))
    assert first[2] not in kept and first[1] in kept
    doubtful = {p: v * (1 + np.roll(noise, i)) for i, (p, v) in enumerate(zip(first, values))}
    # The last three cost more than the whole layer, whatever they diverge by.
    assert set(first[:3]) == set(rule(Seen({**known, **doubtful}, 20))) & set(first)


@pytest.mark.caffe
def test_metrics_say_what_ended_early(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 100)
    common = ["metrics", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--schemes", "all",
              "--samples", "even:8", "--store", str(tmp_path / "store.sqlite")]  # fmt: skip
    assert main([*common, "--early", "--out", str(tmp_path / "early.json")]) == 0
    said = capsys.readouterr().out
    assert main([*common, "--out", str(tmp_path / "all.json")]) == 0
    early, whole = (read_metrics(tmp_path / f"{n}.json") for n in ("early", "all"))
    seen = [i for m in early.layers for i in m.series("sampled_images")]
    fewer = [i for i in seen if i < 100]
    assert fewer and set(seen) <= {30, 50, 80, 100}
    assert f"{len(fewer)} of {len(seen)} forms, which no plan can want, were measured on" in said
    for m, other in zip(early.layers, whole.layers):
        for images, a, b in zip(
            m.series("sampled_images"), m.series("sampled_divergence"), other.series("sampled_divergence")
        ):
            assert a == b if images == 100 else a == pytest.approx(b, rel=1.0)


def test_forms_that_their_own_macs_do_not_judge_go_on() -> None:
    table = table_of(2)
    pruned = replace(table, layers=tuple(replace(m, before=Before((), 1)) for m in table.layers))
    seen = Seen({p: np.array([0.9, 0.8, 0.7, 0.9, 0.8]) for p in pairs_of(table)}, 20)
    assert set(can_be_wanted(pruned)(seen)) == set(seen.means) > set(can_be_wanted(table)(seen))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("metrics", "--early"), "--early: shortens measurements, and without images no form"),
        (("metrics", "--early", "--measure", "fisher", "--lmdb", "L"), "with --measure fisher no form"),
        (("compress", "--early", "--target_flops", "0.5", "--metric", "fisher", "--lmdb", "L"), "with --metric fisher none is made"),
    ],
)  # fmt: skip
def test_early_where_nothing_is_measured_is_refused(
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    nets.write_images(tmp_path / "L", 10)
    own = [str(tmp_path / f) if f == "L" else f for f in flags]
    assert main([*own, "--model", str(model), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_budgets_that_macs_do_not_judge_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, weights = nets.write_net(tmp_path, nets.residual())
    lmdb = nets.write_images(tmp_path / "lmdb", 20)
    status = main(["compress", "--model", str(model), "--weights", str(weights), "--lmdb", str(lmdb), "--target_params", "0.5",
                   "--metric", "divergence", "--early", "--out", str(tmp_path / "out")])  # fmt: skip
    assert status == 2 and "--early: what a plan can want is judged by MACs" in capsys.readouterr().err
