"""Forms that a search has chosen, measured a second time.

A search takes of many forms those that seem fast. Where times are uncertain these are the ones that were measured too short, and a plan of them
is slower than its sum says: the winner's curse. A second measurement knows nothing of the choice, and so it counts in place of the first.

All layers of the network, whole, stand beside the forms, in turns: what the machine does meanwhile is the same for all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, Mapping

import numpy as np

from enc_caffe.form import WHOLE, Form, parse_form
from enc_caffe.measuring.clock import Timing, Timings
from enc_caffe.measuring.latency import WITHOUT, Group, Times, geometry, group_of, sweep_of
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.network import Network

#: Rounds of what is measured again, at least (those of a table are 15), and half the interval of a context, as a part of its time, at which
#: they are enough.
ROUNDS, ENOUGH = 24, 0.04


def measured_again(
    net: Any, network: Network, table: LatencyTable, plans: Iterable[Mapping[str, Form]], timer: Times, batch: int = 1,
    placement: str = "exact",
) -> LatencyTable:  # fmt: skip
    """The table with new times of all layers whole, and of those forms of some plans that were measured only once.

    Times are in the table's units: the layers whole take together what they took there. The samples of a layer, which no search has chosen
    yet, go with its time whole.

    Parameters
    ----------
    net : NetParameter
    network : Network
    table : LatencyTable
    plans : iterable of mapping of layer to Form
    timer : Times
        Measures anew, whatever it measured before.

    Raises
    ------
    RuntimeRefusal
        As the runtime's process does.
    """
    # A table may be of another network, some of whose layers this one has.
    keys = {x.name: geometry(net, network[x.name]) for x in table.layers if x.name in network}
    groups: dict[str, Group] = {}
    for name, key in keys.items():
        groups.setdefault(key, group_of(network[name], batch, timer.runtime))
    for forms in plans:
        for name, form in table.once(forms).items():
            group = groups[keys[name]]
            group.forms += [form] if form not in group.forms else []
    nets = {
        f"{at} {name}": one for at, group in enumerate(groups.values()) for name, one in group.nets(net, placement).items()
    }  # fmt: skip
    times = timer.times(nets, "the forms that were chosen", sweep_of(network, timer))
    found = {key: _own(times, at, group) for at, (key, group) in enumerate(groups.items())}
    return _updated(table, {name: found[key] for name, key in keys.items()})


def _own(times: Timings, at: int, group: Group) -> Timings:
    """Times of a layer by form; none where the runtime took it not whole, or not without it."""
    own = {n.partition(" ")[2]: t for n, t in times.items() if n.startswith(f"{at} ")}
    ends = [own.pop(n) for n in list(own) if n.startswith(WITHOUT)]
    if str(WHOLE) not in own or not ends:
        return {}
    outside = Timing(*np.mean(ends, axis=0))
    return {n: group.alone(t, outside) for n, t in own.items()}


def _updated(table: LatencyTable, found: Mapping[str, Timings]) -> LatencyTable:
    """The table with what was found by layer and form, which it gives in other units."""
    wholes = {x.name: x.whole for x in table.layers if found.get(x.name)}
    if not wholes:
        return table
    unit = sum(wholes.values()) / sum(found[n][str(WHOLE)].nanoseconds for n in wholes)
    factors, before = table.about.get("corrected", {}), int(table.about.get("again", 0))
    layers = []
    for entry in table.layers:
        own = found.get(entry.name)
        layers.append(_entry(entry, own, unit, float(factors.get(entry.scheme, 1.0)), before) if own else entry)
    return replace(table, layers=tuple(layers), about={**table.about, "again": before + 1})


def _entry(entry: LayerLatency, own: Timings, unit: float, factor: float, before: int) -> LayerLatency:
    fresh = own[str(WHOLE)].nanoseconds * unit
    # The first time whole made its forms seem worth it; later ones are alike.
    whole = max(1, round((entry.whole * before + fresh) / (before + 1)))
    # Samples of a layer were measured with it whole, and so at the same load.
    with_whole = whole / entry.whole
    known = {form for form, _, _ in entry.again}
    again = tuple(
        (form, max(1, round(own[str(form)].nanoseconds * unit * factor)), round(own[str(form)].half * unit * factor))
        for form in map(parse_form, own) if form != WHOLE and form not in known and entry.scheme in ("", form.scheme)
    )  # fmt: skip
    moved = replace(entry, again=()).scaled(with_whole, with_whole)
    return replace(moved, whole=whole, again=entry.again + again)
