"""Searches by predicted divergences, with real Caffe: sums, whole plans, and measurements where predictions are large."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe import pipeline
from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.decomposition import Decomposition
from enc_caffe.calibration.forecast import Forecast, corrections
from enc_caffe.cli import main
from enc_caffe.complexity import layer_macs
from enc_caffe.decomposition import form_cost
from enc_caffe.measuring.gradients import WIDTH
from enc_caffe.measuring.store import ResultStore
from enc_caffe.measuring.subject import PlanEvaluator, layer_counts
from enc_caffe.metrics.files import read_metrics
from enc_caffe.pipeline import forecasting
from enc_caffe.pipeline.forecasting import predicted_metrics, search_predicted
from enc_caffe.pipeline.measurement import images_of
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.plan import read_plan
from enc_caffe.search.options import SearchOptions
from enc_caffe.workers.choice import Workers
from tests.measuring import nets

pytestmark = pytest.mark.caffe
IMAGES = 30


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    """A residual network, images and a store that predictions of all forms go into."""
    folder = tmp_path_factory.mktemp("forecast")
    model, weights = nets.write_net(folder, nets.residual())
    lmdb = nets.write_images(folder / "lmdb", IMAGES)
    loaded = pipeline.load(model, lmdb, schemes="all")
    with ResultStore(folder / "s.sqlite") as store, Workers(2).executor() as executor:
        images = images_of(loaded, weights, lmdb, executor, store)
        decomposer = Decomposer(images, Decomposition("weighted"))
        table = pipeline.pca_metrics(loaded, weights)
        yield images, decomposer, table, model, weights, lmdb


def options(metric: str = "fisher", target: float = 0.7) -> SearchOptions:
    return SearchOptions("model", metric, target, schemes="all")


def test_predictions_follow_what_is_measured(small) -> None:
    images, decomposer, table, *_ = small
    forecast = Forecast(decomposer, [m.name for m in table.layers])
    found = predicted_metrics(table, forecast)
    pairs = [(m.name, m.form(r)) for m in found.layers for r in m.sampled_ranks if forecast.knows((m.name, m.form(r)))]
    counts = layer_counts(images, pairs, factors=decomposer.prepare(pairs), key=decomposer.key())
    both = {p: (forecast.predicted(p), counts[p].divergence / IMAGES) for p in pairs}
    values = list(both.values())
    # Random weights of 8 channels: what ReLUs turn is much of a small change, and 30 images are few.
    default = {(m.name, m.form(r)) for m in table.layers for r in m.measure_at or m.sampled_ranks}
    ratios = [a / b for p, (a, b) in both.items() if p in default and 1e-7 < b < 1e-3]
    assert len(ratios) > 5 and np.median(np.abs(np.log(ratios))) < 0.5, values
    assert np.corrcoef(np.log(np.maximum(values, 1e-9)).T)[0, 1] > 0.95
    series = [v for m in found.layers for v in m.series("sampled_fisher") if v is not None]
    assert len(series) == len(pairs)


def test_places_are_added_in_the_widest_gaps_until_a_block_is_full(small) -> None:
    _, _, table, *_ = small
    before = [tuple(m.measure_at or m.sampled_ranks) for m in table.layers]
    after = forecasting._filled(table.layers, before)
    for name in {m.name for m in table.layers}:
        own = [i for i, m in enumerate(table.layers) if m.name == name]
        assert all(set(before[i]) <= set(after[i]) and after[i] == tuple(sorted(set(after[i]))) for i in own)
        if table.layers[own[0]].layer.convolution is None:
            assert all(before[i] == after[i] for i in own)
            continue
        number, room = sum(len(after[i]) for i in own), sum(len(before[i]) for i in own)
        assert number == max(room, WIDTH) or all(_narrow(table.layers[i], after[i]) for i in own)
    assert any(len(a) > len(b) for a, b in zip(after, before))


def _narrow(m, places: tuple[int, ...]) -> bool:
    """Whether nothing is left between the places that cost less than the layer does."""
    whole = layer_macs(m.layer)
    return all(b == a + 1 or form_cost(m.layer, m.form(a))[0] >= whole for a, b in zip(places, places[1:]))


def test_layers_that_make_up_for_others_have_no_cross_terms(small) -> None:
    images, _, table, *_ = small
    forecast = Forecast(Decomposer(images, Decomposition("asymmetric")), [m.name for m in table.layers])
    known = predicted_metrics(table, forecast)
    learnt = len(list(forecast.known()))
    found = search_predicted(known, options(), forecast)
    assert found.plan.forms == search_plan(known, options()).plan.forms and len(list(forecast.known())) == learnt
    assert found.result.proven_optimal


def test_whole_plans_are_predicted_and_end_no_worse_than_the_least_sum(small) -> None:
    images, decomposer, table, *_ = small
    forecast = Forecast(decomposer, [m.name for m in table.layers])
    known = predicted_metrics(table, forecast)
    plain = search_plan(known, options())
    forecast.learn(plain.plan.forms.items())
    found = search_predicted(known, options(), forecast)
    assert found.plan.about.flops_ratio <= 0.7 and "at the least sum over layers, proven among the forms near it" in (
        found.plan.about.note or ""
    )
    # Cross terms: changes of the scores add up, divergences do not.
    evaluator = PlanEvaluator(
        images, blobs_of=decomposer.blobs, name=decomposer.name(), reference=decomposer.reference()
    )  # fmt: skip
    for forms in (plain.plan.forms, found.plan.forms):
        vectors = sum(forecast.vector(p) for p in forms.items())
        # To second order; the softmax itself is what together takes, within a few of these.
        assert forecast.together(forms) == pytest.approx(0.5 * np.sum(vectors**2) / IMAGES, rel=0.5)
        assert abs(np.log(forecast.together(forms) / evaluator.divergence(forms))) < np.log(5.0)


def test_cross_terms_are_trusted_as_far_as_the_other_half_of_the_images_says(
    small, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    _, decomposer, table, *_ = small
    monkeypatch.setattr(forecasting, "FOLD", 10)
    forecast = Forecast(decomposer, [m.name for m in table.layers])
    known = predicted_metrics(table, forecast)
    trusted = []
    with monkeypatch.context() as doubled:
        for target in (0.5, 0.6, 0.7, 0.8):
            whole = forecasting._Whole(search_plan(known, options(target=target)), forecast)
            for trust in forecasting.TRUSTS:
                ranks = whole.descend(whole.everything, trust)
                assert whole.problem.fits(ranks)
                if trust == 1.0:
                    assert whole.value(ranks) <= whole.value(whole.start) * (1 + 1e-9)
            # Halves that agree, each image twice: what one chooses is worth as much on the other, and what is left is chance.
            doubled.setattr(forecast, "each", _doubled(Forecast.each.__get__(forecast)))
            doubled.setattr(forecast, "vector", _doubled(Forecast.vector.__get__(forecast)))
            ways = (whole.descend(whole.everything, trust) for trust in forecasting.TRUSTS)
            gain = max((whole.each(whole.start) - whole.each(ranks) for ranks in ways), key=np.mean)
            trust, words = whole.trust()
            assert (trust > 0) == ("a local optimum" in words) == (gain.mean() > gain.std() / np.sqrt(IMAGES))
            trusted.append(trust > 0)
            doubled.undo()
    assert any(trusted)
    monkeypatch.setattr(forecasting, "FOLD", 10)
    whole = forecasting._Whole(search_plan(known, options()), forecast)
    found = search_predicted(known, options(), forecast)
    assert forecast.together(found.plan.forms) <= whole.value(whole.start) * (1 + 1e-6)


def test_whole_networks_have_the_last_word_on_cross_terms(small, monkeypatch: pytest.MonkeyPatch) -> None:
    _, decomposer, table, *_ = small
    forecast = Forecast(decomposer, [m.name for m in table.layers])
    known = predicted_metrics(table, forecast)
    monkeypatch.setattr(forecasting._Whole, "trust", lambda whole: (1.0, "cross terms are trusted"))
    wholes = (
        (t, forecasting._Whole(search_plan(known, options(target=t)), forecast))
        for t in (0.5, 0.55, 0.6, 0.65, 0.8, 0.85)
    )
    target, whole = next((t, w) for t, w in wholes if w.descend(w.everything, 1.0) != w.start)
    plans = [whole.forms(whole.start), whole.forms(whole.descend(whole.everything, 1.0))]
    for better, kept in ((-1.0, plans[1]), (1.0, plans[0])):
        seen: list[dict] = []

        def value_of(forms, better=better, seen=seen) -> float:
            seen.append(dict(forms))
            return better * len(seen)

        found = search_predicted(known, options(target=target), forecast, value_of=value_of)
        assert seen == plans and dict(found.plan.forms) == kept
        assert ("the least sum is kept" in (found.plan.about.note or "")) == (better > 0)


def _doubled(of):
    """Rows 0, 0, 1, 1, ... of the first half of what a function gives."""
    return lambda *given: np.repeat(of(*given)[: IMAGES // 2], 2, axis=0)


def test_large_predictions_are_measured_and_their_curves_corrected(small, monkeypatch: pytest.MonkeyPatch) -> None:
    _, decomposer, table, *_ = small
    monkeypatch.setattr(forecasting, "SMALL", 1e-5)
    forecast = Forecast(decomposer, [m.name for m in table.layers])
    known = predicted_metrics(table, forecast)
    found = search_predicted(known, options("fisher+measured"), forecast)
    assert forecast.measured
    # A form that was measured has its measured divergence in whole plans: its vector is as long as that says.
    for pair in list(forecast.measured)[:4]:
        if forecast.measured[pair] > 0 and 0.3 < forecast.scale(pair) < 3:
            ratio = (forecast.scale(pair) ** 2) * forecast.predicted(pair) / forecast.measured[pair]
            assert ratio == pytest.approx(1.0, rel=1e-6)
    assert found.plan.about.metric == "fisher+measured"
    # The next search begins with what this one measured: here that every form of its plan costs far more than was predicted.
    chosen = {x.name: x.forms[r] for x, r in zip(found.problem.layers, found.result.ranks)}
    for name, form in chosen.items():
        if (name, form) in forecast.measured:
            forecast.measured[name, form] = 10.0
    monkeypatch.setattr(forecasting, "_together", lambda table, found, *others: found)
    again = search_predicted(known, options("fisher+measured"), forecast)
    assert not any(forecast.measured.get(p) == 10.0 for p in again.plan.forms.items())


def test_corrections_are_linear_in_the_logarithm() -> None:
    assert np.array_equal(corrections([1.0, 2.0], {}), [1.0, 1.0])
    np.testing.assert_allclose(corrections([1, 2, 3, 4], {1: 0.5, 2: 2.0}), [0.5, 0.5, 2.0, 2.0])
    np.testing.assert_allclose(corrections([1, 2, 3], {0: 0.25, 2: 1.0}), [0.25, 0.5, 1.0])


def test_layers_without_a_gradient_are_measured(tmp_path: Path) -> None:
    model, weights = nets.write_net(tmp_path, nets.behind_argmax())
    lmdb = nets.write_images(tmp_path / "lmdb", 12)
    loaded = pipeline.load(model, lmdb, schemes=("spatial",))
    with Workers(1).executor() as executor:
        images = images_of(loaded, weights, lmdb, executor)
        table = pipeline.pca_metrics(loaded, weights)
        forecast = Forecast(Decomposer(images, Decomposition("weighted")), [m.name for m in table.layers])
        assert forecast.blocked == ("lost",) and "lost" in forecast.remarks()[0]
        found = predicted_metrics(table, forecast)
        assert {n for n, _ in forecast.measured} == {"lost"}
        asked = SearchOptions("model", "fisher", 0.7, schemes=("spatial",))
        assert search_predicted(found, asked, forecast).plan.about.flops_ratio <= 0.7


def test_commands(small, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, _, _, model, weights, lmdb = small
    common = [
        "--model",
        str(model),
        "--weights",
        str(weights),
        "--lmdb",
        str(lmdb),
        "--store",
        str(tmp_path / "s"),
        "--schemes",
        "all",
    ]
    metrics = tmp_path / "metrics.json"
    assert main(["metrics", *common, "--decomposition", "weighted", "--measure", "fisher", "--out", str(metrics)]) == 0
    table = read_metrics(metrics)
    assert all(any(v is not None for v in m.series("sampled_fisher")) for m in table.layers)
    asked = ["--schemes", "all", "--method", "model", "--target_flops", "0.7", "--out", str(tmp_path / "ranks.json")]
    assert main(["search", str(metrics), "--metric", "fisher", *asked]) == 0
    assert read_plan(tmp_path / "ranks.json").about.metric == "fisher"
    assert main(["search", str(metrics), "--metric", "fisher+measured", *asked]) != 0
    assert "enc-caffe compress does" in capsys.readouterr().err
    out = tmp_path / "out"
    rest = [
        "--method",
        "model",
        "--metric",
        "fisher",
        "--decomposition",
        "fisher",
        "--target_flops",
        "0.7",
        "--out",
        str(out),
    ]
    assert main(["compress", *common, *rest]) == 0
    assert "too few images to know cross terms by" in (read_plan(out / "ranks.json").about.note or "")
