"""Metrics that the caffemodel alone gives: spectra, PCA energies and the forms at which more may be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import numpy as np

from enc_caffe.complexity import network_complexity
from enc_caffe.decomposition import Scheme, form_cost, group_spectra, pruning, scheme_for
from enc_caffe.decomposition.widths import pruned_group
from enc_caffe.errors import UsageError
from enc_caffe.form import WHOLE
from enc_caffe.metrics.sampling import Sampler, energy_samples, ladder_samples, vbmf_samples
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.metrics.vbmf import estimate
from enc_caffe.network import Network
from enc_caffe.pipeline.loading import LoadedNetwork
from enc_caffe.progress import Names, unnamed


def pca_metrics(
    loaded: LoadedNetwork, weights: Path, sampler: Sampler = energy_samples, progress: Names = unnamed, step: int = 1
) -> MetricsTable:
    """Spectra and sampled forms of every scheme that the policy lets a layer have (Eq. 1 and 2; METHOD section 3).

    ``step``: forms of several ranks, and of pruned channels, have these in multiples of it, where the layer has such.
    """
    if step < 1:
        raise UsageError(f"--multiple_of {step}: an integer of 1 or more is needed")
    loaded.check_decomposable()
    model, layers = loaded.model(weights), []
    for name, schemes in loaded.policy.schemes.items():
        blob = model.weights(loaded.network[name])[0]
        layers += [_curve(loaded, name, scheme_for(s), blob, sampler, step) for s in schemes]
        progress(name)
    whole = network_complexity(loaded.network, {})
    extra = (
        ("network_macs", whole.macs),
        ("network_parameters", whole.parameters),
        ("first_layer", _reads_data(loaded.network)),
    )
    return MetricsTable(loaded.network.name, "singular values of the caffemodel", tuple(layers), None, extra)


def _curve(
    loaded: LoadedNetwork, name: str, scheme: Scheme, blob: np.ndarray, sampler: Sampler, step: int
) -> LayerMetrics:
    layer = loaded.network[name]
    spectra = group_spectra(scheme.matrices(layer, blob))
    paper, shape = loaded.policy.paper.get(name) == scheme.name, scheme.matrix_shape(layer)
    if shape is None:
        # Where no form has such ranks, those that there are: the search leaves the layer whole, and says so.
        ladder = (scheme.stepped(layer, spectra, step) if step > 1 else ()) or scheme.forms(layer, spectra)
        places = tuple(ladder_samples([form_cost(layer, f)[0] for f in ladder], form_cost(layer, WHOLE)[0]))
        none = (None,) * len(places)
        before = _before(loaded, name) if scheme.name in pruning() else None
        return LayerMetrics(
            layer, scheme.name, len(ladder), tuple(spectra), places, none, None, (), ladder, paper, places, before
        )
    rank = scheme.max_rank(layer)
    places = tuple(sampler(spectra, shape, rank))
    kept = tuple(np.asarray(s[:rank]) for s in spectra)
    vbmf = max(1, min(rank, max(estimate(x, *shape).empirical_rank for x in spectra)))
    measured = tuple(vbmf_samples(spectra, shape, rank)) if sampler is energy_samples else places
    return LayerMetrics(
        layer, scheme.name, rank, kept, places, (None,) * len(places), vbmf, (), (), paper, measured
    )  # fmt: skip


def _before(loaded: LoadedNetwork, name: str) -> Before:
    """The layers that make what a pruned one reads: those that have curves of their own, and what a channel costs in the others."""
    network = loaded.network
    group = pruned_group(network, name)
    makers = tuple(m for m in group.makers if m in loaded.policy.schemes)
    others = [network[n] for n in (*group.makers, *group.keepers) if n not in makers and network[n].has_weights]
    costs = [form_cost(x, WHOLE, outputs=1) for x in others]
    return Before(makers, sum(m for m, _ in costs), sum(p for _, p in costs))


def _reads_data(network: Network) -> Optional[str]:
    """The convolution or fully connected layer that comes first in the order of execution."""
    return next((layer.name for layer in network.layers if layer.has_weights), None)
