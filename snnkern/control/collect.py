"""Observations of a policy in an environment, for calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from snnkern.control import environments
from snnkern.errors import check_whole
from snnkern.limits import MOST_OBSERVED, check_seed
from snnkern.policies.actor import Actor, check_actor

if TYPE_CHECKING:
    import gymnasium


# What is calibrated on unless told otherwise: with a third of it, which observations they are decides as much as the
# rule (docs/calibration.md).
CALIBRATION_STEPS = 30_000


def collect(
    actor: Actor,
    env: str | Callable[[], gymnasium.Env[Any, Any]] | gymnasium.Env[Any, Any],
    steps: int = CALIBRATION_STEPS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Runs the dense actor in an environment and returns the observations that it visits, `[steps, observation_dim]`.

    Args:
        actor: the dense actor.
        env: a registered name, a function that makes the environment, or an environment, which is not closed.
        steps: how many observations.
        seed: seed of the first reset; later episodes go on with the environment's generator.
        progress: called with the number of observations gathered so far, now and then.

    Raises:
        InputError: the environment does not exist or does not fit the actor; a number is out of range.
    """
    check_actor(actor)
    steps = check_whole("steps", steps, least=1, most=MOST_OBSERVED // max(actor.interface.observation_dim, 1))
    seed = check_seed(seed)
    with environments.one_of(env) as environment:
        environments.check_spaces(actor.interface, environment.observation_space, environment.action_space)
        observations = np.empty((steps, actor.interface.observation_dim), dtype=np.float32)
        observation, _ = environment.reset(seed=seed)
        for step in range(steps):
            observations[step] = observation
            action = actor.act(np.asarray(observation, dtype=np.float32))
            observation, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                observation, _ = environment.reset()
            if progress and (step + 1) % 500 == 0:
                progress(step + 1)
    return observations
