"""What is left to do of a compression with images: what the store and the files beside it have is not done again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from enc_caffe.runtime.arrays import factor_file
from enc_caffe.runtime.decomposer import Decomposer
from enc_caffe.runtime.measure import Pair, named
from enc_caffe.runtime.measuring import Subject, counts_key
from enc_caffe.runtime.moments import moment_file


@dataclass(frozen=True)
class Remaining:
    """What is not known yet.

    Attributes
    ----------
    moments : frozenset of layer
    factors : frozenset of (layer, rank)
    metrics : mapping of (layer, rank) to the part of the images that it was not measured on
    """

    moments: frozenset[str]
    factors: frozenset[Pair]
    metrics: Mapping[Pair, float]

    @property
    def measured(self) -> float:
        """Part of the metrics that is known."""
        return 1.0 - sum(self.metrics.values()) / max(1, len(self.metrics))


def everything(ranks: Mapping[str, Sequence[int]]) -> Remaining:
    """Nothing is known of these layers and ranks."""
    pairs = [(name, rank) for name, own in ranks.items() for rank in own]
    return Remaining(frozenset(ranks), frozenset(pairs), dict.fromkeys(pairs, 1.0))


def remaining(decomposer: Decomposer, ranks: Mapping[str, Sequence[int]]) -> Remaining:
    """What is left of the moments, factors and metrics of these layers and ranks."""
    whole, made = everything(ranks), decomposer.made
    if made.store is None:
        return whole
    moments, factors = decomposer.folder("moments"), decomposer.folder("factors")
    schemes = {name: decomposer.schemes[name] for name in ranks}
    return Remaining(
        frozenset(n for n in whole.moments if not moment_file(moments, n).exists()),
        frozenset((n, r) for n, r in whole.factors if not factor_file(factors, n, schemes[n], r).exists()),
        _unmeasured(made, schemes, decomposer.key(), list(whole.metrics)),
    )


def _unmeasured(
    made: Subject, schemes: Mapping[str, str], key: Mapping[str, Any], pairs: Sequence[Pair]
) -> dict[Pair, float]:
    assert made.store is not None
    known = made.store.known(made.context(counts_key(made, schemes, key)))
    images = made.look.images
    spans = [(start, min(start + made.chunk, images)) for start in range(0, images, made.chunk)]
    return {
        pair: sum(stop - start for start, stop in spans if (named(pair), start, stop) not in known) / images
        for pair in pairs
    }
