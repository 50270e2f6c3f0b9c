"""A rank search by an agent's episodes: what ADC and AMC have in common."""

from __future__ import annotations

from typing import Callable, Optional, TypeVar

from enc_caffe.agents.ddpg import Schedule, train
from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.search.problem import AccuracyOf, SearchProblem, SearchResult
from enc_caffe.search.walk import RankWalk

P = TypeVar("P", bound=SearchProblem)


def best_episode(
    problem: P, accuracy: Optional[AccuracyOf], walk_of: Callable[[P, AccuracyOf], RankWalk]
) -> SearchResult:
    """The most accurate of all episodes' plans, the earliest of equals.

    Raises
    ------
    UsageError
        Without images to evaluate on.
    InfeasibleError
        If the budgets cannot be met.
    """
    if accuracy is None:
        raise UsageError(
            f"--method {problem.options.method} evaluates every episode: give --model, --weights and --lmdb"
        )
    problem.check_feasible()
    if not problem.fits([x.low for x in problem.layers]):
        raise InfeasibleError(
            "the lowest allowed ranks do not meet all budgets together; raise one of them or lower --floor"
        )
    own = problem.options.own
    schedule = Schedule(int(own("episodes")), int(own("exploration")), own("noise"), own("noise_decay"))
    walk = walk_of(problem, accuracy)
    train(walk, schedule, problem.options.seed, walk.first_action())
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
