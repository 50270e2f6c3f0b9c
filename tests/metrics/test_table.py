"""Metrics of a layer as curves: energy, measured points, places on a ladder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from enc_caffe.decomposition import form_cost, group_spectra, scheme_for
from enc_caffe.decomposition.energy import pca_energy
from enc_caffe.errors import MetricsError
from enc_caffe.form import Form
from enc_caffe.metrics.curves import metric_over, rank_over_metric
from enc_caffe.metrics.files import read_metrics
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from tests.decomposition.layers import conv, random_weights


def test_the_shared_files_load(shared_data: Path) -> None:
    for name, number in (("vgg16", 13), ("res56", 55)):
        table = read_metrics(shared_data / "metrics" / f"{name}.json")
        assert len(table.layers) == number
        for entry in table.layers:
            assert entry.energy[entry.max_rank] == 1 and np.all(np.diff(entry.energy) >= 0)
            measured = entry.measured(table.baseline_accuracy)
            assert measured[0] == 0 and measured[entry.max_rank] == pytest.approx(1)


def test_energy_averages_groups_and_needs_enough_values() -> None:
    np.testing.assert_allclose(pca_energy([np.array([3.0, 1.0, 1.0]), np.array([5.0, 3.0, 1.0])], 3), [0, 0, 2 / 3, 1])
    np.testing.assert_allclose(pca_energy([np.array([3.0])], 1), [0, 1])
    with pytest.raises(ValueError, match="2 singular values, but max_rank is 3"):
        pca_energy([np.array([2.0, 1.0])], 3)


def test_curves_pass_through_their_points_and_invert() -> None:
    ranks, values = np.array([2, 5, 10]), np.array([0.4, 0.8, 1.0])
    curve = metric_over(ranks, values, np.arange(11.0))
    np.testing.assert_allclose(curve[[0, 2, 5, 10]], [0, 0.4, 0.8, 1.0])
    assert np.all(np.diff(curve) > 0)
    inverse = rank_over_metric(ranks, values)
    np.testing.assert_allclose(inverse(np.array([0.0, 0.4, 0.8, 1.0, 2.0])), [0, 2, 5, 10, 10])
    # Published runs drop what comes after the first value of 1 or more, and what does not rise.
    noisy = rank_over_metric(np.array([2, 4, 5, 7, 10]), np.array([0.4, 0.3, 0.8, 1.01, 1.0]))
    assert noisy(np.array(0.8)) == pytest.approx(5) and noisy(np.array(5.0)) == pytest.approx(7)


def tucker() -> LayerMetrics:
    """A layer of the scheme of two ranks, measured at three places of its ladder."""
    layer, scheme = conv(12, 8, (3, 3)), scheme_for("tucker2")
    spectra = tuple(group_spectra(scheme.matrices(layer, random_weights(layer, 0))))
    ladder = scheme.forms(layer, spectra)
    places = (2, len(ladder) // 2, len(ladder))
    extra = (("sampled_divergence", [0.9, 0.2, 0.01]),)
    return LayerMetrics(layer, "tucker2", len(ladder), spectra, places, (0.3, 0.7, 0.8), None, extra, ladder, False)


def test_places_of_a_ladder_lie_where_their_macs_do() -> None:
    entry = tucker()
    costs = [form_cost(entry.layer, f)[0] for f in entry.ladder]
    assert entry.axis.tolist() == [0.0, *costs] and entry.forms == entry.ladder
    assert entry.form(3) == entry.ladder[2] and entry.form(entry.max_rank) == entry.ladder[-1]
    curve = entry.measured(0.8)
    assert curve.shape == (entry.max_rank + 1,) and curve[0] == 0
    np.testing.assert_allclose(curve[list(entry.sampled_ranks)], [0.3 / 0.8, 0.7 / 0.8, 1.0])
    # Between samples it follows the MACs, not the number of the place.
    middle = (entry.sampled_ranks[0] + entry.sampled_ranks[1]) // 2
    at = np.array([costs[p - 1] for p in entry.sampled_ranks])
    assert curve[middle] == pytest.approx(
        metric_over(at, np.array([0.3, 0.7, 0.8]) / 0.8, np.array([0.0, costs[middle - 1]]))[1]
    )
    added = entry.surrogate("divergence")
    np.testing.assert_allclose(added[list(entry.sampled_ranks)], np.exp([-0.9, -0.2, -0.01]))
    assert added[0] <= added.min() and np.all(np.diff(added) >= 0)
    assert entry.energy.shape == added.shape and entry.energy[0] == 0


def test_a_scheme_of_two_ranks_has_no_vbmf_rank() -> None:
    with pytest.raises(MetricsError, match="layer 'c': scheme 'tucker2' has no single rank for VBMF to estimate"):
        tucker().vbmf_rank  # noqa: B018


def test_the_curves_of_one_layer_stand_together() -> None:
    layer = conv(12, 8, (3, 3))
    one = LayerMetrics(layer, "spatial", 3, (np.array([3.0, 2, 1]),))
    assert one.form(2) == Form("spatial", (2,)) and one.axis.tolist() == [0, 1, 2, 3]
    table = MetricsTable("n", "", (one, tucker()), None, (("network_macs", 5),))
    assert [(x.name, [m.scheme for m in own]) for x, own in table.by_layer()] == [("c", ["spatial", "tucker2"])]
    assert table.known("network_macs") == 5 and table.known("first_layer") is None
