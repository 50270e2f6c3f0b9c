"""Which forms a plan can still want, while their divergences are being measured.

At a price of a MAC each layer takes the form of the least divergence plus price times MACs, and a lower target of MACs has a
higher price (Lagrange). A form that at every price of the targets that count is surely dearer than another form of its layer,
or than the whole layer, is too far above, or too far below, what a plan can use.
"""

from __future__ import annotations

from typing import Optional, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost
from enc_caffe.form import WHOLE
from enc_caffe.measuring.early import Seen, Undecided
from enc_caffe.measuring.layers import Pair
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search.multipliers import Stage, dual_multipliers

#: Parts of the layers' MACs that a plan is looked for at where no target is known, and what a known one may be off by.
TARGETS, NEAR = (0.2, 0.9), 1.25
#: How far beyond the prices of the targets a price may lie: what is known so far moves them.
BEYOND = 2.0


def can_be_wanted(table: MetricsTable, target: Optional[float] = None) -> Undecided:
    """The forms that go on: those that are not surely dearer than another one at every price.

    Parameters
    ----------
    table : MetricsTable
        Its layers' forms are what is measured.
    target : float, optional
        Part of the layers' MACs that is asked for.
    """
    costs = {
        (layer.name, m.form(r)): form_cost(layer, m.form(r))[0]
        for layer, curves in table.by_layer()
        for m in curves
        # What a layer does not read costs the layers before it nothing either, so that its own MACs do not judge it.
        if m.before is None
        for r in m.sampled_ranks
    }
    whole = {layer.name: form_cost(layer, WHOLE)[0] for layer, _ in table.by_layer()}
    parts = TARGETS if target is None else (target / NEAR, min(1.0, target * NEAR))

    def undecided(seen: Seen) -> list[Pair]:
        pairs: dict[str, list[Pair]] = {}
        for pair in seen.means:
            if pair in costs:
                pairs.setdefault(pair[0], []).append(pair)
        kept = [p for p in seen.means if p not in costs]
        if not pairs:
            return kept
        prices = _prices(
            [(whole[n], [(costs[p], float(seen.means[p].mean())) for p in own]) for n, own in pairs.items()], parts
        )
        for name, own in pairs.items():
            for pair in own:
                others: list[Optional[Pair]] = [None, *(p for p in own if p != pair)]
                saved = [costs[pair] - (whole[name] if p is None else costs[p]) for p in others]
                if _has_a_price(saved, [seen.excess(pair, p) for p in others], prices):
                    kept.append(pair)
        return kept

    return undecided


def _has_a_price(saved: Sequence[int], excess: Sequence[float], prices: tuple[float, float]) -> bool:
    """Whether at some price no other form is surely cheaper: by MACs that it saves, and divergence that it has more at most."""
    # Of each other form price times saved <= excess, which bounds the price from above or from below.
    least, most = prices
    for macs, more in zip(saved, excess):
        if macs == 0 and more < 0:
            return False
        if macs > 0:
            most = min(most, more / macs)
        elif macs < 0:
            least = max(least, more / macs)
    return least <= most * (1 + 1e-9)


def _prices(layers: list[tuple[int, list[tuple[int, float]]]], parts: tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest price of a MAC at which plans between these parts of the MACs are optimal, by the means so far."""
    stages = [
        Stage(np.array([[w], *[[c] for c, _ in own]], dtype=np.int64), -np.array([0.0, *[d for _, d in own]]))
        for w, own in layers
    ]
    all_, least = sum(w for w, _ in layers), sum(int(s.costs.min()) for s in stages)
    found = [float(dual_multipliers(stages, np.array([max(least, round(p * all_))]))[0]) for p in parts]
    return min(found) / BEYOND, max(found) * BEYOND
