"""ENC-Inf: the N best plans by the objective, each evaluated as a whole network; the most accurate one is taken."""

from __future__ import annotations

from typing import Optional

from enc_caffe.errors import UsageError
from enc_caffe.search.enc_model import listed
from enc_caffe.search.options import space_settings
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult, best_evaluated


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The plan with the best evaluated accuracy among the N best (the paper's section V-D, Algorithm 1).

    ENC-Model's plan is the first of them, and of plans with equal accuracy the one with the larger objective is taken: on
    the images that choose, ENC-Inf is never worse than ENC-Model.

    Raises
    ------
    UsageError
        Without images to evaluate on.
    InfeasibleError
        As ENC-Model.
    """
    if accuracy is None:
        raise UsageError("--method inf evaluates its candidates: give --model, --weights and --lmdb")
    found = listed(problem, space_settings(problem.options, len(problem.layers)).candidates)
    chosen = best_evaluated(problem, found.best, accuracy, found.candidates)
    return SearchResult(
        chosen.ranks, chosen.log_objective, found.candidates, best=found.best, evaluated=chosen.evaluated,
        space=found.space, note=found.note, accuracy=chosen.accuracy,
    )  # fmt: skip
