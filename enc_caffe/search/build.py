"""From a metrics table and options to the arrays of a search problem."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Mapping, Optional, Sequence, Union

import numpy as np

from enc_caffe.decomposition import form_cost, pruning
from enc_caffe.decomposition.prune import channels_of
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.form import PAPER, WHOLE, Form
from enc_caffe.metrics.latency import LatencyTable
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.network import Layer
from enc_caffe.rounding import round_half_up
from enc_caffe.search import own, y_d
from enc_caffe.search.allowed import (
    allowed_places,
    asked_for,
    check_comparable,
    check_names,
    curve_of,
    forms_and_values,
    log_metric,
    with_values,
)
from enc_caffe.search.channels import channel_problem
from enc_caffe.search.frontier import frontier_layer
from enc_caffe.search.groups import LONGEST, Group, Member, disjoint, group_layer
from enc_caffe.search.options import RESOURCES, SearchOptions
from enc_caffe.search.problem import EVERYTHING, LISTED, SearchLayer, SearchProblem

#: Nanoseconds of a layer in a form. A :class:`LatencyTable` is one, and knows the whole network's and which forms were measured.
TimeOf = Callable[[Layer, Form], int]
#: Forms of several ranks are not measured one by one: with a table of a runtime their ranks are multiples of this, as channels are
#: packed.
PACKED = 4


class _Costs:
    """What a form of a layer costs in every resource of a problem."""

    def __init__(self, convention: str, time_of: Optional[TimeOf]) -> None:
        self.convention, self.time_of = convention, time_of
        self.resources = ("macs", "parameters", *(("latency",) if time_of else ()))
        #: What was measured alone counts.
        self.measured = time_of if isinstance(time_of, LatencyTable) and time_of.as_measured else None

    def untimed(self, layer: Layer) -> bool:
        """Whether a runtime did not take a layer: it stays whole, and its time is in that of the whole network."""
        return self.measured is not None and layer.name not in self.measured

    def of(self, layer: Layer, form: Form, outputs: Optional[int] = None) -> tuple[int, ...]:
        """In the order of the resources; ``outputs``: those that are left where channels were taken out."""
        costs = form_cost(layer, form, self.convention, outputs=outputs)
        if self.time_of is None:
            return costs
        return (*costs, 0 if self.untimed(layer) else self.time_of(layer, form))

    def timed(self, entry: LayerMetrics, places: np.ndarray) -> np.ndarray:
        """Of some places of a curve those whose time was measured; with a table of one's own all."""
        if self.measured is None:
            return places
        if not entry.ladder:
            return np.intersect1d(places, np.array(self.measured.sampled(entry.name, entry.scheme), dtype=int))
        limits = {entry.layer.in_channels, entry.layer.out_channels}
        packed = [p for p in places if all(r % PACKED == 0 or r in limits for r in entry.form(int(p)).ranks)]
        return np.array(packed, dtype=int) if packed else places

    def table(self, layer: Layer, forms: Sequence[Form]) -> dict[str, np.ndarray]:
        """Arrays of int64 by resource."""
        rows = np.array([self.of(layer, f) for f in forms], dtype=np.int64).reshape(len(forms), -1)
        return {n: rows[:, i] for i, n in enumerate(self.resources)}


def _left_out(options: SearchOptions) -> str:
    """The flags that would let more layers be searched, where their defaults keep some out."""
    flags = ["--schemes all"] * (options.schemes == PAPER)
    flags += ["--first_layer search"] * (options.first_layer_is == "keep")
    return f"; {' or '.join(flags)} may leave more" if flags else ""


def build_problem(table: MetricsTable, options: SearchOptions, time_of: Optional[TimeOf] = None) -> SearchProblem:
    """Arrays of a search problem.

    Parameters
    ----------
    table : MetricsTable
    options : SearchOptions
    time_of : callable of layer and form, optional
        Nanoseconds; needed for a budget of latency, which then counts the layers of the table.

    Raises
    ------
    UsageError
        For bounds and layers that contradict each other or the table, and for a metric that cannot compare the schemes.
    MetricsError
        If a layer lacks what the metric needs, or no layer is left to search.
    """
    check_names(table, options)
    if options.method == "y_d":
        y_d.check(table, options)
    if "latency" in options.targets and time_of is None:
        raise UsageError("--target_latency needs --latency LATENCY.json (enc-caffe latency measures one)")
    whole_network = table.known("network_macs"), table.known("network_parameters")
    everything = options.counts_all and all(isinstance(v, int) and v > 0 for v in whole_network)
    convention = options.convention or ("exact" if everything else "paper")
    if options.method in own.PRUNING:
        known_costs = dict(zip(("macs", "parameters"), whole_network)) if everything else None
        return channel_problem(table, options, convention, known_costs)
    costs = _Costs(convention, time_of)
    if isinstance(time_of, LatencyTable) and not any(m.name in time_of for m in table.layers):
        raise UsageError(
            f"--latency: its table is of '{time_of.network}', the metrics of '{table.network}': they have no layer in common; measure "
            "this network with enc-caffe latency"
        )
    originals, spent = dict.fromkeys(costs.resources, 0), dict.fromkeys(costs.resources, 0)
    fixed: dict[str, Form] = {}
    layers: list[SearchLayer] = []
    fixed_log, first = 0.0, table.known("first_layer") or table.layers[0].name
    befores = {m.name: m.before for m in table.layers if m.before is not None and asked_for(m, options)}
    groups = {n: group for group in _groups(befores, options, first, time_of is not None) for n in group.names}
    known = {layer.name: (layer, curves) for layer, curves in table.by_layer()}
    for layer, curves in table.by_layer():
        whole, group = dict(zip(costs.resources, costs.of(layer, WHOLE))), groups.get(layer.name)
        if group is not None and layer.name in group.readers:
            # What others have of the channels that this layer reads is counted with it.
            whole["macs"] += channels_of(layer) * befores[layer.name].macs
            whole["parameters"] += channels_of(layer) * befores[layer.name].parameters
        for name, value in whole.items():
            originals[name] += value
        if group is not None:
            if layer.name == group.readers[-1]:
                members = {n: _member(*known[n], n in group.readers, table, options) for n in group.names}
                layers.append(group_layer(group, members, befores, costs.of, costs.resources, _limited(options)))
            continue
        made = _layer([m for m in curves if m.before is None], table, options, costs, layer.name == first)
        if isinstance(made, SearchLayer):
            layers.append(made)
            continue
        if made is not None:
            entry, place = made
            fixed[layer.name] = entry.form(place)
            whole = dict(zip(costs.resources, costs.of(layer, fixed[layer.name])))
            fixed_log += log_metric(entry, place, table, options)
        for name, value in whole.items():
            spent[name] += value
    if not layers and options.method == "y_d":
        raise MetricsError(
            f"network '{table.network}': VBMF finds in no layer a rank that would save anything; --method y_d has no plan"
        )
    if not layers:
        raise MetricsError(
            f"network '{table.network}': no layer is left to search (first layer, --whole, --bounds, --schemes and "
            f"--multiple_of decide all){_left_out(options)}"
        )
    if isinstance(time_of, LatencyTable):
        rest = time_of.rest(layer.name for layer, _ in table.by_layer())
        originals["latency"] += rest
        spent["latency"] += rest
    if everything:
        for name, value in zip(("macs", "parameters"), whole_network):
            if value < originals[name]:
                raise MetricsError(
                    f"network '{table.network}': its layers have {originals[name]} {RESOURCES[name]}, but field "
                    f"'network_{name}' says {value} in all"
                )
            spent[name] += value - originals[name]
            originals[name] = value
    budgets = {name: part * originals[name] for name, part in options.targets.items()}
    return SearchProblem(
        tuple(layers), originals, budgets, options, fixed, spent, table.baseline_accuracy, fixed_log, convention,
        EVERYTHING if everything else LISTED,
    )  # fmt: skip


#: A layer to search, or the curve and place that are decided for it; None: it stays whole.
Made = Union[SearchLayer, tuple[LayerMetrics, int], None]


def _layer(
    curves: Sequence[LayerMetrics], table: MetricsTable, options: SearchOptions, costs: _Costs, first: bool
) -> Made:  # fmt: skip
    if options.method == "y_d":
        return _one_shot(
            [m for m in curves if options.schemes == PAPER or asked_for(m, options)], options, costs, first
        )
    able = [m for m in curves if asked_for(m, options)]
    places = [allowed_places(m, options) for m in able]
    if "latency" in options.targets:
        places = [costs.timed(m, p) for m, p in zip(able, places)]
    name = curves[0].name if curves else ""
    if name in options.whole or not any(len(p) for p in places) or (curves and costs.untimed(curves[0].layer)):
        return None
    if first and name not in options.bounds and options.first_layer_is != "search":
        if options.first_layer_is == "keep":
            return None
        if len(able) > 1 or able[0].ladder:
            raise UsageError(
                f"--first_layer half: layer '{name}' may have {', '.join(m.scheme for m in able)}; half of r_max needs one scheme "
                "of one rank (--schemes paper)"
            )
        half = max(1, round_half_up(able[0].max_rank / 2))
        return able[0], half if options.multiple_of == 1 else int(min(places[0], key=lambda r: abs(int(r) - half)))
    if options.schemes != PAPER or "latency" in options.targets:
        return _mixture(able, places, table, options, costs)
    (entry,), (ranks,) = able, places
    if len(ranks) < 2:
        return (entry, int(ranks[0])) if len(ranks) else None
    values, inverse = curve_of(entry, table, options)
    grid = [Form(entry.scheme, (r,)) for r in range(1, entry.max_rank + 1)]
    return SearchLayer(
        name, ranks, entry.max_rank, {n: np.concatenate([[0], c]) for n, c in costs.table(entry.layer, grid).items()},
        values, inverse, entry.energy, entry.vbmf_rank if options.method == "vbmf" else None, None, (WHOLE, *grid),
        described=entry.layer,
    )  # fmt: skip


def _one_shot(curves: Sequence[LayerMetrics], options: SearchOptions, costs: _Costs, first: bool) -> Made:
    """A layer with one place, the form that the rule of [13] gives it; whole where that would cost no less."""
    known = [m for m in curves if m.modes or m.layer.inner_product is not None]
    if not known or known[0].name in options.whole or (first and options.first_layer == "keep"):
        return None
    entry = next((m for m in known if m.modes), known[0])
    form = y_d.form_of(entry, first)
    if form is None or form_cost(entry.layer, form)[0] >= form_cost(entry.layer, WHOLE)[0]:
        return None
    values = np.array([0.0, entry.energy_of(form)])
    return SearchLayer(
        entry.name, np.array([1]), 1, {n: np.concatenate([[0], c]) for n, c in costs.table(entry.layer, [form]).items()},
        values, lambda y: np.ones_like(np.asarray(y, float)), values, None, None, (WHOLE, form), described=entry.layer,
    )  # fmt: skip


def _mixture(
    able: Sequence[LayerMetrics],
    places: Sequence[np.ndarray],
    table: MetricsTable,
    options: SearchOptions,
    costs: _Costs,
) -> Made:
    """The frontier of all forms of all schemes, and the layer whole, whose metric is 1."""
    check_comparable(able, options)
    layer = able[0].layer
    able, places = with_values(able, places, options)
    forms, values = forms_and_values(able, places, table, options)
    # y_p matters to A_c alone, which compares no schemes.
    energy = values
    if options.metric == "combined":
        energy = np.concatenate([[1.0], *(m.energy[own] for m, own in zip(able, places))])
    made = frontier_layer(layer.name, forms, costs.table(layer, forms), values, _limited(options), energy)
    made = replace(made, described=layer)
    if len(made.choices) > 1:
        return made
    form = made.forms[int(made.choices[0])]
    found = next(((m, int(p)) for m, own in zip(able, places) for p in own if m.form(int(p)) == form), None)
    return None if form == WHOLE else found


def _limited(options: SearchOptions) -> list[str]:
    """Resources that have budgets; an accuracy is reached by the least MACs."""
    return [n for n in RESOURCES if n in options.targets or (n == "macs" and options.target_accuracy is not None)]


def _groups(befores: Mapping[str, Before], options: SearchOptions, first: str, timed: bool) -> list[Group]:
    """Layers that are one item of the search, since some of them may read fewer channels."""
    if befores and timed:
        raise UsageError(
            f"--latency: nothing says how long layers with fewer channels take; leave {', '.join(pruning())} out of --schemes"
        )
    kept = {first} if options.first_layer_is != "search" else set()
    # With two budgets there are too many combinations of more than two layers that no other one beats.
    longest = LONGEST if len(_limited(options)) == 1 else 2
    return disjoint(befores, lambda name: name not in kept and name not in options.whole, longest)


def _member(
    layer: Layer, curves: Sequence[LayerMetrics], reads: bool, table: MetricsTable, options: SearchOptions
) -> Member:
    """A layer of a group with its forms; those that read fewer channels where it ``reads`` what the group makes."""
    asked = [m for m in curves if asked_for(m, options) and (reads or m.before is None)]
    if not asked:
        return Member(layer, (WHOLE,), np.ones(1))
    check_comparable(asked, options)
    able, places = with_values(asked, [allowed_places(m, options) for m in asked], options)
    forms, values = forms_and_values(able, places, table, options)
    return Member(layer, tuple(forms), values)
