"""Environments without rewards. Processes that draw environments import this module: it does without torch."""

from __future__ import annotations

from typing import Any

import gymnasium


class Unrewarded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose reward is 0 and whose `info`, which may hold it too, is empty; the reward is not looked at.

    It stands inside a vector of environments, which makes a number of each reward.
    """

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, _ = self.env.step(action)
        return observation, 0.0, terminated, truncated, {}

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**options)[0], {}
