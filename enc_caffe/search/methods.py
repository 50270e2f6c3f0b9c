"""The table of search methods: name to function of a problem."""

from __future__ import annotations

from typing import Callable

from enc_caffe.errors import UsageError
from enc_caffe.search import enc_map, exact, uniform
from enc_caffe.search.problem import SearchProblem, SearchResult

METHODS: dict[str, Callable[[SearchProblem], SearchResult]] = {
    "map": enc_map.search,
    "model": exact.search,
    "uniform": uniform.search,
}


#: How each method finds its ranks, as the plan says it.
SOLVERS = {"map": "mapping", "model": "exact"}


def method_for(name: str) -> Callable[[SearchProblem], SearchResult]:
    """Search method by name; :class:`UsageError` naming the known ones otherwise."""
    try:
        return METHODS[name]
    except KeyError:
        raise UsageError(f"--method {name}: known are {', '.join(METHODS)}") from None
