"""One-shot ranks by empirical VBMF, the rank rule of Kim et al. (ICLR 2016; [13] of the paper)."""

from __future__ import annotations

from typing import Optional

from enc_caffe.errors import MetricsError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.uniform import scaled


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The VBMF ranks times the largest common factor that stays within the budgets.

    The rule itself knows no budget: where its own ranks cost less, the factor is above 1, and ``level`` says it.

    Raises
    ------
    InfeasibleError
        If a budget is below what the lowest ranks cost.
    MetricsError
        If a layer has no VBMF rank.
    """
    ranks = []
    for layer in problem.layers:
        if layer.vbmf_rank is None:
            raise MetricsError(f"layer '{layer.name}': no VBMF rank is known")
        ranks.append(layer.vbmf_rank)
    highest = max(x.max_rank / r for x, r in zip(problem.layers, ranks))
    return scaled(problem, ranks, highest)
