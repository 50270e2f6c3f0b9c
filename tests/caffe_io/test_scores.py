"""Where the class scores are, of whatever layers they come from, and what stands for them where there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from enc_caffe.caffe_io.scores import Scores, find_scores, values_of_image
from enc_caffe.errors import NetworkError
from tests.caffe_io.test_variants import INPUT, LMDB, SHAPES, conv, fc, layer, read


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        # A loss comes before accuracies and Softmax layers, and the last loss before its auxiliaries.
        (
            LMDB
            + fc("aux", "data", 7)
            + layer("l1", "SoftmaxWithLoss", "aux label")
            + fc("fc", "data")
            + layer("p", "Softmax", "aux")
            + layer("l2", "SoftmaxWithLoss", "fc label"),
            Scores("fc", "label", 5),
        ),
        (LMDB + fc("fc", "data") + layer("a", "Accuracy", "fc label"), Scores("fc", "label", 5)),
        (INPUT + fc("fc", "data") + layer("prob", "Softmax", "fc"), Scores("fc", None, 5)),
        # Whoever asks for the best class afterwards changes nothing about the scores.
        (
            INPUT + fc("fc", "data") + layer("prob", "Softmax", "fc") + layer("best", "ArgMax", "prob"),
            Scores("fc", None, 5),
        ),
        # Labels may be of either head, where nothing reads labels.
        (
            INPUT
            + fc("one", "data", 7)
            + layer("p1", "Softmax", "one")
            + fc("two", "data")
            + layer("p2", "Softmax", "two"),
            Scores("two", None, 5, others=("one",)),
        ),
    ],
)
def test_the_last_layer_that_reads_scores(tmp_path: Path, body: str, wanted: Scores) -> None:
    _, network = read(tmp_path, body, SHAPES if "label" in body else None)
    assert find_scores(network) == wanted


def test_scores_of_places_are_an_output_like_any_other(tmp_path: Path) -> None:
    _, network = read(tmp_path, INPUT + conv("c", "data") + layer("prob", "Softmax", "c"))
    with pytest.raises(NetworkError, match="one set for each place of an image"):
        find_scores(network)
    assert find_scores(network, any_output=True) == Scores("c", None, 5 * 8 * 8, softmax=False)


def test_a_network_without_scores_is_measured_by_what_it_ends_in(tmp_path: Path) -> None:
    _, network = read(tmp_path, INPUT + conv("c", "data", 4))
    with pytest.raises(NetworkError, match="class scores cannot be found"):
        find_scores(network)
    assert find_scores(network, any_output=True) == Scores("c", None, 4 * 8 * 8, softmax=False)


def test_values_of_an_image_where_time_comes_first(tmp_path: Path) -> None:
    _, network = read(tmp_path, INPUT + conv("c", "data"))
    assert values_of_image(network, (2, 5, 3)) == 15
    assert values_of_image(network, (26, 2, 37)) == 26 * 37
    # No whole number of values for each of the two images: as if the first axis were theirs.
    assert values_of_image(network, (3, 5, 3)) == 15
