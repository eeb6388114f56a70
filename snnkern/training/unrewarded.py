"""Environments without rewards. Processes that draw environments import this module: it does without torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium

from snnkern.control import environments
from snnkern.control.processes import ProcessVector


class Unrewarded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose reward is 0 and whose `info`, which may hold it too, is empty; the reward is not looked at.

    It stands inside a vector of environments, which makes a number of each reward.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = self.env.step(action)
        return observation, 0.0, terminated, truncated, {}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**options)[0], {}


class Without:
    """Makes what another function makes, without rewards; cloudpickle writes it where it writes that function."""

    def __init__(self, make: Callable[[], gymnasium.Env[Any, Any]]) -> None:
        self._make = make

    def __call__(self) -> gymnasium.Env[Any, Any]:
        return Unrewarded(self._make())


def make_vector(
    env: str | Callable[[], gymnasium.Env[Any, Any]], rows: int, policy: object
) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """As `environments.make_vector`, of environments without rewards.

    Raises:
        InputError: as `environments.make_vector`.
    """
    processes = min(rows, environments.cores())
    if processes > 1 and (maker := environments._portable(env, policy)):
        return ProcessVector([Without(maker)] * rows, processes)
    return environments.make_vector(Without(lambda: environments.make(env, policy)), rows, policy)
