"""Directions of the scores: what they give is the Fisher information, exactly or on average."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enc_caffe.measuring.probes import (
    FEW,
    MOST,
    complement,
    number_of_probes,
    predicted,
    predicted_each,
    probes_of,
    softmax_of,
)
from enc_caffe.measuring.scores import divergence, squared_error, units_of


def information(scores: np.ndarray) -> np.ndarray:
    """diag(p) - p p' of one image."""
    p = softmax_of(scores)
    return np.diag(p) - np.outer(p, p)


@given(st.integers(0, 2**32 - 1), st.integers(2, MOST + 1))
def test_with_few_classes_the_quadratic_form_is_exact(seed: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores, change = rng.normal(0, 3, (4, classes)), rng.normal(0, 1, (4, classes))
    probes = probes_of(scores, True, 0)
    assert probes.directions.shape == (4, classes - 1, classes)
    moved = np.einsum("nmk,nk->nm", probes.directions, change)
    wanted = 0.5 * np.mean([d @ information(s) @ d for s, d in zip(scores, change)])
    assert predicted(moved, probes.roots) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    # And what the softmax itself says, of which the quadratic form is the beginning.
    assert predicted(moved, probes.roots, scores) == pytest.approx(divergence(scores, scores + change) / 4, rel=1e-9)
    small = predicted(1e-4 * moved, probes.roots, scores)
    assert small == pytest.approx(1e-8 * wanted, rel=1e-2, abs=1e-18)


@pytest.mark.parametrize("spread", (0.1, 2.0, 8.0))
def test_with_many_classes_nothing_is_left_out_on_average(spread: float) -> None:
    rng = np.random.default_rng(7)
    scores = np.repeat(rng.normal(0, spread, (1, 40)), 600, axis=0)
    change = rng.normal(0, 1, 40)
    probes = probes_of(scores, True, 0)
    assert probes.directions.shape[1] == number_of_probes(40, True) == FEW
    each = np.sum((probes.directions @ change) ** 2, axis=1)
    # 600 random rows: their mean is near.
    assert each.mean() == pytest.approx(change @ information(scores[0]) @ change, rel=0.25)
    # The first rows are exact: no image differs in them, whatever is drawn.
    assert np.allclose(probes.directions[0, :-1], probes.directions[-1, :-1])


@pytest.mark.parametrize("outputs", (1, MOST, 50))
def test_outputs_of_any_kind_cost_their_mean_squared_error(outputs: int) -> None:
    rng = np.random.default_rng(0)
    scores, change = rng.normal(0, 3, (2000, outputs)), np.broadcast_to(rng.normal(0, 1, outputs), (2000, outputs))
    probes = probes_of(scores, False, 0)
    moved = np.einsum("nmk,nk->nm", probes.directions, change)
    assert predicted(moved, probes.roots) == pytest.approx(np.mean(change**2), rel=1e-9 if outputs <= MOST else 0.1)


@pytest.mark.parametrize("sizes", ((3,), (2, 4), (30, 20)))
def test_several_outputs_cost_what_is_counted_of_them(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    scales = np.repeat(10.0 ** np.arange(len(sizes)), sizes)
    scores = scales * rng.normal(0, 1, (2000, sum(sizes)))
    change = np.broadcast_to(scales * rng.normal(0, 0.1, sum(sizes)), scores.shape)
    units = units_of(scores, sizes)
    probes = probes_of(scores, False, 0, units)
    moved = np.einsum("nmk,nk->nm", probes.directions, change)
    wanted = squared_error(scores, scores + change, units) / len(scores)
    assert predicted(moved, probes.roots) == pytest.approx(wanted, rel=1e-9 if sum(sizes) <= MOST else 0.1)


def test_what_is_drawn_depends_on_the_image_alone() -> None:
    scores = np.random.default_rng(1).normal(0, 1, (6, 30))
    whole, part = probes_of(scores, True, 10), probes_of(scores[2:], True, 12)
    assert np.array_equal(whole.directions[2:], part.directions)


def test_certain_images_and_a_single_class_have_no_direction() -> None:
    scores = np.array([[0.0, 2000.0, 0.0]])
    assert not np.any(probes_of(scores, True, 0).roots)
    many = np.zeros((1, 30))
    many[0, 3] = 2000.0
    assert np.allclose(probes_of(many, True, 0).directions, 0.0)
    assert not np.any(probes_of(np.ones((2, 1)), True, 0).directions)


def test_changes_of_thousands_are_finite_where_the_softmax_is_certain() -> None:
    scores = np.array([[40000.0, 0.0, -3000.0], [1.0, 0.5, 0.0], [0.0, 0.0, 0.0]], np.float32)
    target = np.array([[0.0, 30000.0, 0.0], [1.5, 0.0, 0.0], [0.0, 2000.0, 0.0]])
    changes = (target - scores) @ complement(3).T
    found = predicted_each(changes, np.zeros((3, 2, 2)), scores)
    # By definition: what was certain has e^-30000 left, and of three alike two have e^-2000.
    exact = float(np.sum(softmax_of(scores[1:2]) * (np.log(softmax_of(scores[1:2])) - np.log(softmax_of(target[1:2])))))
    np.testing.assert_allclose(found, [30000.0, exact, 2000.0 * 2 / 3 - np.log(3)], rtol=1e-6)
