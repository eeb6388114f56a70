"""Observations of a policy in an environment, for calibration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from snnkern.control import environments
from snnkern.control.environments import Environment
from snnkern.control.rollout import acting_within
from snnkern.errors import check_whole
from snnkern.limits import MOST_OBSERVED, check_seed
from snnkern.policies.actor import Actor, Policy, check_actor

if TYPE_CHECKING:
    import gymnasium


# What is calibrated on unless told otherwise: with a third of it, which observations they are decides as much as the
# rule (docs/calibration.md).
CALIBRATION_STEPS = 30_000
CALIBRATION_IMAGES = 5_000  # as published; a channel sees many positions in each


def calibration_steps(actor: Policy) -> int:
    """How many observations `collect` gathers unless told otherwise: fewer of images."""
    return CALIBRATION_IMAGES if len(actor.interface.observation_shape) > 1 else CALIBRATION_STEPS


def collect(
    actor: Actor,
    env: Environment | gymnasium.Env[Any, Any],
    steps: int | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> NDArray[Any]:
    """Runs the dense actor in an environment and returns the observations that it visits.

    They are `[steps, *observation_shape]`, of float32, or of uint8 where the actor's are. The result is all the memory
    that it takes: 317 MB for 5,000 stacks of three frames of 84 × 84.

    Args:
        actor: the dense actor.
        env: a registered name, a function that makes the environment, or an environment, which is not closed. For an
            actor that sees pixels, a named environment is drawn (`snnkern.control.pixels`).
        steps: how many observations; by default 30,000, and 5,000 of images.
        seed: seed of the first reset; later episodes go on with the environment's generator.
        progress: called with the number of observations gathered so far, now and then and at the end.

    Raises:
        InputError: the environment does not exist or does not fit the actor; a number is out of range.
    """
    check_actor(actor)
    shape = actor.interface.observation_shape
    dtype = np.dtype(np.uint8 if actor.interface.observation_dtype == torch.uint8 else np.float32)
    most = MOST_OBSERVED * 4 // max(actor.interface.observation_dim * dtype.itemsize, 1)
    steps = check_whole("steps", calibration_steps(actor) if steps is None else steps, least=1, most=most)
    seed = check_seed(seed)
    often = 500 if len(shape) == 1 else 50  # drawing takes its time
    with environments.one_of(env, actor) as environment:
        environments.check_spaces(actor.interface, environment.observation_space, environment.action_space)
        act = acting_within(actor, environment.action_space)
        observations = np.empty((steps, *shape), dtype=dtype)
        observation, _ = environment.reset(seed=seed)
        for step in range(steps):
            observations[step] = observation
            action = act(np.asarray(observation, dtype=dtype))
            observation, _, terminated, truncated, _ = environment.step(action)
            if terminated or truncated:
                observation, _ = environment.reset()
            if progress and ((step + 1) % often == 0 or step + 1 == steps):
                progress(step + 1)
    return observations
