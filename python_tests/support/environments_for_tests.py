"""Small environments whose every observation, reward and episode length is known beforehand, and actors for them."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

import snnkern

OBSERVATION_DIM, ACTION_DIM = 3, 2


class Scripted(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Episode k of environment `identity` has a scripted length and observations; the reward is the action's sum.

    Whatever the autoreset mode, episodes run in the order 0, 1, 2, …; `seeds` records what `reset` was given.
    """

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_DIM,), np.float64)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.episode = -1
        self.step_in_episode = 0
        self.seeds: list[int | None] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.episode += 1
        self.step_in_episode = 0
        return observation(self.identity, self.episode, 0), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.step_in_episode += 1
        ended = self.step_in_episode == length(self.identity, self.episode)
        truncates = self.identity % 2 == 1
        seen = observation(self.identity, self.episode, self.step_in_episode)
        return seen, float(np.sum(action, dtype=np.float64)), ended and not truncates, ended and truncates, {}


def length(identity: int, episode: int) -> int:
    """Steps of an episode: from 1 to 7, different from row to row."""
    return 1 + (3 * identity + 5 * episode) % 7


def observation(identity: int, episode: int, step: int) -> NDArray[np.float64]:
    """What is seen at a step of an episode."""
    generator = np.random.default_rng([identity, episode, step])
    return generator.normal(size=OBSERVATION_DIM)


def random_actor(seed: int = 0) -> snnkern.Actor:
    """An actor that is as wide as `Scripted`."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(16, OBSERVATION_DIM, generator=generator), torch.randn(16, generator=generator)
    output = torch.randn(ACTION_DIM, 16, generator=generator), torch.zeros(ACTION_DIM)
    return snnkern.Actor([hidden], output)
