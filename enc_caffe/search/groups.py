"""Layers whose channels are coupled, as one item of the search: its choices are the undominated combinations.

With a pruned layer the layers before it lose outputs, so that costs do not add up over layers any more. They do over groups that share no layer: a
layer that may read fewer channels with the layers that make them, and, where it is the only reader of that, the layer after it. A choice of a
group is how many channels are left between its layers and a form of each; dynamic programming along the group, whose state is how many are left,
finds all that no other one beats. Longer chains are cut. Values stay sums over layers: what a pruned layer loses by its channels and by the form
of what is left is added up, cross terms aside; whole networks decide about what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, Iterator, Mapping, Optional, Sequence

import numpy as np

from enc_caffe.decomposition import check_form, form_cost, pruning
from enc_caffe.decomposition.prune import channels_of, narrowed
from enc_caffe.errors import PlanError
from enc_caffe.form import WHOLE, Form
from enc_caffe.metrics.table import Before
from enc_caffe.network import Layer
from enc_caffe.search.frontier import frontier_layer, undominated
from enc_caffe.search.problem import SearchLayer

#: Layers behind each other in a group at most.
LONGEST = 3

#: Costs of a layer in a form with so many outputs (None: all), by resource.
CostOf = Callable[[Layer, Form, Optional[int]], tuple[int, ...]]


@dataclass(frozen=True)
class Member:
    """A layer of a group with the forms that it may have, the first of them whole, and their metric y."""

    layer: Layer
    forms: tuple[Form, ...]
    values: np.ndarray


@dataclass(frozen=True)
class Group:
    """Layers that are one item: those that make the first channels, and readers of which each makes what the next one reads."""

    makers: tuple[str, ...]
    readers: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All layers in their order."""
        return (*self.makers, *self.readers)


def disjoint(readers: Mapping[str, Before], free: Callable[[str], bool], longest: int = LONGEST) -> list[Group]:
    """Groups that share no layer, of at most ``longest`` layers behind each other; ``free``: whether a layer may change.

    Parameters
    ----------
    readers : mapping of layer to Before, in order of execution
    """
    taken: set[str] = set()
    found: list[Group] = []
    for name, before in readers.items():
        if name in taken or not all(free(n) for n in (name, *before.makers)):
            continue
        if taken.isdisjoint(before.makers):
            found.append(Group(before.makers, (name,)))
            taken |= {name, *before.makers}
            continue
        at = next(
            (i for i, g in enumerate(found) if before.makers == g.readers[-1:] and len(g.readers) < longest - 1), None
        )
        if at is not None:
            found[at] = replace(found[at], readers=(*found[at].readers, name))
            taken.add(name)
    return found


@dataclass(frozen=True)
class _Choices:
    """Forms of some layers together: tuples in the order of the layers, costs (resources, n) and sums of log y."""

    forms: list[tuple[Form, ...]]
    costs: np.ndarray
    logs: np.ndarray

    def best(self, limited: Sequence[int]) -> _Choices:
        kept = np.sort(undominated(self.costs[limited], self.logs))
        return _Choices([self.forms[i] for i in kept], self.costs[:, kept], self.logs[kept])

    @staticmethod
    def joined(parts: Sequence[_Choices]) -> _Choices:
        """All of several."""
        costs, logs = np.concatenate([p.costs for p in parts], axis=1), np.concatenate([p.logs for p in parts])
        return _Choices([f for p in parts for f in p.forms], costs, logs)

    def times(self, other: _Choices, limited: Sequence[int]) -> _Choices:
        """The best of all combinations with those of other layers."""
        costs = (self.costs[:, :, None] + other.costs[:, None, :]).reshape(len(self.costs), -1)
        logs = (self.logs[:, None] + other.logs[None]).reshape(-1)
        kept = np.sort(undominated(costs[limited], logs))
        pairs = [divmod(int(i), len(other.forms)) for i in kept]
        return _Choices([self.forms[i] + other.forms[j] for i, j in pairs], costs[:, kept], logs[kept])


def group_layer(
    group: Group,
    members: Mapping[str, Member],
    befores: Mapping[str, Before],
    cost_of: CostOf,
    resources: Sequence[str],
    limited: Sequence[str],
) -> SearchLayer:
    """The undominated combinations of a group as a layer of the search.

    Parameters
    ----------
    members : mapping of layer to Member
        A reader's forms are those of the layer with all channels and, of schemes that take channels out, those without a form inside.
    befores : mapping of reader to Before
    resources : sequence of str
        What ``cost_of`` counts, MACs and parameters first.
    limited : sequence of str
        Those that have budgets, the main one first.
    """
    columns = [list(resources).index(n) for n in limited]

    def of(
        layer: Layer, forms: Sequence[Form], values: np.ndarray, outputs: Optional[int], apart: np.ndarray
    ) -> _Choices:
        costs = np.array([cost_of(layer, f, outputs) for f in forms], dtype=np.int64).reshape(len(forms), -1).T
        with np.errstate(divide="ignore"):
            logs = np.log(np.maximum(values, 0.0))
        return _Choices([(f,) for f in forms], costs + apart[:, None], logs).best(columns)

    reads = [list(_reading(members[n])) for n in group.readers]
    nothing = np.zeros(len(resources), dtype=np.int64)
    # By the number of channels that are left behind the layers so far.
    found: dict[int, _Choices] = {}
    for channels, outputs in _numbers(reads[0]):
        own = _Choices([()], nothing[:, None], np.zeros(1))
        for name in group.makers:
            maker = members[name]
            own = own.times(of(maker.layer, maker.forms, maker.values, outputs, nothing), columns)
        found[channels] = own
    for at, name in enumerate(group.readers):
        layer, before = members[name].layer, befores[name]
        apart = np.array([before.macs, before.parameters, *[0] * (len(resources) - 2)], dtype=np.int64)
        ends = _numbers(reads[at + 1]) if at + 1 < len(reads) else [(layer.out_channels, None)]
        found = {
            left: _Choices.joined([
                found[channels].times(of(layer, forms, values, outputs, channels * apart), columns)
                for channels, forms, values in reads[at]
            ]).best(columns)
            for left, outputs in ends
        }  # fmt: skip
    (all_,) = found.values()
    # The first is that of nothing: what the placeholders mean is which of them is which place.
    marks = [Form("choice", (i,)) for i in range(len(all_.forms))]
    costs, y = {n: all_.costs[i] for i, n in enumerate(resources)}, np.exp(all_.logs)
    made = frontier_layer("+".join(group.names), marks, costs, y, limited, y)
    pairs = tuple(tuple(zip(group.names, all_.forms[mark.ranks[0]])) for mark in made.forms)
    return replace(made, forms=(), together=pairs)


def _numbers(reads: Sequence[tuple[int, list[Form], np.ndarray]]) -> list[tuple[int, Optional[int]]]:
    """How many channels a reader may be left with, and the same for those who make them; None: all."""
    most = max(channels for channels, _, _ in reads)
    return [(channels, channels if channels < most else None) for channels, _, _ in reads]


def _reading(reader: Member) -> Iterator[tuple[int, list[Form], np.ndarray]]:
    """For every number of channels: the reader's forms and their y."""
    taking = pruning()
    full = [i for i, f in enumerate(reader.forms) if f.scheme not in taking]
    forms = [reader.forms[i] for i in full]
    yield channels_of(reader.layer), forms, reader.values[full]
    numbers = sorted({f.ranks[0] for f in reader.forms if f.scheme in taking})
    for number in numbers:
        own = [i for i, f in enumerate(reader.forms) if f.scheme in taking and f.ranks[0] == number]
        best = max(own, key=lambda i: float(reader.values[i]))
        outer, value, small = reader.forms[best], float(reader.values[best]), narrowed(reader.layer, number)
        most = form_cost(small, WHOLE)
        found, values = [outer], [value]
        for form, y in zip(forms, reader.values[full]):
            if form != WHOLE and _worth(small, form, most):
                found.append(replace(outer, inside=(form,)))
                values.append(value * float(y))
        yield number, found, np.array(values)


def _worth(small: Layer, form: Form, most: tuple[int, int]) -> bool:
    """Whether what is left of a layer can take a form, and gains by it."""
    try:
        check_form(small, form)
    except PlanError:
        return False
    cost = form_cost(small, form)
    return cost[0] < most[0] or cost[1] < most[1]
