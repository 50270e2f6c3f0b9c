"""Columns of inputs against the definition of a convolution, written out."""

from __future__ import annotations

import numpy as np
import pytest

from enc_caffe.decomposition.patches import patch_size, patches, sampled_positions
from enc_caffe.network import Convolution, InnerProduct, Layer

CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1), ((3, 5), (2, 1), (1, 2), (1, 1), 2), ((1, 3), (1, 2), (0, 3), (1, 2), 1),
    ((2, 2), (2, 3), (0, 0), (3, 1), 2), ((1, 1), (2, 2), (0, 0), (1, 1), 4),
]  # fmt: skip


def layer(kernel, stride, pad, dilation, groups) -> Layer:
    """A convolution of 4 channels on 9 x 8 images."""
    high, wide = (
        (n + 2 * p - e * (k - 1) - 1) // s + 1 for n, k, s, p, e in zip((9, 8), kernel, stride, pad, dilation)
    )
    conv = Convolution(8, kernel, stride, pad, dilation, groups)
    return Layer("c", "Convolution", ("x",), ("c",), ((2, 4, 9, 8),), ((2, 8, high, wide),), convolution=conv)


@pytest.mark.parametrize("case", CASES)
def test_weights_times_patches_is_the_convolution(case) -> None:
    conv = layer(*case)
    kernel, stride, pad, dilation, groups = case
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((2, 4, 9, 8)), rng.standard_normal((8, 4 // groups, *kernel))
    high, wide = conv.output
    wanted = np.zeros((2, 8, high, wide))
    for n, o, i, j in np.ndindex(wanted.shape):
        group = o // (8 // groups)
        for c, a, b in np.ndindex(w.shape[1:]):
            row, column = i * stride[0] + a * dilation[0] - pad[0], j * stride[1] + b * dilation[1] - pad[1]
            if 0 <= row < 9 and 0 <= column < 8:
                wanted[n, o, i, j] += w[o, c, a, b] * x[n, group * (4 // groups) + c, row, column]
    for group in range(groups):
        columns = patches(x, conv, group)
        assert columns.shape == (patch_size(conv), 2 * high * wide)
        rows = slice(group * 8 // groups, (group + 1) * 8 // groups)
        got = (w[rows].reshape(8 // groups, -1) @ columns).reshape(-1, 2, high, wide).transpose(1, 0, 2, 3)
        np.testing.assert_allclose(got, wanted[:, rows], atol=1e-5)


def test_sampled_positions_are_some_of_all() -> None:
    conv = layer((3, 3), (1, 1), (1, 1), (1, 1), 1)
    assert sampled_positions(conv, 72, 0) is None
    some = sampled_positions(conv, 20, 5)
    assert some is not None and len(set(some)) == 20 and set(some) <= set(range(72))
    np.testing.assert_array_equal(some, sampled_positions(conv, 20, 5))
    x = np.random.default_rng(0).standard_normal((1, 4, 9, 8))
    np.testing.assert_array_equal(patches(x, conv, 0, some), patches(x, conv, 0)[:, some])


def test_a_fully_connected_layer_sees_all_of_its_input() -> None:
    fc = Layer("f", "InnerProduct", ("x",), ("f",), ((2, 3, 2, 2),), ((2, 5),), inner_product=InnerProduct(5))
    x = np.arange(24.0).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(patches(x, fc, 0), x.reshape(2, 12).T)
