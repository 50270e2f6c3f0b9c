"""Layers whose channels are coupled, as one item of the search: its choices are the undominated combinations.

With a pruned layer the layers before it lose outputs, so that costs do not add up over layers any more. They do over groups that share no layer: a
group is a layer that may read fewer channels and the layers that make them, and a choice of it is how many are left and a form of each layer.
Every layer is in one group at most, the earlier one of two. Values stay sums over layers: what a pruned layer loses by its channels and by the form
of what is left is added up, which is no less than what the two lose apart from cross terms; whole networks decide about what was chosen.
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

#: Costs of a layer in a form with so many outputs (None: all), by resource.
CostOf = Callable[[Layer, Form, Optional[int]], tuple[int, ...]]


@dataclass(frozen=True)
class Member:
    """A layer of a group with the forms that it may have, the first of them whole, and their metric y."""

    layer: Layer
    forms: tuple[Form, ...]
    values: np.ndarray


def disjoint(readers: Mapping[str, Before], free: Callable[[str], bool]) -> dict[str, Before]:
    """Of the layers that may read fewer channels those whose groups share no layer, in order; ``free``: whether a layer may change."""
    taken: set[str] = set()
    found = {}
    for name, before in readers.items():
        own = {name, *before.makers}
        if own & taken or not all(free(n) for n in own):
            continue
        taken |= own
        found[name] = before
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

    def times(self, other: _Choices) -> _Choices:
        forms = [a + b for a in self.forms for b in other.forms]
        costs = (self.costs[:, :, None] + other.costs[:, None, :]).reshape(len(self.costs), -1)
        return _Choices(forms, costs, (self.logs[:, None] + other.logs[None]).reshape(-1))


def group_layer(
    reader: Member,
    makers: Sequence[Member],
    before: Before,
    cost_of: CostOf,
    resources: Sequence[str],
    limited: Sequence[str],
) -> SearchLayer:
    """The undominated combinations of a group as a layer of the search.

    Parameters
    ----------
    reader : Member
        Its forms are those of the layer with all channels and, of schemes that take channels out, those without a form inside.
    resources : sequence of str
        What ``cost_of`` counts, MACs and parameters first.
    limited : sequence of str
        Those that have budgets, the main one first.
    """
    columns = [list(resources).index(n) for n in limited]
    apart = np.array([before.macs, before.parameters, *[0] * (len(resources) - 2)], dtype=np.int64)

    def of(layer: Layer, forms: Sequence[Form], values: np.ndarray, outputs: Optional[int]) -> _Choices:
        costs = np.array([cost_of(layer, f, outputs) for f in forms], dtype=np.int64).reshape(len(forms), -1).T
        with np.errstate(divide="ignore"):
            return _Choices([(f,) for f in forms], costs, np.log(np.maximum(values, 0.0))).best(columns)

    parts = []
    for channels, forms, values in _reading(reader):
        outputs = channels if channels < channels_of(reader.layer) else None
        own = of(reader.layer, forms, values, None)
        own = replace(own, costs=own.costs + channels * apart[:, None])
        for maker in makers:
            own = own.times(of(maker.layer, maker.forms, maker.values, outputs)).best(columns)
        parts.append(own)
    all_ = [f for p in parts for f in p.forms]
    costs, logs = np.concatenate([p.costs for p in parts], axis=1), np.concatenate([p.logs for p in parts])
    names = (reader.layer.name, *(m.layer.name for m in makers))
    # Which of them is which place is what the placeholders say.
    marks = [Form("choice", (i,)) for i in range(len(all_))]
    made = frontier_layer(
        "+".join(names), marks, {n: costs[i] for i, n in enumerate(resources)}, np.exp(logs), limited, np.exp(logs)
    )
    pairs = tuple(tuple(zip(names, all_[mark.ranks[0]])) for mark in made.forms)
    return replace(made, forms=(), together=pairs)


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
