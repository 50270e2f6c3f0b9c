"""The least complexity whose accuracy reaches a target: f_A-C, in front of any search method (the paper's section V-D)."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Optional

from enc_caffe.errors import InfeasibleError
from enc_caffe.search.enc_map import predicted_accuracy
from enc_caffe.search.options import RESOURCES
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult

Method = Callable[[SearchProblem, Optional[AccuracyOf]], SearchResult]

#: Steps of the bisection over the budget: by prediction down to 2^-24 of C_orig, by evaluation to 2^-8.
PREDICTED_STEPS, EVALUATED_STEPS = 24, 8


def least_complexity(
    problem: SearchProblem, method: Method, target: float, accuracy: Optional[AccuracyOf] = None, resource: str = "macs"
) -> SearchResult:
    """The cheapest result of a method whose accuracy reaches ``target``, by bisection over its budget.

    Parameters
    ----------
    problem : SearchProblem
        Its budgets of other resources hold too; one of ``resource`` is the upper end.
    method : callable
    target : float
        Accuracy in (0, 1].
    accuracy : callable, optional
        Accuracy of a plan by evaluation; else it is predicted (baseline times A_m).
    resource : str

    Returns
    -------
    SearchResult
        The predicted (or evaluated) accuracy stands in ``accuracy``. Evaluated accuracies need not rise with the budget;
        then this is a place where they cross the target.

    Raises
    ------
    InfeasibleError
        If the largest budget does not reach the target.
    """
    whole = problem.originals[resource]
    lowest = problem.cost(resource, [x.low for x in problem.layers]) / whole
    high = min(1.0, problem.budgets.get(resource, whole) / whole)
    high = max(high, min(1.0, problem.cost(resource, [x.high for x in problem.layers]) / whole)) if resource not in problem.budgets else high  # fmt: skip

    def at(part: float) -> SearchResult:
        result = method(problem.with_budget(resource, part), accuracy)
        value = accuracy(result.ranks) if accuracy else predicted_accuracy(problem, result.ranks)
        return replace(result, accuracy=value)

    best = at(high)
    assert best.accuracy is not None
    if best.accuracy < target:
        kind = "evaluated" if accuracy else "predicted"
        raise InfeasibleError(
            f"--target_accuracy {target}: {kind} accuracy is {best.accuracy:.4f} at {high:.4f} of the {RESOURCES[resource]}, "
            f"{target - best.accuracy:.4f} below it; lower the target, or raise the other budgets"
        )
    low = lowest
    for _ in range(EVALUATED_STEPS if accuracy else PREDICTED_STEPS):
        middle = (low + high) / 2
        if middle <= lowest:
            break
        try:
            found = at(middle)
        except InfeasibleError:
            # The other budgets, or the space, leave no plan there.
            low = middle
            continue
        assert found.accuracy is not None
        if found.accuracy >= target:
            # What a plan costs, not what it was allowed: the next budget lies below that.
            best, high = found, min(middle, problem.ratio(resource, found.ranks))
        else:
            low = middle
        if high - low <= 0:
            break
    return best
