"""AMC: channels by a reinforcement-learning agent, after He, Lin, Liu, Wang, Li, Han (ECCV 2018; [4] of the paper).

The DDPG agent that ADC has over ranks, here over the channels that layers read. Every layer that alone decides on what it reads is
one action, the part of its channels that is kept; the layers that make them lose the others. Which ones go is for the scheme to say:
by the weights' magnitude as in AMC, or by LASSO or least error.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Optional

from enc_caffe.search.channels import ChannelProblem
from enc_caffe.search.episodes import best_episode
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.walk import ChannelWalk


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The most accurate of all episodes' plans.

    Raises
    ------
    UsageError
        Without images to evaluate on.
    InfeasibleError
        If the budgets cannot be met.
    """
    assert isinstance(problem, ChannelProblem)
    found = best_episode(problem, accuracy, ChannelWalk)
    # What other numbers of channels could reach is not known.
    return replace(found, gap=math.inf)
