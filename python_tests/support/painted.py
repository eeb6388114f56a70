"""A small environment that can be drawn: its frames, rewards and ends are known beforehand."""

from __future__ import annotations

import os
import signal
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

NAME = "snnkern-tests/Painted-v0"
SIDE = 8


class Painted(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A frame's colours are the seed's number, the step and the sum of the actions; the reward is the step's number.

    Args:
        steps: of an episode.
        broken: what happens at the third step: "raises", or "dies".
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012  (Gymnasium's way)
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, steps: int = 7, broken: str = "") -> None:
        self.render_mode = render_mode
        self._steps, self._broken = steps, broken
        self._seed, self._step, self._sum = 0, 0, 0.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._seed = self._seed + 1 if seed is None else seed
        self._step, self._sum = 0, 0.0
        return np.zeros(2, np.float32), {}

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        self._sum += float(action[0])
        if self._step == 3 and self._broken == "raises":
            raise OverflowError("out of paint")
        if self._step == 3 and self._broken == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros(2, np.float32), float(self._step), self._step == self._steps, False, {}

    def render(self) -> NDArray[np.uint8]:
        frame = np.zeros((SIDE, SIDE, 3), np.uint8)
        frame[:] = self._seed % 256, self._step, np.uint8(128 + 16 * self._sum)
        frame[: SIDE // 2] //= 2
        return frame


class Images(Painted):
    """Its own observations are images, `[height, width, 3]`, and not what it draws."""

    observation_space = gymnasium.spaces.Box(0, 255, (SIDE, SIDE, 3), np.uint8)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        return np.full((SIDE, SIDE, 3), 7, np.uint8), {}


class Stacks(Images):
    """Its own observations are what the actor takes."""

    observation_space = gymnasium.spaces.Box(0, 255, (9, SIDE, SIDE), np.uint8)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        super().reset(**options)
        return np.full((9, SIDE, SIDE), 8, np.uint8), {}


class Dark(Painted):
    """It cannot be drawn."""

    metadata = {"render_modes": []}  # noqa: RUF012


class Hidden(Painted):
    """What draws it fails."""

    def render(self) -> NDArray[np.uint8]:
        raise RuntimeError("no\nscreen")


class Flat(Painted):
    """It has no colours."""

    def render(self) -> NDArray[np.uint8]:
        return np.zeros((SIDE, SIDE), np.uint8)


class Empty(Painted):
    """Its frames have no pixels."""

    def render(self) -> NDArray[np.uint8]:
        return np.zeros((0, 0, 3), np.uint8)


class Bright(Painted):
    """It draws numbers from 0 to 1."""

    def render(self) -> NDArray[Any]:
        return super().render().astype(np.float32) / 255


def register(name: str = NAME, **options: Any) -> str:
    """Registers it, and gives the name back."""
    gymnasium.register(name, Painted, kwargs=options)
    return name
