"""ADC: its walk keeps to the budget, its states, and a search that is begun again asks for nothing that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from enc_caffe.errors import InfeasibleError, UsageError
from enc_caffe.metrics.table import MetricsTable
from enc_caffe.search import adc
from enc_caffe.search.build import build_problem
from enc_caffe.search.problem import SearchProblem
from enc_caffe.search.walk import RankWalk
from tests.search.tables import entry, options


def problem_of(target: float = 0.5, layers: int = 4, **changes) -> SearchProblem:
    table = MetricsTable("net", "", tuple(entry(f"l{i}", 8 if i % 2 else 16, 8, i) for i in range(layers)), 1.0)
    return build_problem(table, options(method="adc", target_flops=target, first_layer="search", **changes))


def by_score(problem: SearchProblem):
    return lambda ranks: float(np.exp(problem.score(ranks)))


def test_a_walk_meets_the_budget_whatever_is_asked_for() -> None:
    for target in (0.15, 0.3, 0.5, 0.9):
        problem = problem_of(target, target_params=0.9)
        walk = RankWalk(problem, by_score(problem))
        for actions in ([1.0] * 4, [1e-6] * 4, [1.0, 1e-6, 1.0, 1e-6], [0.3, 0.9, 0.2, 1.0]):
            state, states = walk.reset(), []
            for action in actions:
                states.append(state)
                state = walk.step(action)
            assert state is None
            walk.reward()
            ranks = walk.episodes[-1][0]
            assert problem.fits(ranks) and all(r in x.ranks for r, x in zip(ranks, problem.layers))
            seen = np.stack(states)
            assert seen.shape == (4, walk.features) and seen.min() >= 0 and seen.max() <= 1
        # All of everything first: the first layer whole as far as the others' least leaves room.
        greedy, first = walk.episodes[-4][0], problem.layers[0]
        rest = sum(int(x.costs["macs"][x.low]) for x in problem.layers[1:])
        allowed = [r for r in first.ranks if int(first.costs["macs"][r]) + rest <= problem.budgets["macs"]]
        assert greedy[0] <= max(allowed)
        assert walk.episodes[-3][0] == tuple(x.low for x in problem.layers)


def test_what_a_state_says() -> None:
    problem = problem_of(1.0)
    walk = RankWalk(problem, by_score(problem))
    first = walk.reset()
    # Number, output and input channels (16 of 16), height, width, stride, kernel, cost; saved, behind, last action.
    whole = [int(x.costs["macs"][-1]) for x in problem.layers]
    assert first == pytest.approx([0, 1, 1, 1, 1, 1, 1, 1, 0, sum(whole[1:]) / sum(whole), 1], abs=1e-6)
    second = walk.step(0.5)
    paid = int(problem.layers[0].costs["macs"][12])
    assert second == pytest.approx(
        [1 / 3, 0.5, 0.5, 1, 1, 1, 1, whole[1] / whole[0], (whole[0] - paid) / sum(whole), sum(whole[2:]) / sum(whole), 0.5],
        abs=1e-6,
    )  # fmt: skip


def test_the_best_episode_is_taken_and_its_curve_kept() -> None:
    problem = problem_of(episodes=30, exploration=10)
    result = adc.search(problem, by_score(problem))
    accuracies = [value for _, value in result.evaluated]
    assert len(accuracies) == 30 and result.accuracy == max(accuracies)
    assert result.evaluated[accuracies.index(max(accuracies))][0] == result.ranks
    assert result.learning["accuracy"] == pytest.approx(accuracies, abs=1e-6)
    assert (result.learning["episodes"], result.learning["exploration"], result.learning["seed"]) == (30, 10, 0)
    # A quarter explores where nobody says otherwise.
    assert adc.search(problem_of(episodes=8), by_score(problem)).learning["exploration"] == 2


def test_an_interrupted_search_goes_on_where_it_was() -> None:
    problem, kept, asked = problem_of(episodes=24), {}, []

    def stored(ranks, stop=None):
        if ranks not in kept:
            if stop is not None and len(kept) == stop:
                raise KeyboardInterrupt
            asked.append(ranks)
            kept[ranks] = by_score(problem)(ranks)
        return kept[ranks]

    with pytest.raises(KeyboardInterrupt):
        adc.search(problem, lambda ranks: stored(ranks, 11))
    before = len(asked)
    again = adc.search(problem, stored)
    through = adc.search(problem, by_score(problem))
    assert before == 11 and again == through
    # What was evaluated before is not evaluated again: the rest of the walk is all that is new.
    assert len(asked) == len({r for r, _ in through.evaluated})


def test_without_images_and_below_the_budget() -> None:
    with pytest.raises(UsageError, match="--method adc evaluates every episode: give --model"):
        adc.search(problem_of(), None)
    with pytest.raises(InfeasibleError, match="the lowest ranks miss it by 0.0"):
        adc.search(problem_of(0.06), lambda ranks: 1.0)


def test_seeds_differ() -> None:
    problem = problem_of(episodes=6)
    other = replace(problem, options=replace(problem.options, seed=1))
    assert adc.search(problem, by_score(problem)).evaluated != adc.search(other, by_score(problem)).evaluated
