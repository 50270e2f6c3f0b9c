"""The agent: a toy problem whose optimum is known, noise, its schedule, and that the same seed walks the same way."""

from __future__ import annotations

from typing import Optional

import numpy as np

from enc_caffe.agents.ddpg import Agent, Schedule, train

#: Small networks: the toy needs no more.
SMALL = Schedule(episodes=250, exploration=50, hidden=(64, 64))


class Toy:
    """Three actions; the best ones are known, and what is lost is the square of the distance from them."""

    features, best = 2, (0.8, 0.3, 0.5)

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.walks: list[tuple[float, ...]] = []

    def _state(self) -> np.ndarray:
        return np.array([len(self.taken) / 3, self.taken[-1] if self.taken else 1.0], np.float32)

    def reset(self) -> np.ndarray:
        self.taken = []
        return self._state()

    def step(self, action: float) -> Optional[np.ndarray]:
        self.taken.append(action)
        return self._state() if len(self.taken) < 3 else None

    def reward(self) -> float:
        self.walks.append(tuple(self.taken))
        return -sum((a - b) ** 2 for a, b in zip(self.taken, self.best))


def test_it_solves_a_problem_whose_optimum_is_known() -> None:
    toy, rewards = Toy(), []
    agent = train(toy, SMALL, seed=1, seen=lambda episode, reward: rewards.append(reward))
    state: Optional[np.ndarray] = toy.reset()
    while state is not None:
        state = toy.step(agent.action(state, 0.0))
    # 0 is the optimum, exploration loses 0.4 an episode, and always taking the middle 0.13.
    assert np.mean(rewards[:50]) < -0.25
    assert toy.reward() > -0.08 and np.mean(rewards[-20:]) > -0.08
    assert len(rewards) == 250


def test_the_same_seed_walks_the_same_way_and_another_does_not() -> None:
    schedule = Schedule(episodes=20, exploration=10, hidden=(16, 16))
    walks = []
    for seed in (0, 0, 1):
        toy = Toy()
        train(toy, schedule, seed)
        walks.append(toy.walks)
    assert walks[0] == walks[1] != walks[2]


def test_exploration_teaches_nothing_and_noise_decays_after_it() -> None:
    schedule = Schedule(episodes=12, exploration=12, hidden=(16, 16))
    agent = train(Toy(), schedule, 3)
    fresh = Agent(2, schedule, 3)
    assert all(np.array_equal(a, b) for a, b in zip(agent.actor.parameters, fresh.actor.parameters))
    later = Schedule(episodes=100, exploration=0, decay=0.5, hidden=(16, 16), actor_rate=0.0)
    toy = Toy()
    train(toy, later, 3)
    spread = [np.abs(np.array(walk) - 0.5).max() for walk in toy.walks]
    assert max(spread[:3]) > 0.1 and max(spread[20:]) < 0.02


def test_noise_stays_within_what_an_action_may_be() -> None:
    agent = Agent(2, Schedule(hidden=(16, 16)), 0, start=0.9)
    state = np.zeros(2, np.float32)
    drawn = np.array([agent.action(state, 0.5) for _ in range(500)])
    assert drawn.min() > 0 and drawn.max() <= 1 and drawn.std() > 0.2
    # Truncated, not clipped: hardly any lies on the edge itself.
    assert (drawn == 1.0).mean() < 0.01
