"""The metrics format: what is written is read again, and what is wrong is named."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest

from enc_caffe.errors import MetricsError
from enc_caffe.metrics.curves import metric_at_every_rank, rank_over_metric
from enc_caffe.metrics.pca import pca_energy
from enc_caffe.metrics.table import read_metrics, write_metrics

GOOD = {
    "format": "enc-caffe-metrics/1", "network": "n", "source": "test", "baseline_accuracy": 0.8, "later": [1],
    "layers": [{
        "name": "conv", "type": "Convolution", "scheme": "spatial", "in_channels": 4, "out_channels": 4, "kernel": [3, 3],
        "stride": [1, 1], "groups": 1, "output": [5, 5], "max_rank": 6, "singular_values": [[6, 5, 4, 3, 2, 1]],
        "sampled_ranks": [1, 3, 3, 6], "sampled_accuracy": [0.2, None, 0.6, 0.8],
    }],
}  # fmt: skip


def saved(tmp_path: Path, **changes: object) -> Path:
    """The good file with fields of its one layer changed (None takes the field away)."""
    data = copy.deepcopy(GOOD)
    for key, value in changes.items():
        target = data if key in data else data["layers"][0]
        if value is None:
            target.pop(key)
        else:
            target[key] = value
    (tmp_path / "m.json").write_text(json.dumps(data))
    return tmp_path / "m.json"


def test_round_trip(tmp_path: Path) -> None:
    table = read_metrics(saved(tmp_path))
    entry = table.layers[0]
    assert entry.sampled_ranks == (1, 3, 6) and entry.sampled_accuracy == (0.2, 0.6, 0.8)
    np.testing.assert_allclose(entry.energy, [0, 0, 5 / 15, 9 / 15, 12 / 15, 14 / 15, 1])
    ranks, values = entry.measured_points(table.baseline_accuracy)
    np.testing.assert_allclose(values, [0.25, 0.75, 1.0])
    write_metrics(tmp_path / "again.json", table)
    again = read_metrics(tmp_path / "again.json")
    assert again.extra == (("later", [1]),)
    assert again.layers[0].layer.convolution.kernel == (3, 3)
    assert again.layers[0].sampled_accuracy == entry.sampled_accuracy


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "enc-caffe-metrics/2"}, "format is 'enc-caffe-metrics/2'; 'enc-caffe-metrics/1' is needed"),
        ({"layers": []}, "field 'layers' must be a list of at least one layer"),
        ({"max_rank": None}, "layer 'conv': field 'max_rank' is missing"),
        ({"scheme": "tucker"}, "layer 'conv': unknown scheme 'tucker'"),
        ({"singular_values": [[1, 2, 3, 4, 5, 6]]}, "layer 'conv': field 'singular_values' must decrease"),
        ({"singular_values": [[6, 5, 4]]}, "layer 'conv': 3 singular_values, but max_rank is 6"),
        ({"singular_values": [[6, 5, 4, 3, 2, -1]]}, "finite values of 0 or more"),
        ({"max_rank": 13, "singular_values": [list(range(13, 0, -1))]}, "max_rank 13 is above 12"),
        ({"sampled_ranks": [1]}, "layer 'conv': 1 sampled_ranks, but 4 sampled_accuracy"),
        ({"sampled_ranks": [0, 1, 2, 3]}, "sampled rank 0 is outside 1 to max_rank 6"),
        ({"sampled_accuracy": [0.1, 0.2, 0.3, float("nan")]}, "holds NaN or infinity"),
        ({"baseline_accuracy": 7}, "baseline_accuracy is 7"),
        ({"kernel": 3}, "wrong type or length"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(MetricsError) as caught:
        read_metrics(saved(tmp_path, **changes))
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "m.json"))
    assert len(str(caught.value).splitlines()) == 1


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
    curve = metric_at_every_rank(ranks, values, 10)
    np.testing.assert_allclose(curve[[0, 2, 5, 10]], [0, 0.4, 0.8, 1.0])
    assert np.all(np.diff(curve) > 0)
    inverse = rank_over_metric(ranks, values)
    np.testing.assert_allclose(inverse(np.array([0.0, 0.4, 0.8, 1.0, 2.0])), [0, 2, 5, 10, 10])
    # Published runs drop what comes after the first value of 1 or more, and what does not rise.
    noisy = rank_over_metric(np.array([2, 4, 5, 7, 10]), np.array([0.4, 0.3, 0.8, 1.01, 1.0]))
    assert noisy(np.array(0.8)) == pytest.approx(5) and noisy(np.array(5.0)) == pytest.approx(7)
