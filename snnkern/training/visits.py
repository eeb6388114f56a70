"""The states that a spiking actor visits, and what the dense actor would do there. No reward is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnkern.control import environments
from snnkern.policies.spiking import SpikingActor

if TYPE_CHECKING:
    import gymnasium

Environment = str | Callable[[], "gymnasium.Env[Any, Any]"]


class Visits(NamedTuple):
    """Decisions of a spiking actor, in the order of time.

    Attributes:
        observations: `[steps · rows, *observation_shape]`.
        actions: what the spiking actor did, `[steps · rows, action_dim]`.
    """

    observations: NDArray[Any]
    actions: NDArray[np.floating]


def unrewarded(envs: gymnasium.vector.VectorEnv[Any, Any, Any]) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """Environments without their rewards: each is 0, and `info`, which may hold them too, is empty."""
    import gymnasium

    class Unrewarded(gymnasium.vector.VectorWrapper[Any, Any, Any]):
        def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
            observation, rewards, terminated, truncated, _ = self.env.step(actions)
            return observation, np.zeros_like(rewards), terminated, truncated, {}

        def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
            return self.env.reset(**options)[0], {}

    return Unrewarded(envs)


class Visitor:
    """Runs a spiking actor in an environment, several episodes side by side.

    Args:
        env: a registered name, or a function that makes the environment.
        snn: whom they are for; `environments.check` has found that it fits.
        rows: how many episodes run side by side.
        seed: decides the first episodes of every visit; those that follow go on with the environments' generators.
    """

    def __init__(self, env: Environment, snn: SpikingActor, rows: int, seed: int) -> None:
        self._envs = unrewarded(environments.make_vector(env, rows, snn))
        self._seed = seed
        self._rows = rows

    def visit(
        self, snn: SpikingActor, number: int, steps: int, progress: Callable[[int], None] | None = None
    ) -> Visits:
        """Decisions from new episodes on: at least so many steps, as many in every row.

        Args:
            snn: the spiking actor.
            number: of the visit; each has episodes of its own.
            steps: decisions of all rows together.
            progress: called after each with the number of decisions so far.
        """
        snn.reset()
        seeds = np.random.SeedSequence([self._seed, number]).generate_state(self._rows)
        first: Any = [int(seed) for seed in seeds]  # one for each row, which Gymnasium's type forgets
        observation, _ = self._envs.reset(seed=first)
        seen, done = [], []
        for step in range(-(-steps // self._rows)):
            action = snn.act(observation)
            seen.append(observation.copy())
            done.append(action)
            observation, _, terminated, truncated, _ = self._envs.step(action)
            if (ended := terminated | truncated).any():
                observation, _ = self._envs.reset(options={"reset_mask": ended})
                snn.reset(ended)
            if progress:
                progress((step + 1) * self._rows)
        return Visits(np.concatenate(seen), np.concatenate(done))

    def close(self) -> None:
        self._envs.close()
