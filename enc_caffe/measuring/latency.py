"""How long every layer takes in a runtime: whole, and in a sample of its forms, as they run inside the network."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Iterable, Mapping, Protocol, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost, scheme_for
from enc_caffe.errors import NetworkError, RuntimeRefusal
from enc_caffe.form import WHOLE, Form
from enc_caffe.measuring.clock import Timing, Timings, difference
from enc_caffe.measuring.contexts import context, copies_of, followers, whole_network, without
from enc_caffe.measuring.store import digest_of
from enc_caffe.metrics.latency import LatencyTable, LayerLatency
from enc_caffe.metrics.sampling import lowest_rank
from enc_caffe.network import Layer, Network
from enc_caffe.runtimes.known import Runtime
from enc_caffe.workers.limits import check_device

#: Forms of each scheme.
RANKS = 8
#: From this rank on multiples of 8 are measured, below of 4.
WIDE = 32
#: Bytes that are read between two passes of a layer: what a pass of the network reads of its weights, within these.
LEAST_SWEPT, MOST_SWEPT = 1 << 20, 1 << 25
#: A correction by the whole network is within these.
LEAST, MOST = 0.5, 2.0
#: Of schemes with a smaller part of the network's time the network's time says nothing.
SHARE = 0.1
#: Part of its time beyond which half the interval of a form says that the machine is too noisy to decide.
NOISE = 0.1

#: How the names of contexts without a layer begin.
WITHOUT = "without"
#: What networks of all geometries are called that are timed in turns.
TOGETHER = "some forms of every layer"

Words = Callable[[str], None]
Progress = Callable[[int, int], None]


def sampled_forms(layer: Layer, scheme: str, number: int = RANKS) -> list[Form]:
    """Forms to measure at, evenly from a tenth of r_max to r_max, at multiples of 8 (below 32 of 4), where runtimes take their
    steps; of forms of several ranks, those with all ranks the same part of their limits, at multiples of 4.
    """
    rules = scheme_for(scheme)
    if rules.matrix_shape(layer) is None:
        return _diagonal(layer, scheme, number)
    forms = list(rules.forms(layer, ()))
    highest = len(forms)
    places = np.linspace(lowest_rank(highest), highest, number)
    return [forms[p - 1] for p in sorted({_stepped(p, lowest_rank(highest), highest) for p in places})]


def _diagonal(layer: Layer, scheme: str, number: int) -> list[Form]:
    """Forms of several ranks, all the same part of their limits, evenly by MACs up to those of the layer: of as many layers as forms mostly
    have, so that the time of others can follow their MACs.
    """
    rules, whole = scheme_for(scheme), form_cost(layer, WHOLE)[0]
    limits, found = rules.limits(layer), dict[int, Form]()
    for part in np.linspace(0.05, 1, 8 * number):
        form = Form(scheme, tuple(_below(part * limit, limit) for limit in limits))
        cost = form_cost(layer, form)[0]
        if cost < whole:
            found.setdefault(cost, form)
    forms = [found[cost] for cost in sorted(found)] or list(rules.forms(layer, ()))
    places = np.linspace(0, len(forms) - 1, number) if forms else ()
    return [forms[p] for p in sorted({int(round(p)) for p in places})]


def _below(rank: float, limit: int) -> int:
    """The nearest multiple of 4 below the limit: a rank that is all channels has no layer of its own. Of few channels any rank."""
    if limit <= 4:
        return max(1, min(limit - 1, round(rank)))
    return max(4, min((limit - 1) // 4 * 4, round(rank / 4) * 4))


def _stepped(rank: float, low: int, high: int) -> int:
    """The nearest multiple within the bounds; r_max, and what has none, as it is."""
    step = 8 if rank >= WIDE else 4
    nearest = int(round(rank / step)) * step
    nearest += step if nearest < low else 0
    return nearest if round(rank) < high and nearest <= high else int(round(rank))


@dataclass
class Group:
    """Layers of equal geometry, timed as one.

    Attributes
    ----------
    layer : Layer
    items : int
        Images, regions or steps of a pass of the layer as it is timed.
    times : int
        How many such passes a pass of the network has.
    """

    layer: Layer
    items: int
    times: int = 1
    forms: list[Form] = field(default_factory=list)

    def nets(self, net: Any, placement: str) -> dict[str, Any]:
        """Deploy networks by name: of the form, or of the context without the layer."""
        found = {f"{WITHOUT} {i}": one for i, one in enumerate(without(net, self.layer, self.items))}
        for form in (WHOLE, *self.forms):
            found[str(form)] = context(net, self.layer, form, self.items, placement)
        return found

    def alone(self, timing: Timing, outside: Timing) -> Timing:
        """Time of the layer in a pass of the network, of its context and of that without it."""
        one = difference(timing, outside, copies_of(self.layer, self.items))
        return Timing(*(value * self.times for value in one))


def group_of(layer: Layer, batch: int, runtime: Runtime) -> Group:
    """The group of a layer that runs on so many images: on all of their regions at once, or one after the other in a runtime that takes one."""
    items = layer.items(batch)
    return Group(layer, 1, items) if runtime.one_image else Group(layer, items)


def geometry(net: Any, layer: Layer) -> str:
    """What a layer's time depends on, as a digest."""
    behind = []
    for param in followers(net, layer):
        copy = type(param)()
        copy.CopyFrom(param)
        for name in ("name", "bottom", "top", "param", "include", "exclude", "blobs"):
            copy.ClearField(name)
        copy.DiscardUnknownFields()
        behind.append(str(copy))
    return digest_of(
        [
            layer.type,
            repr(layer.convolution),
            repr(layer.inner_product),
            layer.bottom_shapes[0][1:],
            str(layer.repeats),
            behind,
        ]
    )


def groups_of(
    net: Any, network: Network, schemes: Mapping[str, Sequence[str]], batch: int, ranks: int, runtime: Runtime
) -> dict[str, Group]:  # fmt: skip
    """Groups by geometry, in the network's order, with the forms of all schemes that any of their layers may have."""
    found: dict[str, Group] = {}
    for name, own in schemes.items():
        group = found.setdefault(geometry(net, network[name]), group_of(network[name], batch, runtime))
        for scheme in own:
            group.forms += [f for f in sampled_forms(network[name], scheme, ranks) if f not in group.forms]
    return found


class Times(Protocol):
    """What gives the times of networks: a runtime here (:class:`enc_caffe.measuring.clock.Timer`), or a file from elsewhere."""

    #: Where the times are of: runtime, version, machine, threads.
    about: dict[str, Any]
    runtime: Runtime

    def times(self, nets: Mapping[str, Any], what: str, sweep: int = 0) -> Timings:
        """Times of deploy networks by name; of what the runtime refuses there is none."""


def measure_latency(
    net: Any,
    network: Network,
    schemes: Mapping[str, Sequence[str]],
    timer: Times,
    batch: int = 1,
    ranks: int = RANKS,
    placement: str = "exact",
    progress: Progress = lambda done, all_: None,
    notice: Words = lambda line: None,
) -> LatencyTable:
    """Time every layer whole and in several forms, and the network from end to end.

    Layers of equal geometry are timed once. Each is timed between two others (:mod:`enc_caffe.measuring.contexts`), all forms of a
    layer in turns. Then the whole network is timed, as it is and with all layers in one scheme, and the times of a scheme are
    multiplied by what makes their sum right.

    Parameters
    ----------
    net : NetParameter
    network : Network
    schemes : mapping of layer to names of schemes
        What is timed.
    timer : Times
    batch : int
        Images of a pass.
    ranks : int
        Forms of each scheme.
    notice : callable of a line that a person should read

    Raises
    ------
    RuntimeRefusal
        If the runtime takes no layer at all.
    """
    groups = groups_of(net, network, schemes, batch, ranks, timer.runtime)
    total, done = sum(len(g.forms) + 3 for g in groups.values()) + 1 + len(_anchored(schemes)), 0
    known: dict[str, Timings] = {}
    sweep = sweep_of(network, timer)
    for key, group in groups.items():
        known[key] = timer.times(group.nets(net, placement), f"layer '{group.layer.name}'", sweep)
        done += len(group.forms) + 3
        progress(done, total)
    known = levelled_groups(known, groups, net, timer, sweep, placement)
    entries = entries_of(net, network, schemes, ranks, known, groups, notice)
    if not entries:
        raise RuntimeRefusal(f"{timer.runtime.name} takes none of the layers of '{network.name}'")
    table = LatencyTable(network.name, tuple(entries), {**timer.about, "batch": batch, "placement": placement})
    table = anchored(table, net, network, schemes, timer, batch, ranks, placement, notice)
    progress(total, total)
    return table


def sweep_of(network: Network, timer: Times) -> int:
    """Bytes that are read between two passes of a layer: what the network's other layers read of their weights."""
    weights = 4 * sum(form_cost(layer, WHOLE)[1] for layer in network.weighted)
    return min(MOST_SWEPT, max(LEAST_SWEPT, timer.runtime.grows * weights))


def levelled_groups(
    known: Mapping[str, Timings], groups: Mapping[str, Group], net: Any, timer: Times, sweep: int, placement: str
) -> dict[str, Timings]:
    """Times of geometries, each measured at a moment of its own, as if they had all been measured at the same, which is the last.

    What a machine does beside, and its clock, change within the minutes of a table: two of the same machine had all forms of a layer a
    third dearer, and those of another a fifth cheaper. A search then takes halves where the machine was busy. So a few networks of all
    geometries are timed once more, all in turns, and the times of each geometry are multiplied by what makes them right then: right
    before the whole network is timed, of which they must be parts.
    """
    nets: dict[str, Any] = {}
    for at, (key, group) in enumerate(groups.items()):
        all_, forms = group.nets(net, placement), [str(f) for f in group.forms]
        few = {str(WHOLE), *(forms[len(forms) * part // 4] for part in (1, 3) if forms)}
        nets.update(
            {f"{at} {n}": one for n, one in all_.items() if n in known[key] and (n in few or n.startswith(WITHOUT))}
        )
    times = timer.times(nets, TOGETHER, sweep) if nets else {}
    ratios: dict[str, float] = {}
    for at, key in enumerate(groups):
        both = [
            (t.nanoseconds, known[key][n.partition(" ")[2]].nanoseconds)
            for n, t in times.items()
            if n.startswith(f"{at} ")
        ]
        if both:
            # Medians of few: one network that is off does not count.
            ratios[key] = float(np.median([new / old for new, old in both]))
    level = float(np.median(list(ratios.values()))) if ratios else 1.0
    return {
        key: {n: Timing(*(v * ratios.get(key, level) for v in t)) for n, t in own.items()} for key, own in known.items()
    }


def entries_of(
    net: Any, network: Network, schemes: Mapping[str, Sequence[str]], ranks: int, known: Mapping[str, Timings],
    groups: Mapping[str, Group], notice: Words = lambda line: None,
) -> list[LayerLatency]:  # fmt: skip
    """The table's entries from times by geometry and form."""
    entries, noisy = [], {}
    for name, own in schemes.items():
        layer, key = network[name], geometry(net, network[name])
        group, times = groups[key], known[key]
        ends = [t for n, t in times.items() if n.startswith(WITHOUT)]
        if str(WHOLE) not in times or not ends:
            continue
        # Where input and output differ in size, both ends of a context are between theirs.
        outside = Timing(*np.mean(ends, axis=0))
        whole = group.alone(times[str(WHOLE)], outside)
        for scheme in own:
            forms = [f for f in sampled_forms(layer, scheme, ranks) if str(f) in times]
            if not forms:
                continue
            made = [whole, *(group.alone(times[str(f)], outside) for f in forms)]
            worst = max(made, key=lambda t: t.half / t.nanoseconds)
            if worst.half > NOISE * worst.nanoseconds:
                noisy[name] = f"layer '{name}', {([WHOLE, *forms])[made.index(worst)]}: {worst.words()}"
            entries.append(_entry(layer, scheme, made, forms))
    if noisy:
        notice(
            f"the machine is too noisy to decide on {len(noisy)} layer(s), the first {next(iter(noisy.values()))}; give more --rounds, or "
            "measure again with less other work (--again)"
        )
    return entries


def _entry(layer: Layer, scheme: str, times: Sequence[Timing], forms: Sequence[Form]) -> LayerLatency:
    values = tuple(max(1, round(t.nanoseconds)) for t in times)
    intervals = tuple(round(t.half) for t in times)
    if scheme_for(scheme).matrix_shape(layer) is not None:
        highest, points = scheme_for(scheme).max_rank(layer), tuple(f.ranks[0] for f in forms)
        return LayerLatency(layer.name, highest, values[0], points, values[1:], scheme, (), intervals)
    costs = tuple(form_cost(layer, f)[0] for f in forms)
    return LayerLatency(layer.name, 0, values[0], costs, values[1:], scheme, tuple(forms), intervals)


def _anchored(schemes: Mapping[str, Sequence[str]]) -> list[str]:
    return list(dict.fromkeys(s for own in schemes.values() for s in own))


def _middle(names: Iterable[str], network: Network, scheme: str, ranks: int) -> dict[str, Form]:
    """Of every layer the sample in the middle, whatever the runtime took of them: the same network here and where it was exported."""
    found = {}
    for name in names:
        forms = sampled_forms(network[name], scheme, ranks)
        found[name] = forms[len(forms) // 2]
    return found


def anchored(
    table: LatencyTable, net: Any, network: Network, schemes: Mapping[str, Sequence[str]], timer: Times, batch: int,
    ranks: int, placement: str, notice: Words = lambda line: None,
) -> LatencyTable:  # fmt: skip
    """The table with the time of the network from end to end, and the times of each scheme made right by that of a network in it."""
    plans = {s: _middle([x.name for x in table.layers if x.scheme == s], network, s, ranks) for s in _anchored(schemes)}
    try:
        if timer.runtime.name == "caffe":
            check_device(net, network.name, "cpu", remedy="the runtime caffe computes there")
        nets = {"original": whole_network(net, network, {}, batch, placement)}
        nets.update({s: whole_network(net, network, forms, batch, placement) for s, forms in plans.items() if forms})
        times = timer.times(nets, "the network")
    except NetworkError as exc:
        # Its layers were timed, and a search by them alone is better than none.
        notice(str(exc))
        times = {}
    if "original" not in times:
        notice("the network was not timed from end to end: budgets of time count the layers of the table alone")
        return table
    whole = times["original"]
    # Layers that take more alone than the whole network were timed too long.
    alone = sum({x.name: x.whole for x in table.layers}.values())
    scale = min(1.0, whole.nanoseconds / alone)
    table = LatencyTable(
        table.network, tuple(x.scaled(scale, scale) for x in table.layers),
        {**table.about, "network_ns": round(whole.nanoseconds), "network_plus_minus_ns": round(whole.half)},
    )  # fmt: skip
    layers, anchors, factors = [network[n] for n in schemes], {}, {}
    for scheme, forms in plans.items():
        if forms and scheme not in times:
            notice(f"no network in the scheme {scheme} was timed from end to end: its times stay as they are")
        own = sum(table.time_of(network[n], f) for n, f in forms.items())
        if scheme in times and own > SHARE * whole.nanoseconds:
            measured, predicted = times[scheme].nanoseconds, table.predicted(layers, forms)
            factors[scheme] = float(np.clip((own + measured - predicted) / own, LEAST, MOST))
            anchors[scheme] = {"predicted_ns": predicted, "measured_ns": round(measured)}
    table = table.corrected(factors)
    return LatencyTable(table.network, table.layers, {**table.about, "scaled": scale, "anchors": anchors})
