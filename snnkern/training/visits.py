"""The states that a spiking actor visits, and what it does there. No reward is read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from snnkern.control import environments
from snnkern.control.environments import Environment
from snnkern.control.rollout import clipping
from snnkern.policies.spiking import SpikingActor

if TYPE_CHECKING:
    pass

_LEAST_STEPS = 5  # of every row, however little time there is


class Visits(NamedTuple):
    """Decisions of a spiking actor, in the order of time, in states that are finite.

    Attributes:
        observations: `[N, *observation_shape]`.
        actions: what the spiking actor did, `[N, action_dim]`.
    """

    observations: NDArray[Any]
    actions: NDArray[np.floating]


class Visitor:
    """Runs a spiking actor in an environment, several episodes side by side.

    Args:
        env: a registered name, or a function that makes the environment.
        snn: whom they are for; `environments.check` has found that it fits.
        rows: how many episodes run side by side.
        seed: decides the first episodes of every visit; those that follow go on with the environments' generators.
    """

    def __init__(self, env: Environment, snn: SpikingActor, rows: int, seed: int) -> None:
        from snnkern.training.unrewarded import Unrewarded

        self._envs = environments.make_vector(env, rows, snn, wrap=Unrewarded)
        self._dtype = np.dtype(str(snn.interface.observation_dtype).rpartition(".")[2])
        self._seed = seed
        self._rows = rows

    def visit(
        self,
        snn: SpikingActor,
        number: int,
        steps: int,
        progress: Callable[[int], None] | None = None,
        seconds: float = np.inf,
    ) -> Visits:
        """Decisions from new episodes on: at least so many steps, as many in every row.

        A state with a NaN or an infinity is left out, and its episode ends there.

        Args:
            snn: the spiking actor.
            number: of the visit; each has episodes of its own.
            steps: decisions of all rows together.
            progress: called after each with the number of decisions so far.
            seconds: after which it ends, with fewer steps.
        """
        ends = time.monotonic() + seconds
        snn.reset()
        seeds = np.random.SeedSequence([self._seed, number]).generate_state(self._rows)
        first: Any = [int(seed) for seed in seeds]  # one for each row, which Gymnasium's type forgets
        observation, _ = self._envs.reset(seed=first)
        seen, done = [], []
        clip = clipping(snn, self._envs.single_action_space)
        for step in range(-(-steps // self._rows)):
            if step >= _LEAST_STEPS and time.monotonic() >= ends:
                break
            good = self._finite_rows(observation)
            if good is None:
                action = snn.act(observation)
                seen.append(observation.copy())
                done.append(action)
            else:
                shown = observation.copy()
                shown[~good] = 0
                action = snn.act(shown)
                seen.append(observation[good])
                done.append(action[good])
            observation, _, terminated, truncated, _ = self._envs.step(action if clip is None else clip(action))
            ended = terminated | truncated if good is None else terminated | truncated | ~good
            if ended.any():
                observation, _ = self._envs.reset(options={"reset_mask": ended})
                snn.reset(ended)
            if progress:
                progress((step + 1) * self._rows)
        return Visits(np.concatenate(seen), np.concatenate(done))

    def _finite_rows(self, observation: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Which rows hold finite numbers, as the actor sees them; None where all do."""
        if self._dtype.kind != "f":
            return None
        with np.errstate(over="ignore"):
            finite = np.isfinite(observation.astype(self._dtype, copy=False))
        return None if finite.all() else finite.reshape(self._rows, -1).all(axis=1)

    def close(self) -> None:
        self._envs.close()
