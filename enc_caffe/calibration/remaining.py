"""What is left to do of a compression with images: what the store and the files beside it have is not done again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Mapping, Sequence

from enc_caffe.calibration.decomposer import Decomposer
from enc_caffe.calibration.moments import moment_file
from enc_caffe.form import Form
from enc_caffe.measuring.factors import factor_file
from enc_caffe.measuring.layers import Pair, named
from enc_caffe.measuring.subject import Subject, counts_key


@dataclass(frozen=True)
class Remaining:
    """What is not known yet.

    Attributes
    ----------
    moments : frozenset of layer
    factors : frozenset of (layer, form)
    metrics : mapping of (layer, form) to the part of the images that it was not measured on
    """

    moments: frozenset[str]
    factors: frozenset[Pair]
    metrics: Mapping[Pair, float]

    @property
    def measured(self) -> float:
        """Part of the metrics that is known."""
        return 1.0 - sum(self.metrics.values()) / max(1, len(self.metrics))


def everything(forms: Mapping[str, Sequence[Form]]) -> Remaining:
    """Nothing is known of these layers and forms."""
    pairs = [(name, form) for name, own in forms.items() for form in own]
    return Remaining(frozenset(forms), frozenset(pairs), dict.fromkeys(pairs, 1.0))


def remaining(decomposer: Decomposer, forms: Mapping[str, Sequence[Form]]) -> Remaining:
    """What is left of the moments, factors and metrics of these layers and forms."""
    whole, made = everything(forms), decomposer.made
    if made.store is None:
        return whole
    kind = "factors-fisher" if decomposer.factors_kind == "fisher" else "factors"
    moments, factors = decomposer.folder("moments"), decomposer.folder(kind)
    return Remaining(
        frozenset(n for n in whole.moments if not moment_file(moments, n).exists()),
        frozenset((n, f) for n, f in whole.factors if not factor_file(factors, n, f).exists()),
        _unmeasured(made, decomposer.key(), list(whole.metrics)),
    )


def _unmeasured(made: Subject, key: Mapping[str, Any], pairs: Sequence[Pair]) -> dict[Pair, float]:
    assert made.store is not None
    known = made.store.known(made.context(counts_key(made, key)))
    images = made.look.images
    spans = [(start, min(start + made.chunk, images)) for start in range(0, images, made.chunk)]
    return {
        pair: sum(stop - start for start, stop in spans if (named(pair), start, stop) not in known) / images
        for pair in pairs
    }
