"""ADC: ranks by a reinforcement-learning agent, after He and Han (arXiv 1802.03494; [17] of the paper).

One DDPG agent walks the layers; every episode is one evaluation of a whole network. The same agent over channels is AMC
(:mod:`enc_caffe.search.amc`).
"""

from __future__ import annotations

from typing import Optional

from enc_caffe.search.episodes import best_episode
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.walk import RankWalk


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The most accurate of all episodes' plans.

    Raises
    ------
    UsageError
        Without images to evaluate on.
    InfeasibleError
        If the budgets cannot be met.
    """
    return best_episode(problem, accuracy, RankWalk)
