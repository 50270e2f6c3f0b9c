"""Both ways to a decomposition: LAPACK's, and by the smaller Gram matrix for large matrices."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from enc_caffe.decomposition import svd

SHAPES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@pytest.fixture(params=[0, svd.LARGE], ids=["gram", "lapack"], scope="module")
def way(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svd, "LARGE", request.param)
        patch.setattr(svd, "CHUNK", 5)
        yield request.param


def matrix_of(shape, rank, seed, dead=0):
    """Single precision, of a rank at most, singular values over four decades, the last rows zero."""
    random = np.random.default_rng(seed)
    rank = min(rank, *shape)
    made = (
        random.standard_normal((shape[0], rank)) * np.logspace(0, -4, rank) @ random.standard_normal((rank, shape[1]))
    )
    made[len(made) - min(dead, len(made)) :] = 0
    return made.astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, rank=st.integers(1, 24), seed=st.integers(0, 99), dead=st.integers(0, 3))
def test_the_parts_multiply_to_the_matrix_and_are_orthonormal(way, shape, rank, seed, dead):
    matrix = matrix_of(shape, rank, seed, dead)
    u, s, vt = svd.decompose(matrix)
    k = min(shape)
    assert (u.shape, s.shape, vt.shape) == ((shape[0], k), (k,), (k, shape[1]))
    assert {u.dtype, s.dtype, vt.dtype} == {np.dtype(np.float32)}
    largest = max(np.linalg.norm(matrix, 2), 1e-30)
    np.testing.assert_allclose(u * s @ vt, matrix, rtol=0, atol=3e-6 * largest)
    kept = s > 1e-4 * largest  # A direction that is but rounding has no direction.
    np.testing.assert_allclose(u.T[kept] @ u[:, kept], np.eye(kept.sum()), atol=1e-5)
    np.testing.assert_allclose(vt[kept] @ vt.T[:, kept], np.eye(kept.sum()), atol=2e-2)
    true = scipy.linalg.svdvals(matrix.astype(np.float64))
    np.testing.assert_allclose(s, true, rtol=0, atol=2e-6 * largest)
    (spectrum,) = svd.group_spectra([matrix])
    assert spectrum.dtype == np.float64 and np.all(np.diff(spectrum) <= 0) and np.all(spectrum >= 0)
    np.testing.assert_allclose(spectrum, true, rtol=0, atol=1e-7 * largest)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, rank=st.integers(1, 24), seed=st.integers(0, 99))
def test_cut_factors_are_the_nearest_of_their_rank(way, shape, rank, seed):
    matrix = matrix_of(shape, 24, seed)
    rank = min(rank, *shape)
    left, right = svd.split_evenly(*svd.decompose(matrix), rank)
    assert (left.shape, right.shape) == ((shape[0], rank), (rank, shape[1]))
    true = scipy.linalg.svdvals(matrix.astype(np.float64))
    error = np.linalg.norm(left.astype(np.float64) @ right - matrix)
    assert error == pytest.approx(np.sqrt(np.square(true[rank:]).sum()), abs=1e-5 * true[0])
    np.testing.assert_allclose(np.square(left).sum(0), np.square(right).sum(1), rtol=1e-3, atol=1e-9)  # split evenly


def test_a_matrix_of_zeros_has_finite_factors(way):
    left, right = svd.split_evenly(*svd.decompose(np.zeros((4, 7), np.float32)), 3)
    assert not left.any() and not right.any()
    assert not svd.group_spectra([np.zeros((7, 4), np.float32)])[0].any()


def test_double_precision_keeps_its_digits(way):
    # Half of them would be lost by the Gram matrix.
    matrix = np.diag([1.0, 1e-12])
    assert svd.decompose(matrix)[1] == pytest.approx([1, 1e-12], rel=1e-3)
    assert svd.group_spectra([matrix])[0] == pytest.approx([1, 1e-12], rel=1e-3)


def test_a_matrix_of_millions_goes_by_the_gram_matrix_and_is_nearer():
    """As many weights as AlexNet's fully connected layers have at least, with no limit changed."""
    matrix = np.random.default_rng(0).standard_normal((32, svd.LARGE // 32 + 1)).astype(np.float32)
    true = scipy.linalg.svdvals(matrix.astype(np.float64))
    np.testing.assert_allclose(svd.group_spectra([matrix])[0], true, rtol=1e-9)
    u, s, vt = svd.decompose(matrix)
    lapack = scipy.linalg.svd(matrix, full_matrices=False)[1]
    assert np.abs(s - true).max() <= np.abs(lapack - true).max()
    np.testing.assert_allclose(u * s @ vt[:, :500], matrix[:, :500], atol=1e-5)
