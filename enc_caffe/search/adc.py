"""ADC: ranks by a reinforcement-learning agent, after He and Han (arXiv 1802.03494; [17] of the paper).

One DDPG agent walks the layers; every episode is one evaluation of a whole network. The same agent with channel pruning as
its actions would be AMC [4]; over ranks it is not, and is not called so.
"""

from __future__ import annotations

from typing import Optional

from enc_caffe.agents.ddpg import Schedule, train
from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult, main_budget
from enc_caffe.search.walk import RankWalk


def search(problem: SearchProblem, accuracy: Optional[AccuracyOf] = None) -> SearchResult:
    """The most accurate of all episodes' plans, the earliest of equals.

    Raises
    ------
    UsageError
        Without images to evaluate on.
    InfeasibleError
        If the budgets cannot be met.
    """
    if accuracy is None:
        raise UsageError("--method adc evaluates every episode: give --model, --weights and --lmdb")
    problem.check_feasible()
    if not problem.fits([x.low for x in problem.layers]):
        raise InfeasibleError(
            "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
        )
    own = problem.options.own
    schedule = Schedule(int(own("episodes")), int(own("exploration")), own("noise"), own("noise_decay"))
    walk = RankWalk(problem, accuracy)
    train(walk, schedule, problem.options.seed, _first_action(problem))
    # Where budgets work against each other some walks end beyond them.
    ranks, value = max((e for e in walk.episodes if problem.fits(e[0])), key=lambda e: e[1], default=((), 0.0))
    if not ranks:
        raise InfeasibleError("no episode met all budgets together; raise a target, or give more --episodes")
    learning = {
        "agent": "ddpg", "seed": problem.options.seed, "episodes": schedule.episodes, "exploration": schedule.exploration,
        "noise": schedule.noise, "decay": schedule.decay, "accuracy": [round(v, 6) for _, v in walk.episodes],
    }  # fmt: skip
    return SearchResult(
        ranks, problem.score(ranks), len({r for r, _ in walk.episodes}), evaluated=tuple(walk.episodes), accuracy=value,
        learning=learning,
    )  # fmt: skip


def _first_action(problem: SearchProblem) -> float:
    """What an untrained actor proposes: the part of the layers' cost that the budget leaves, so that the first walks are
    neither starved at their end nor below the budget."""
    resource, budget = main_budget(problem)
    whole = sum(int(x.costs[resource][-1]) for x in problem.layers)
    left = budget - problem.fixed_costs.get(resource, 0)
    return min(0.95, max(0.05, left / max(1, whole)))
