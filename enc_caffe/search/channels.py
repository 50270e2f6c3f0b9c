"""How many channels each layer reads, as a problem of the search: AMC's.

A convolution costs the product of the channels that it reads and those that it makes, so that costs do not add up over
layers. Here every layer that alone decides on what it reads has one place, the number of channels that are left, and costs are counted
of all places together; nothing is cut into groups. Methods that go by each layer's own costs do not apply.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence

import numpy as np

from enc_caffe.decomposition import form_cost, pruning, scheme_for
from enc_caffe.decomposition.prune import channels_of
from enc_caffe.errors import MetricsError, UsageError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.curves import inverse_of_curve
from enc_caffe.metrics.table import Before, LayerMetrics, MetricsTable
from enc_caffe.rounding import round_half_up
from enc_caffe.search.options import SearchOptions
from enc_caffe.search.problem import EVERYTHING, LISTED, SearchLayer, SearchProblem

#: What is counted of channels: nothing says how long layers with fewer of them take.
COUNTED = ("macs", "parameters")


@dataclass(frozen=True)
class Products:
    """Costs that are products of the channels read and made, summed over L layers.

    Attributes
    ----------
    units : mapping of resource to ndarray of int64, shape (L,)
        Cost of one channel read for one made.
    reads, makes : ndarray of int, shape (L,)
        The place that says how many channels a layer reads, or has left of those it makes; -1: all.
    read, made : ndarray of int64, shape (L,)
        All of them.
    beside : mapping of resource to ndarray of int64, shape (places,)
        Cost of one channel in all layers that are not among the L.
    """

    units: Mapping[str, np.ndarray]
    reads: np.ndarray
    makes: np.ndarray
    read: np.ndarray
    made: np.ndarray
    beside: Mapping[str, np.ndarray]

    def of(self, resource: str, channels: np.ndarray) -> np.ndarray:
        """Costs (n,) of rows (n, places) of numbers of channels."""
        left = np.asarray(channels, dtype=np.int64)
        # A column more, which stands for places that there are not.
        wide = np.concatenate([left, np.zeros((len(left), 1), np.int64)], axis=1)
        read = np.where(self.reads < 0, self.read, wide[:, self.reads])
        made = np.where(self.makes < 0, self.made, wide[:, self.makes])
        return np.asarray((read * made) @ self.units[resource] + left @ self.beside[resource])


@dataclass(frozen=True)
class ChannelProblem(SearchProblem):
    """A problem whose places are numbers of channels, and whose costs are not a sum over its layers."""

    products: Optional[Products] = field(default=None, compare=False)

    def costs_of(self, resource: str, rows: np.ndarray) -> np.ndarray:
        """Costs (n,) of rows (n, layers) of places."""
        assert self.products is not None
        return self.fixed_costs.get(resource, 0) + self.products.of(resource, rows)

    def cost(self, resource: str, ranks: Sequence[int]) -> int:
        """Cost of the counted layers at these numbers of channels."""
        return int(self.costs_of(resource, np.array([ranks]))[0])

    def span(self, resource: str) -> tuple[int, int]:
        """Least and most of all places."""
        low, high = ([int(v) for v in ends] for ends in zip(*((x.low, x.high) for x in self.layers)))
        return self.cost(resource, low), self.cost(resource, high)

    def remedies(self, name: str) -> str:
        """What would let the cost fall further."""
        return "lower --floor or --bounds"


def channel_problem(
    table: MetricsTable, options: SearchOptions, convention: str, whole: Optional[Mapping[str, int]]
) -> ChannelProblem:
    """A place for every layer that may read fewer channels.

    Parameters
    ----------
    whole : mapping of resource to int, optional
        What the whole network costs, where that is what counts.

    Raises
    ------
    UsageError
        Where other schemes are asked for beside one that takes channels out, or a time.
    MetricsError
        If no layer may read fewer channels.
    """
    rule = _rule(table, options)
    first = table.known("first_layer") or table.layers[0].name
    kept = {first} if options.first_layer_is != "search" else set()
    befores = {m.name: m.before for m in table.layers if m.scheme == rule and m.before is not None}
    readers = {m.name: m for m in table.layers if m.scheme == rule and m.before is not None}
    stay = kept | options.whole
    free = [m for n, m in readers.items() if stay.isdisjoint((n, *befores[n].makers))]
    layers = [_layer(m, options) for m in free]
    if not layers:
        raise MetricsError(
            f"network '{table.network}': no layer is left to prune (first layer, --whole, --bounds and --multiple_of decide all)"
        )
    products = _products(table, {x.name: i for i, x in enumerate(layers)}, befores, convention)
    # What stands beside a reader that keeps all of its channels.
    rest = [(channels_of(m.layer), befores[n]) for n, m in readers.items() if m not in free]
    spent = {"macs": sum(c * b.macs for c, b in rest), "parameters": sum(c * b.parameters for c, b in rest)}
    every = np.array([[x.max_rank for x in layers]])
    originals = {n: int(products.of(n, every)[0]) + spent[n] for n in COUNTED}
    if whole is not None:
        spent = {n: spent[n] + whole[n] - originals[n] for n in COUNTED}
        originals = {n: whole[n] for n in COUNTED}
    budgets = {name: part * originals[name] for name, part in options.targets.items()}
    return ChannelProblem(
        tuple(layers), originals, budgets, options, {}, spent, table.baseline_accuracy, 0.0, convention,
        EVERYTHING if whole is not None else LISTED, products,
    )  # fmt: skip


def _rule(table: MetricsTable, options: SearchOptions) -> str:
    """The one scheme that takes channels out."""
    names = () if isinstance(options.schemes, str) else options.schemes
    if len(names) != 1 or names[0] not in pruning():
        asked = options.schemes if isinstance(options.schemes, str) else ",".join(names)
        raise UsageError(
            f"--method {options.method} prunes channels and does nothing else, but --schemes {asked} is asked for; give one of "
            f"{', '.join(pruning())} (AMC's own rule is prune_magnitude), in metrics too"
        )
    if "latency" in options.targets:
        raise UsageError(
            f"--target_latency: nothing says how long layers with fewer channels take, and --method {options.method} makes them; "
            "give --target_flops or --target_params"
        )
    return str(names[0])


def _layer(entry: LayerMetrics, options: SearchOptions) -> SearchLayer:
    layer, most = entry.layer, channels_of(entry.layer)
    scheme = scheme_for(entry.scheme)
    grid = [Form(entry.scheme, (k,)) for k in range(1, most)]
    energy = np.concatenate([[0.0], scheme.energy(layer, entry.singular_values, grid), [1.0]])
    low, high = max(1, round_half_up(options.floor * most)), most
    if entry.name in options.bounds:
        lowest, highest = options.bounds[entry.name]
        low, high = lowest if lowest is not None else low, highest if highest is not None else high
        if not 1 <= low <= high <= most:
            raise UsageError(f"--bounds {entry.name}={low}:{high}: 1 <= lowest <= highest <= {most} channels is needed")
    numbers = np.arange(low, high + 1)
    allowed = numbers[(numbers % options.multiple_of == 0) | (numbers == most)]
    # What it costs alone, all others whole: where a walk stands, and no more.
    own = form_cost(layer, WHOLE)
    costs = {n: own[i] * np.arange(most + 1, dtype=np.int64) // most for i, n in enumerate(COUNTED)}
    return SearchLayer(
        entry.name, allowed, most, costs, energy, inverse_of_curve(energy, np.arange(most + 1, dtype=float)), energy,
        forms=(WHOLE, *grid, WHOLE), described=layer,
    )  # fmt: skip


def _products(
    table: MetricsTable, places: Mapping[str, int], befores: Mapping[str, Before], convention: str
) -> Products:
    by_layer = [layer for layer, _ in table.by_layer()]
    at = {layer.name: i for i, layer in enumerate(by_layer)}
    reads, makes = np.full(len(by_layer), -1), np.full(len(by_layer), -1)
    beside = {n: np.zeros(len(places), np.int64) for n in COUNTED}
    for name, place in places.items():
        reads[at[name]], before = place, befores[name]
        makes[[at[m] for m in before.makers]] = place
        beside["macs"][place], beside["parameters"][place] = before.macs, before.parameters
    # Layers that no place changes count as one product of 1 and 1: with groups they are none of channels.
    alone = (reads < 0) & (makes < 0)
    read = np.where(alone, 1, [channels_of(x) for x in by_layer]).astype(np.int64)
    made = np.where(alone, 1, [x.out_channels for x in by_layer]).astype(np.int64)
    costs = np.array([form_cost(x, WHOLE, convention) for x in by_layer], dtype=np.int64)
    units = {n: costs[:, i] // (read * made) for i, n in enumerate(COUNTED)}
    return Products(units, reads, makes, read, made, beside)
