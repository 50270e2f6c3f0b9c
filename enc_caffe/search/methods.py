"""The table of search methods: name to function of a problem and, where there are images, of a plan's accuracy."""

from __future__ import annotations

import importlib
from typing import Callable, Iterator, Mapping, Optional

from enc_caffe.errors import UsageError
from enc_caffe.search import names
from enc_caffe.search.accuracy import least_complexity
from enc_caffe.search.options import SearchOptions, space_settings
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult

Method = Callable[[SearchProblem, Optional[AccuracyOf]], SearchResult]


class _Methods(Mapping[str, Method]):
    """Methods by name; each is imported when it is asked for."""

    def __getitem__(self, name: str) -> Method:
        method: Method = importlib.import_module(f"enc_caffe.search.{names.METHODS[name]}").search
        return method

    def __iter__(self) -> Iterator[str]:
        return iter(names.METHODS)

    def __len__(self) -> int:
        return len(names.METHODS)


METHODS = _Methods()
#: Methods that choose by evaluation where images are given.
EVALUATING = ("inf", "ars", "iterative", "random", "adc", "amc")


def evaluates(options: SearchOptions) -> bool:
    """Whether a search asks for accuracies of whole networks, where images are given."""
    return options.method in EVALUATING or options.target_accuracy is not None


def method_for(name: str) -> Method:
    """Search method by name; :class:`UsageError` naming the known ones otherwise."""
    try:
        return METHODS[name]
    except KeyError:
        raise UsageError(f"--method {name}: known are {', '.join(METHODS)}") from None


def run(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """What the options of the problem ask for: the method, behind the target accuracy where there is one.

    Without a budget of MACs, a target accuracy asks for the least MACs.
    """
    method = method_for(problem.options.method)
    target = problem.options.target_accuracy
    if target is None:
        return method(problem, accuracy)
    return least_complexity(problem, method, target, accuracy)


def solver_name(problem: SearchProblem) -> str:
    """How the method finds its ranks, as the plan says it."""
    method = problem.options.method
    if method in ("model", "inf"):
        return problem.options.solver
    named = {
        "map": "mapping",
        "uniform": "scaling",
        "vbmf": "scaling",
        "heuristic": "scaling",
        "y_d": "one shot",
        "asym": "greedy",
    }
    return named.get(method, method)


def most_evaluations(options: SearchOptions, layers: int) -> int:
    """Networks that a search evaluates, nearly: for a bar of progress; 0 where that is not known."""
    if options.method in ("adc", "amc"):
        return int(options.own("episodes"))
    if options.method in ("inf", "random"):
        return space_settings(options, layers).candidates
    if options.method in ("ars", "iterative") and options.target_flops is not None:
        return int((1.0 - options.target_flops) / options.own("step") + 1) * int(options.own("shortlist"))
    return 0
