"""Stable-Baselines3: its models converted, and spiking actors behind its `predict`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern import checkpoints, sb3_models
from snnkern.actors import Actor, Interface
from snnkern.conversion import convert
from snnkern.errors import InputError, require
from snnkern.nn import SpikingActor

State = tuple[NDArray[np.floating], ...]

_CALIBRATION = 10_000  # observations taken from a replay buffer, the newest ones


class SB3Policy:
    """A spiking actor with Stable-Baselines3's `predict`, whose state is the carry.

    `evaluate_policy` and a `VecEnv` take it where they take a model.

    Args:
        actor: from `snnkern.convert` or `snnkern.load`.

    Attributes:
        actor: the same. Its own carry is only that of the last call.
    """

    def __init__(self, actor: SpikingActor) -> None:
        if not isinstance(actor, SpikingActor):
            raise InputError(f"actor must be a SpikingActor (see convert), got {type(actor).__name__}")
        self.actor = actor

    def predict(
        self,
        observation: NDArray[np.floating],
        state: Sequence[NDArray[np.floating]] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.floating], State]:
        """The actions for observations, and the state to give with the next ones.

        Args:
            observation: `[observation_dim]`, or `[B, observation_dim]` from a vector of environments.
            state: what the last call returned; None where all episodes start.
            episode_start: `[B]`, whether the observation is an episode's first: its row of the state is not used.
            deterministic: SAC's actions are not sampled, so False is refused for it; TD3 and DDPG do not sample.

        Returns:
            actions `[action_dim]` or `[B, action_dim]`, and the carry of every hidden layer, `[B, N]` each.

        Raises:
            InputError: observation, state and episode_start do not fit the actor or each other, or a NaN or infinity.
        """
        if not deterministic and self.actor.metadata.get("algorithm", "").upper() == "SAC":
            raise InputError("deterministic=False samples from SAC's distribution, whose mean alone was converted")
        self.actor.carry = None if state is None else [_carry(self.actor, carry) for carry in state]
        if state is not None and episode_start is not None:
            first = np.atleast_1d(np.asarray(episode_start, dtype=bool))
            if first.any() or first.shape != (len(state[0]),):  # which reset refuses
                self.actor.reset(first)
        action = self.actor.act(observation)
        carry = self.actor.carry
        assert carry is not None
        if carry[0].dtype == torch.bfloat16:  # which NumPy does not know
            carry = tuple(value.float() for value in carry)
        return action, tuple(value.cpu().numpy() for value in carry)

    def __repr__(self) -> str:
        return f"SB3Policy({self.actor!r})"


def from_sb3(
    model: Any,
    observations: NDArray[np.floating] | Tensor | None = None,
    *,
    vec_normalize: Any = None,
    **conversion: Any,
) -> SB3Policy:
    """Converts a TD3, SAC or DDPG model of Stable-Baselines3, without training.

    The result takes the observations that the model takes. With `vec_normalize` it takes the environment's own, as that
    wrapper receives them, and must then run without the wrapper.

    Args:
        model: the model, SBX's (in memory) as well; or the path of its zip, which is read without unpickling.
        observations: what the thresholds are calibrated on, as the result will see them, `[N, observation_dim]`. None
            takes the newest of the model's replay buffer, which a zip does not hold.
        vec_normalize: the `VecNormalize` that the model was trained with.
        conversion: neuron, timesteps, alpha, …, as for `snnkern.convert`.

    Raises:
        InputError: the model cannot be converted (naming why), or a parameter is out of range.
        CheckpointError: the file is damaged, or not such a model's.
        MissingDependencyError: `vec_normalize` is given, and Stable-Baselines3 is not installed.
    """
    if isinstance(model, str | os.PathLike):
        actor = checkpoints.load_actor(model)
    else:
        actor = checkpoints.actor_from_sb3(sb3_models.describe(model))
    if vec_normalize is not None:
        actor = _normalized(actor, vec_normalize)
    if observations is None and conversion.get("thresholds") is None:
        observations = _replayed(model, raw=vec_normalize is not None)
    return SB3Policy(convert(actor, observations, **conversion))


def _normalized(actor: Actor, wrapper: Any) -> Actor:
    """The actor with a wrapper's normalisation of observations inside."""
    if isinstance(wrapper, str | os.PathLike):
        raise InputError(
            f"VecNormalize's file {str(wrapper)!r} is a pickle, which can run code, and is not opened here: "
            "if you trust it, give VecNormalize.load(path, venv)"
        )
    kind = require("stable_baselines3.common.vec_env", "sb3", "VecNormalize").VecNormalize
    if not isinstance(wrapper, kind):
        raise InputError(f"vec_normalize must be a VecNormalize, got {type(wrapper).__name__}")
    if not wrapper.norm_obs:
        return actor
    if isinstance(wrapper.obs_rms, dict):
        raise InputError("VecNormalize normalises a Dict of observations, but an actor takes one array [N]")
    between = actor.interface
    interface = Interface(
        between.observation_dim,
        between.action_dim,
        action_scale=between.action_scale,
        action_bias=between.action_bias,
        observation_mean=wrapper.obs_rms.mean,
        observation_std=np.sqrt(wrapper.obs_rms.var + wrapper.epsilon),
        observation_clip=wrapper.clip_obs,
    )
    hidden = [(layer.weight, layer.bias) for layer in actor.hidden]
    return Actor(hidden, (actor.output.weight, actor.output.bias), interface, actor.metadata)


def _replayed(model: Any, raw: bool) -> NDArray[np.floating]:
    """The newest observations of a model's replay buffer, raw or as the model sees them."""
    buffer: Any = getattr(model, "replay_buffer", None)
    if buffer is None or not (size := buffer.size()):
        raise InputError("give observations to calibrate on: there is no replay buffer with any")
    wanted = -(-_CALIBRATION // buffer.n_envs)  # steps, each of as many observations as there are environments
    newest = (buffer.pos - 1 - np.arange(min(size, wanted))) % buffer.buffer_size
    observations: NDArray[np.floating] = buffer.observations[newest]
    observations = observations.reshape(-1, observations.shape[-1])
    normalize = None if raw else model.get_vec_normalize_env()
    return observations if normalize is None else normalize.normalize_obs(observations)


def _carry(actor: SpikingActor, carry: NDArray[np.floating]) -> Tensor:
    """What `predict` returned, in the actor's dtype."""
    return torch.from_numpy(np.array(carry)).to(actor.thresholds[0].dtype)
