"""Plans by time that keep what they promise: chosen forms measured again, and the target of the table moved until whole networks meet it.

A search takes, of many forms, those whose measured times happened to be too short. Where the runtime is here these are measured again, and
the search is made anew, until it chooses none that was measured only once. Where it is not, uncertain forms count as slower
(:meth:`enc_caffe.metrics.latency.LatencyTable.cautious`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Mapping, Optional, Protocol, Sequence

import numpy as np

from enc_caffe.errors import InfeasibleError, RuntimeRefusal
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.latency import LatencyTable
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.network import Layer
from enc_caffe.pipeline.planning import Found
from enc_caffe.pipeline.timing import Measured, Words

#: A plan's network takes at most the target, and no less than this part below it, where that can be had.
APART = 0.05
#: Where between both it is aimed.
AIM = 0.975
#: Plans that are timed from end to end, at most.
TRIES = 4
#: How often forms are measured again, at most.
AGAIN = 6
#: A target of the table is moved by so much at most in one step where nothing is known on its other side.
STEP = 1.35
#: How often a target that nothing reaches is raised, and by what.
RAISES, RAISED = 4, 1.06
#: A factor of a correction is within these.
LEAST, MOST = 0.5, 2.0

#: A search by a table within a part of the network's time: the plan, and the metrics with what it measured.
Search = Callable[[LatencyTable, float], tuple[Found, MetricsTable]]
#: The same where the plan alone is of interest.
Draft = Callable[[LatencyTable, float], Found]


class Ends(Protocol):
    """What times whole networks and forms (:class:`enc_caffe.pipeline.timing.EndToEnd`)."""

    def plans(self, plans: Sequence[tuple[Mapping[str, Form], float]]) -> list[Measured]:
        """Networks of plans, each with its predicted part of the original's time, and the original, all in turns."""

    def again(self, table: LatencyTable, plans: Sequence[Mapping[str, Form]]) -> LatencyTable:
        """The table with new times of those forms of plans that were measured only once."""


@dataclass(frozen=True)
class Tried:
    """A plan that was timed.

    Attributes
    ----------
    asked, predicted, took : float
        Parts of the original's time: what the table was asked for, what it said, and from end to end.
    """

    asked: float
    predicted: float
    found: Found
    metrics: MetricsTable
    took: float = 0.0


def correction(
    table: LatencyTable, layers: Mapping[str, Layer], forms: Mapping[str, Form], ratio: float
) -> LatencyTable:
    """The table with all schemes made so much slower or faster that a plan in them takes this part of the original's time.

    All by the same factor, those too that the plan does not use: a table has been made right by scheme when it was measured, and what changed
    since is mostly the machine. A factor of each scheme's own is a few percent of a network over the time of few layers: a scheme that seems
    cheap by it is taken everywhere, and is not.
    """
    assert table.network_time is not None
    own = sum(table.time_of(layers[n], f) for n, f in forms.items() if f != WHOLE and n in table)
    if not own:
        return table
    predicted = table.predicted([layers[n] for n in layers if n in table], forms)
    factor = float(np.clip((own + ratio * table.network_time - predicted) / own, LEAST, MOST))
    return table.corrected({x.scheme: factor for x in table.layers})


def aimed(tried: Sequence[tuple[float, float]], target: float) -> float:
    """The part of the time to ask a table for, so that a plan's network takes about :data:`AIM` of the target.

    Between plans on both sides of it by interpolation; with all on one side in proportion to the nearest, by :data:`STEP` at most.

    Parameters
    ----------
    tried : sequence of (asked, took)
        Parts of the original's time.
    """
    goal = AIM * target
    below, above = [t for t in tried if t[1] <= goal], [t for t in tried if t[1] > goal]
    nearest = min(tried, key=lambda t: abs(t[1] - goal))
    if below and above:
        low, high = max(below, key=lambda t: t[1]), min(above, key=lambda t: t[1])
        if low[0] < high[0]:
            return low[0] + (goal - low[1]) / (high[1] - low[1]) * (high[0] - low[0])
    return float(min(1.0, nearest[0] * np.clip(goal / nearest[1], 1 / STEP, STEP)))


def known_again(draft: Draft, table: LatencyTable, ends: Ends, target: float) -> LatencyTable:
    """The table with those forms measured again that a plan for the target is of, until it is of no other ones.

    After :data:`AGAIN` times it stays as it is then.
    """
    for _ in range(AGAIN):
        try:
            forms = draft(table, target).plan.forms
        except InfeasibleError:
            # By new times the target is out of reach.
            break
        if not table.once(forms):
            break
        after = ends.again(table, [forms])
        if after == table:
            break
        table = after
    return table


def settled(
    search: Search,
    table: LatencyTable,
    ends: Ends,
    target: float,
    notice: Words,
    value_of: Callable[[Found], float] = lambda found: found.result.log_objective,
    draft: Optional[Draft] = None,
) -> tuple[Found, MetricsTable, LatencyTable]:
    """The plan of a search by a table whose forms were measured again, and whose network takes the target or up to 5% less.

    Of several plans the best by ``value_of`` (the search's objective) is taken of those whose time is within the target; where there is
    none, the fastest, and it is said where that takes over 5% more. The table is then made right by that plan.

    Parameters
    ----------
    draft : callable, optional
        A search that costs little, and chooses about the same forms: it says first which are to be measured again.
    """
    if draft is not None:
        # What cannot be reached by any measured form is an error before anything is timed.
        draft(table, target)
        table = known_again(draft, table, ends, target)
    tried: list[Tried] = []
    asked, missed, again = target, 0, 0
    while len(tried) < TRIES:
        try:
            found, metrics = search(table, asked)
        except InfeasibleError as exc:
            missed += 1
            if missed > RAISES or not (tried or table.about.get("again")):
                if not tried:
                    # The error is of what was asked for, and not of what it was raised to.
                    search(table, target)
                    raise
                notice(f"with a smaller target of the table the search finds nothing, and what was timed stays: {exc}")
                break
            asked = min(1.0, asked * RAISED) if not tried else (asked + min(t.asked for t in tried)) / 2
            continue
        forms = found.plan.forms
        if table.once(forms) and again < AGAIN:
            again += 1
            after = ends.again(table, [forms])
            if after != table:
                table = after
                continue
        if any(t.found.plan.forms == forms for t in tried):
            break
        new = Tried(asked, found.plan.about.latency_ratio or 1.0, found, metrics)
        try:
            # All of them once more: how much of the original's time a plan takes is another one where the machine does something else.
            measured = ends.plans([(t.found.plan.forms, t.predicted) for t in (*tried, new)])
        except RuntimeRefusal as exc:
            notice(f"not timed from end to end: {exc}")
            if not tried:
                return found, metrics, table
            break
        tried = [replace(t, took=m.ratio) for t, m in zip((*tried, new), measured)]
        if any((1 - APART) * target <= t.took <= target for t in tried):
            break
        following = aimed([(t.asked, t.took) for t in tried], target)
        # Another budget binds, or all forms that pay are in use: more time changes nothing.
        if following > asked and new.predicted < asked * (1 - APART):
            break
        if len(tried) < TRIES:
            notice(f"{measured[-1].words()}; searched again within {following:.3f}")
        asked = following
    return _best(tried, table, target, notice, value_of)


def _best(
    tried: Sequence[Tried], table: LatencyTable, target: float, notice: Words, value_of: Callable[[Found], float]
) -> tuple[Found, MetricsTable, LatencyTable]:
    within = [t for t in tried if t.took <= target]
    best = (
        max(within, key=lambda t: value_of(t.found) if len(within) > 1 else 0.0)
        if within
        else min(tried, key=lambda t: t.took)
    )
    if best.took > target * (1 + APART):
        notice(
            f"--target_latency {target}: the fastest plan of those that were timed takes {best.took:.3f} of the original's time"
        )
    plan, layers = best.found.plan, {layer.name: layer for layer, _ in best.metrics.by_layer()}
    left = table.once(plan.forms)
    if left and table.about.get("again"):
        name, form = next(iter(left.items()))
        notice(
            f"{len(left)} of {len(plan.forms)} forms were measured only once, the first layer '{name}', {form}: their times may be too short"
        )
    table = correction(table, layers, plan.forms, best.took)
    about = replace(plan.about, latency_ratio=best.took, targets={**(plan.about.targets or {}), "latency": target})
    return replace(best.found, plan=replace(plan, about=about)), best.metrics, table
