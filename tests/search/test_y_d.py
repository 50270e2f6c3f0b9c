"""Tucker-2 in one shot: VBMF's ranks of matrices of known rank, the first layer, fully connected ones, and budgets."""

from __future__ import annotations

import numpy as np
import pytest

from enc_caffe.decomposition import group_spectra, scheme_for, schemes
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.form import Form
from enc_caffe.metrics.table import LayerMetrics, MetricsTable
from enc_caffe.network import Convolution, InnerProduct, Layer
from enc_caffe.pipeline.planning import search_plan
from enc_caffe.search.build import build_problem
from tests.search.tables import entry, options

MODES = next(n for n, s in schemes().items() if s.modes)


def curves(layer: Layer, weights: np.ndarray, scheme: str) -> LayerMetrics:
    rules = scheme_for(scheme)
    spectra = tuple(group_spectra(rules.matrices(layer, weights)))
    forms = () if rules.matrix_shape(layer) else rules.forms(layer, spectra)
    return LayerMetrics(layer, scheme, len(forms) or rules.max_rank(layer), spectra, ladder=forms)


def convolution(name: str, inputs: int, outputs: int, ranks: tuple[int, int], seed: int = 0) -> LayerMetrics:
    """A 3x3 layer whose channel modes have these ranks, and a little noise."""
    rng, (q, p) = np.random.default_rng(seed), ranks
    core = rng.standard_normal((p, q, 3, 3))
    sides = (np.linalg.qr(rng.standard_normal((n, r)))[0] for n, r in ((outputs, p), (inputs, q)))
    weights = np.einsum("op,pqab,iq->oiab", next(sides), core, next(sides))
    weights += 1e-3 * rng.standard_normal(weights.shape)
    shapes = ((1, inputs, 8, 8),), ((1, outputs, 8, 8),)
    geometry = Convolution(outputs, (3, 3), pad=(1, 1))
    layer = Layer(name, "Convolution", bottom_shapes=shapes[0], top_shapes=shapes[1], convolution=geometry)
    return curves(layer, weights, MODES)


def connected(name: str, rank: int, noise: float = 1e-3) -> LayerMetrics:
    rng = np.random.default_rng(rank)
    weights = rng.standard_normal((40, rank)) @ rng.standard_normal((rank, 60)) + noise * rng.standard_normal((40, 60))
    layer = Layer(name, "InnerProduct", bottom_shapes=((1, 60),), top_shapes=((1, 40),), inner_product=InnerProduct(40))
    scheme = next(n for n, s in schemes().items() if not s.refuses(layer))
    return curves(layer, weights, scheme)


def found(*layers: LayerMetrics, **changes):
    table = MetricsTable("net", "", layers, 1.0, (("first_layer", layers[0].name),))
    return search_plan(table, options(method="y_d", schemes="all", **changes))


def test_both_modes_get_the_rank_that_they_have() -> None:
    for ranks in ((4, 6), (3, 9), (7, 2)):
        plan = found(convolution("first", 3, 24, (3, 5)), convolution("next", 24, 32, ranks), connected("fc", 6)).plan
        assert plan.forms["next"] == Form(MODES, ranks)
        # The layer that reads the data: its output mode alone.
        assert plan.forms["first"] == Form(MODES, (3, 5))
        assert plan.forms["fc"].ranks == (6,) and plan.forms["fc"].scheme != MODES


def test_forms_need_not_be_on_the_ladder() -> None:
    wide = convolution("wide", 64, 64, (13, 22))
    assert Form(MODES, (13, 22)) not in wide.forms
    assert found(convolution("first", 3, 24, (3, 5)), wide).plan.forms["wide"] == Form(MODES, (13, 22))


def test_where_nothing_is_saved_or_all_is_noise_a_layer_stays_whole() -> None:
    full, noise = convolution("full", 8, 8, (8, 8)), connected("noise", 1, 1e3)
    plan = found(convolution("first", 3, 24, (3, 5)), full, noise).plan
    assert set(plan.forms) == {"first"}
    with pytest.raises(MetricsError, match="VBMF finds in no layer a rank that would save anything"):
        found(full, noise)


def test_it_says_how_far_it_is_from_a_budget_and_needs_none() -> None:
    layers = convolution("first", 3, 24, (3, 5)), convolution("next", 24, 32, (4, 6))
    for target, word in ((0.9, "below"), (0.01, "above")):
        result = found(*layers, target_flops=target)
        ratio = result.plan.about.flops_ratio
        off = f"{ratio:.4f} of the MACs, {abs(ratio - target):.4f} {word} the target {target:g}"
        assert off in result.plan.about.note and result.plan.about.gap is None
    free = found(*layers, target_flops=None)
    assert free.plan.forms == result.plan.forms and free.plan.about.note is None


def test_what_it_does_not_know_is_refused() -> None:
    spatial = MetricsTable("net", "", (entry("l0", 8, 8, 0),), 1.0)
    with pytest.raises(UsageError, match=r"no scheme with a rank for each channel mode; compute them with --schemes"):
        build_problem(spatial, options(method="y_d"))
    layers = convolution("first", 3, 24, (3, 5)), convolution("next", 24, 32, (4, 6))
    with pytest.raises(UsageError, match="--bounds: --method y_d takes the ranks that its rule finds"):
        found(*layers, bounds={"next": (1, 2)})
    with pytest.raises(UsageError, match="--multiple_of 4: --method y_d"):
        found(*layers, multiple_of=4)
