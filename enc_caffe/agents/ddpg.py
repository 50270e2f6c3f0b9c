"""Deep deterministic policy gradient (Lillicrap et al., ICLR 2016), as AMC [4] and ADC [17] compress networks by it.

An actor proposes one action in (0, 1] for every step of an episode, and a critic says what it is worth. All steps of an
episode share its one reward, less a moving average of earlier ones, undiscounted (He et al., ECCV 2018, section 3.3).
The first episodes explore with constant noise and teach nothing; then the noise decays, and every episode is followed by
one update for each of its steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Optional, Protocol

import numpy as np
import scipy
from threadpoolctl import threadpool_limits

from enc_caffe.agents.mlp import Mlp


class Environment(Protocol):
    """What the agent walks through: AMC's prunes channels, ADC's cuts ranks."""

    #: Numbers of a state.
    features: int

    def reset(self) -> np.ndarray:
        """Begin an episode: the first state (features,)."""

    def step(self, action: float) -> Optional[np.ndarray]:
        """Take an action in (0, 1]: the next state, or None where the episode has ended."""

    def reward(self) -> float:
        """What the whole episode was worth; the larger the better."""


@dataclass(frozen=True)
class Schedule:
    """How an agent learns.

    Attributes
    ----------
    episodes, exploration : int
        Episodes in all, and those at the start that only explore.
    noise, decay : float
        Standard deviation of the truncated normal noise, and its factor from one episode to the next after exploration.
    hidden : tuple of int
        Units of the hidden layers of actor and critic.
    actor_rate, critic_rate : float
        Adam's steps.
    follow : float
        Part of the way that the target networks move at each update.
    batch, memory : int
        Transitions of an update, and those that are remembered.
    average : float
        Weight of the past in the moving average of the rewards.
    """

    episodes: int = 400
    exploration: int = 100
    noise: float = 0.5
    decay: float = 0.95
    hidden: tuple[int, ...] = (300, 300)
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    follow: float = 0.01
    batch: int = 64
    memory: int = 2000
    average: float = 0.95


class Agent:
    """Actor, critic, their targets, and what was seen.

    Parameters
    ----------
    features : int
    schedule : Schedule
    seed : int
    start : float
        The action in (0, 1) of an untrained actor.
    """

    def __init__(self, features: int, schedule: Schedule, seed: int = 0, start: float = 0.5) -> None:
        self.schedule, self.rng = schedule, np.random.default_rng(seed)
        s = schedule
        logit = float(np.log(start / (1.0 - start)))

        def actor() -> Mlp:
            return Mlp((features, *s.hidden, 1), self.rng, s.actor_rate, sigmoid=True, start=logit)

        def critic() -> Mlp:
            return Mlp((features + 1, *s.hidden, 1), self.rng, s.critic_rate)

        self.actor, self.critic, self._actor, self._critic = actor(), critic(), actor(), critic()
        self._actor.follow(self.actor, 1.0)
        self._critic.follow(self.critic, 1.0)
        self._rows: list[tuple[np.ndarray, float, float, np.ndarray, float]] = []
        self._average: Optional[float] = None

    def action(self, state: np.ndarray, noise: float) -> float:
        """The actor's action, with normal noise that stays within (0, 1]."""
        mean = float(self.actor(state[None])[0, 0])
        if noise <= 0:
            return max(mean, 1e-6)
        low, high = scipy.special.ndtr((0.0 - mean) / noise), scipy.special.ndtr((1.0 - mean) / noise)
        drawn = mean + noise * float(scipy.special.ndtri(self.rng.uniform(low, high)))
        return float(np.clip(drawn, 1e-6, 1.0))

    def remember(self, states: list[np.ndarray], actions: list[float], reward: float) -> None:
        """An episode that has ended; the oldest transitions are forgotten."""
        a = self.schedule.average
        self._average = reward if self._average is None else a * self._average + (1 - a) * reward
        for at, (state, action) in enumerate(zip(states, actions)):
            last = at == len(states) - 1
            self._rows.append((state, action, reward, state if last else states[at + 1], 0.0 if last else 1.0))
        del self._rows[: max(0, len(self._rows) - self.schedule.memory)]

    def update(self) -> None:
        """One step of critic and actor on transitions drawn at random."""
        assert self._average is not None
        picked = [self._rows[i] for i in self.rng.integers(len(self._rows), size=self.schedule.batch)]
        states, following = (np.stack([row[i] for row in picked]).astype(np.float32) for i in (0, 3))
        actions, rewards, more = (np.array([[row[i]] for row in picked], np.float32) for i in (1, 2, 4))
        ahead = self._critic(np.hstack([following, self._actor(following)]))
        wanted = rewards - np.float32(self._average) + more * ahead
        off = self.critic(np.hstack([states, actions])) - wanted
        self.critic.descend(self.critic.backward(2.0 * off / len(picked))[0])
        self.critic(np.hstack([states, self.actor(states)]))
        _, uphill = self.critic.backward(np.full_like(off, -1.0 / len(picked)))
        self.actor.descend(self.actor.backward(uphill[:, -1:])[0])
        self._actor.follow(self.actor, self.schedule.follow)
        self._critic.follow(self.critic, self.schedule.follow)


def train(
    environment: Environment,
    schedule: Schedule,
    seed: int = 0,
    start: float = 0.5,
    seen: Callable[[int, float], None] = lambda episode, reward: None,
) -> Agent:
    """Walk through all episodes and learn.

    The same seed gives the same walk: where rewards are kept, an interrupted training that is begun again passes through
    what is known without measuring it anew.

    Parameters
    ----------
    environment : Environment
    schedule : Schedule
    seed : int
    start : float
        The action of an untrained actor.
    seen : callable of episode and reward
        Called after every episode.
    """
    # So small products take a machine that is shared up to forty times as long with several threads, and their last digits, and
    # so the walk, would depend on the number.
    with threadpool_limits(1, user_api="blas"):
        return _train(Agent(environment.features, schedule, seed, start), environment, seen)


def _train(agent: Agent, environment: Environment, seen: Callable[[int, float], None]) -> Agent:
    schedule, noise = agent.schedule, agent.schedule.noise
    for episode in range(schedule.episodes):
        if episode >= schedule.exploration:
            noise *= schedule.decay
        state: Optional[np.ndarray] = environment.reset()
        states, actions = [], []
        while state is not None:
            states.append(state)
            actions.append(agent.action(state, noise))
            state = environment.step(actions[-1])
        reward = environment.reward()
        agent.remember(states, actions, reward)
        if episode >= schedule.exploration:
            for _ in states:
                agent.update()
        seen(episode, reward)
    return agent
