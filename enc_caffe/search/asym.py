"""Ranks of asymmetric 3-D: the greedy rule of Zhang, Zou, He, Sun (TPAMI 2016; [16] of the paper) along forms of any scheme.

Each time the layer goes to its next cheaper form that loses the least part of its energy per cost saved. With ``--metric output`` the
energy is that of the responses, which the original takes (a layer keeps exp of minus the part of its output's power that is lost); without images
it is that of the weights. The original halves the speed-up between its two splits; here forms of both ranks compete, and those that
another one beats are left out.
"""

from __future__ import annotations

from typing import Optional

from enc_caffe.search.energy import greedy
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """Ranks within the budgets.

    Raises
    ------
    InfeasibleError
        If the budgets cannot be met.
    """
    return greedy(problem, [x.metric for x in problem.layers])
