"""The table of search methods: name to function of a problem and, where there are images, of a plan's accuracy."""

from __future__ import annotations

from typing import Callable, Optional

from enc_caffe.errors import UsageError
from enc_caffe.search import (
    adc,
    amc,
    ars,
    asym,
    enc_inf,
    enc_map,
    enc_model,
    energy,
    heuristic,
    lagrangian,
    random_search,
    uniform,
    vbmf,
    y_d,
)
from enc_caffe.search.accuracy import least_complexity
from enc_caffe.search.options import SearchOptions, space_settings
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult

Method = Callable[[SearchProblem, Optional[AccuracyOf]], SearchResult]

METHODS: dict[str, Method] = {
    "map": enc_map.search,
    "model": enc_model.search,
    "inf": enc_inf.search,
    "uniform": uniform.search,
    "vbmf": vbmf.search,
    "energy": energy.search,
    "ars": ars.search,
    "iterative": ars.search,
    "random": random_search.search,
    "heuristic": heuristic.search,
    "lagrangian": lagrangian.search,
    "y_d": y_d.search,
    "adc": adc.search,
    "amc": amc.search,
    "asym": asym.search,
}
#: Methods that choose by evaluation where images are given.
EVALUATING = ("inf", "ars", "iterative", "random", "adc", "amc")


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
