"""Tucker-2: one to three layers, exact where the weights have its ranks, and its ladder of pairs of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from enc_caffe.decomposition import chain_of, form_cost, group_spectra, scheme_for
from enc_caffe.decomposition.regression import Moments, group_weights
from enc_caffe.form import WHOLE, Form, whole_chain
from enc_caffe.network import Convolution, Layer
from tests.decomposition.layers import conv, inputs_of, random_weights, run_chain, run_layer

SCHEME = scheme_for("tucker2")


def low_rank(layer: Layer, inner: int, outer: int, seed: int = 0) -> np.ndarray:
    """Weights whose input mode has rank ``inner`` and whose output mode has rank ``outer``."""
    rng = np.random.default_rng(seed)
    core = rng.standard_normal((outer, inner, *layer.kernel))
    u, v = rng.standard_normal((layer.out_channels, outer)), rng.standard_normal((layer.in_channels, inner))
    return np.einsum("pqab,op,iq->oiab", core, u, v)


def test_three_layers_by_hand() -> None:
    layer = conv(12, 10, (3, 5), stride=(2, 1), pad=(1, 2), dilation=(1, 2))
    stages = chain_of(layer, Form("tucker2", (4, 7))).stages
    assert [s.suffix for s in stages] == ["_in", "_core", "_out"]
    assert stages[0].convolution == Convolution(4, (1, 1), bias=False)
    assert stages[1].convolution == Convolution(7, (3, 5), (2, 1), (1, 2), (1, 2), 1, False)
    assert stages[2].convolution == Convolution(12, (1, 1), bias=True)
    high, wide = layer.output
    assert form_cost(layer, Form("tucker2", (4, 7))) == (
        10 * 4 * 9 * 8 + (4 * 7 * 15 + 7 * 12) * high * wide, 10 * 4 + 4 * 7 * 15 + 7 * 12,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "suffixes"),
    [((10, 12), ["_core"]), ((10, 5), ["_core", "_out"]), ((3, 12), ["_in", "_core"]), ((3, 5), ["_in", "_core", "_out"])],
)  # fmt: skip
@pytest.mark.parametrize("bias", [True, False])
def test_a_whole_mode_needs_no_layer(ranks: tuple[int, int], suffixes: list[str], bias: bool) -> None:
    layer = conv(12, 10, (3, 3), bias=bias)
    stages = chain_of(layer, Form("tucker2", ranks)).stages
    assert [s.suffix for s in stages] == suffixes
    assert [s.convolution.bias for s in stages] == [False] * (len(stages) - 1) + [bias]
    weights = random_weights(layer, 1)
    assert len(SCHEME.factorise(layer, weights, Form("tucker2", ranks))) == len(stages)
    if len(stages) == 1:
        # All channels of both modes: the very layer, with its very weights.
        assert stages[0].convolution == layer.convolution
        (core,) = SCHEME.factorise(layer, weights, Form("tucker2", ranks))
        np.testing.assert_allclose(core, weights, rtol=1e-6)
        assert chain_of(layer, Form("tucker2", ranks)).macs(layer) == whole_chain(layer).macs(layer)


@pytest.mark.parametrize("solved", [False, True])
@pytest.mark.parametrize(("inner", "outer"), [(3, 5), (10, 5), (3, 12), (1, 1)])
@pytest.mark.parametrize("geometry", [(1, 1, 1), (2, 0, 1), (3, 2, 2)])
def test_weights_of_its_ranks_are_exact(solved: bool, inner: int, outer: int, geometry: tuple[int, int, int]) -> None:
    stride, pad, dilation = geometry
    layer = conv(12, 10, (3, 3), 1, (stride, stride), (pad, pad), (dilation, dilation), (11, 13))
    weights, form = low_rank(layer, inner, outer), Form("tucker2", (inner, outer))
    if solved:
        x = np.random.default_rng(3).standard_normal((90, 2000))
        flat = group_weights(layer, weights)[0]
        factors = SCHEME.solve(layer, weights, [Moments.of_original(x @ x.T / 2000, flat)], form)
    else:
        factors = SCHEME.factorise(layer, weights, form)
    x = inputs_of(layer, 5)
    made, wanted = run_chain(layer, chain_of(layer, form).stages, factors, x), run_layer(layer, weights, x)
    assert np.abs(made - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_with_the_input_mode_whole_it_is_the_channel_scheme() -> None:
    layer = conv(12, 4, (3, 3))
    weights, channel = random_weights(layer, 2), scheme_for("channel")
    for rank in (1, 4, 9):
        ours = SCHEME.truncated(layer, weights, Form("tucker2", (4, rank)))
        np.testing.assert_allclose(ours, channel.truncated(layer, weights, Form("channel", (rank,))), atol=1e-5)
        assert form_cost(layer, Form("tucker2", (4, rank))) == form_cost(layer, Form("channel", (rank,)))


def test_the_error_is_within_the_bound_of_the_higher_order_svd() -> None:
    layer = conv(9, 7, (3, 3))
    weights = random_weights(layer, 4)
    first, second = group_spectra(SCHEME.matrices(layer, weights))
    for q, p in ((1, 1), (3, 5), (6, 8), (7, 4)):
        lost = float(np.sum((weights - SCHEME.truncated(layer, weights, Form("tucker2", (q, p)))) ** 2))
        # De Lathauwer et al., 2000, property 10: no more than both modes' lost squares, and no less than either's.
        bound = float(np.sum(first[q:] ** 2)), float(np.sum(second[p:] ** 2))
        assert max(bound) * (1 - 1e-6) <= lost + 1e-9 and lost <= sum(bound) * (1 + 1e-6) + 1e-9


def test_the_ladder_holds_no_form_that_another_one_beats() -> None:
    layer = conv(20, 16, (3, 3))
    weights = low_rank(layer, 5, 20, 1) + 0.01 * random_weights(layer, 1)
    spectra = group_spectra(SCHEME.matrices(layer, weights))
    ladder = SCHEME.forms(layer, spectra)

    def bound(form: Form) -> float:
        # Parts of the squares of each mode, as both unfoldings hold the same squares.
        return sum(float(np.sum(s[r:] ** 2) / np.sum(s**2)) for s, r in zip(spectra, form.ranks))

    every = [Form("tucker2", (q, p)) for q in range(1, 17) for p in range(1, 21)]
    whole = form_cost(layer, WHOLE)[0]
    # Both modes have at most 24 ranks, so that every pair was looked at.
    wanted = [
        f for f in every if form_cost(layer, f)[0] < whole
        and not any(form_cost(layer, g)[0] <= form_cost(layer, f)[0] and bound(g) < bound(f) - 1e-12 for g in every)
    ]  # fmt: skip
    costs = [form_cost(layer, f)[0] for f in ladder]
    assert costs == sorted(costs) and costs[-1] < whole
    assert {(c, round(bound(f), 9)) for c, f in zip(costs, ladder)} == {
        (form_cost(layer, f)[0], round(bound(f), 9)) for f in wanted
    }
    # The input mode has rank 5 but for the noise: the first form that loses little has just that.
    assert next(f for f in ladder if bound(f) < 0.02).ranks[0] == 5
