"""Converts Stable-Baselines3 models, and gives spiking actors Stable-Baselines3's `predict`."""

from __future__ import annotations

import operator
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.conversion.convert import convert
from snnkern.errors import InputError
from snnkern.policies import loading
from snnkern.policies.actor import Actor
from snnkern.policies.readers import sb3, torch_rl, vec_normalize
from snnkern.policies.spiking import SpikingActor

State = tuple[NDArray[np.floating], ...]

_CALIBRATION, _IMAGES = 10_000, 5_000  # observations taken from a replay buffer, the newest ones
_ROLLOUT = 1_000  # observations that a rollout must have, to be calibrated on


class SB3Policy:
    """Gives a spiking actor Stable-Baselines3's method `predict`, whose state is the carry.

    `evaluate_policy` and a `VecEnv` run it like a model, and `snnkern.evaluate` like an actor. Actions of PPO, TRPO
    and A2C are clipped to the range that the actor's metadata say ("action_range"), as the model's own are.

    Args:
        actor: from `snnkern.convert` or `snnkern.load`.

    Raises:
        InputError: it is another actor, or that range is not one of its actions.
    """

    def __init__(self, actor: SpikingActor) -> None:
        if not isinstance(actor, SpikingActor):
            raise InputError(f"actor must be a SpikingActor (see convert), got {type(actor).__name__}")
        self._actor = actor
        # Asked for as attributes, the carries alone would cost as much as a decision.
        self._carries = [layer.carry._buffers for layer in actor.hidden]
        self._shape = actor.interface.observation_shape
        self._range = sb3.range_of(actor.metadata, actor.interface.action_dim)
        self._known: list[Tensor | None] = []
        self._arrays: list[NDArray[np.floating]] = []  # the same memory, for NumPy

    @property
    def actor(self) -> SpikingActor:
        """The spiking actor. Its own carry is only that of the last call."""
        return self._actor

    def predict(
        self,
        observation: NDArray[np.floating],
        state: Sequence[NDArray[np.floating]] | None = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = True,
    ) -> tuple[NDArray[np.floating], State]:
        """Returns the actions for observations, and the state to pass with the next observations.

        Args:
            observation: `[*observation_shape]`, or `[B, …]` from a vector of environments; images with their channels
                first or last.
            state: the state that an earlier call returned, usually the last one; None if all episodes start.
            episode_start: `[B]`, whether the observation is the first of an episode; then its row of the state is not
                used.
            deterministic: False is refused for SAC, TQC, PPO, TRPO and A2C, whose distribution is not converted; TD3
                and DDPG never sample.

        Returns:
            actions `[action_dim]` or `[B, action_dim]`, and the carry of every hidden layer, `[B, N]` each, or
            `[B, C, H, W]` of a convolution.

        Raises:
            InputError: observation, state and episode_start do not fit the actor or each other, or a NaN or infinity.
        """
        actor = self._actor
        if not deterministic and (algorithm := actor.metadata.get("algorithm", "").upper()) in sb3.SAMPLING:
            raise InputError(
                f"deterministic=False samples from {algorithm}'s distribution, whose mean alone was converted"
            )
        observation = self._channels_first(observation)
        if not self._write(observation, state):
            actor.carry = None if state is None else [_carry(actor, carry) for carry in state]
        if state is not None and episode_start is not None:
            first = np.atleast_1d(np.asarray(episode_start, dtype=bool))
            if first.any() or first.shape != (len(state[0]),):  # which reset refuses
                actor.reset(first)
        action = actor.act(observation)
        if self._range:
            action = np.clip(action, *self._range).astype(action.dtype, copy=False)
        if arrays := self._shared():
            return action, tuple([array.copy() for array in arrays])
        carry = actor.carry
        assert carry is not None
        if carry[0].dtype == torch.bfloat16:  # which NumPy does not know
            carry = tuple(value.float() for value in carry)
        return action, tuple(value.cpu().numpy() for value in carry)

    def _channels_first(self, observation: NDArray[Any]) -> NDArray[Any]:
        """Images as the network sees them, where an environment shows them with their channels last."""
        shape = self._shape
        if len(shape) != 3 or np.ndim(observation) not in (3, 4) or observation.shape[-3:] == shape:
            return observation
        turned = np.moveaxis(observation, -1, -3)
        return turned if turned.shape[-3:] == shape else observation

    def _write(self, observation: NDArray[np.floating], state: Sequence[NDArray[np.floating]] | None) -> bool:
        """Writes a state into the memory that the actor works in; False where it does not fit in there as it is.

        As a rule that memory holds the very state. To write it again takes less time than to find out whether others
        have used the actor meanwhile.
        """
        arrays = self._shared()
        if not arrays or type(observation) is not np.ndarray:
            return False
        if state is None:
            if len(arrays[0]) != (1 if observation.ndim == len(self._shape) else len(observation)):
                return False
            for array in arrays:
                array.fill(0.0)
            return True
        if len(state) != len(arrays):
            return False
        for array, given in zip(arrays, state, strict=True):
            if type(given) is not np.ndarray or given.shape != array.shape or given.dtype != array.dtype:
                return False
        for array, given in zip(arrays, state, strict=True):
            array[...] = given
        return True

    def _shared(self) -> list[NDArray[np.floating]]:
        """The memory of the actor's carry, an array for every hidden layer; none where NumPy cannot share it."""
        carries = [buffers["value"] for buffers in self._carries]
        if any(map(operator.is_not, carries, self._known)) or not self._known:
            arrays = [carry.numpy() for carry in carries if carry is not None and _can_be_shared(carry)]
            self._known, self._arrays = carries, arrays if len(arrays) == len(carries) else []
        return self._arrays

    def __getstate__(self) -> SpikingActor:  # a copy shares no memory with this one
        return self._actor

    def __setstate__(self, actor: SpikingActor) -> None:
        self.__init__(actor)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"SB3Policy({self.actor!r})"


def from_sb3(
    model: Any,
    observations: NDArray[np.floating] | Tensor | None = None,
    *,
    vec_normalize: Any = None,
    **conversion: Any,
) -> SB3Policy:
    """Converts a TD3, SAC, DDPG, PPO or A2C model of Stable-Baselines3, or a TQC or TRPO model, without training.

    If a normalisation of observations (`VecNormalize`) moves into the actor, the result takes the environment's own
    observations and must run without that wrapper. Otherwise it takes the same observations as the model.

    Args:
        model: the model, also SBX's (in memory); or the path of its zip, of which nothing is run.
        observations: those that the thresholds are calibrated on, as the result will receive them,
            `[N, observation_dim]` or uint8 `[N, C, H, W]`. None takes the newest of the model's replay buffer; of
            PPO, TRPO and A2C the last rollout, if it has 1,000 or more and the normalisation stays outside. A zip holds
            neither.
        vec_normalize: the `VecNormalize` that the model was trained in, to move it into the actor; or the path of its
            file, of which nothing is run; True for the wrapper that the model has; False for none. By default, a model
            in memory keeps its wrapper outside, and a zip is read as by `load_actor`.
        conversion: neuron, timesteps, alpha, …, as for `snnkern.convert`.

    Raises:
        InputError: the model cannot be converted (naming why), or a parameter is out of range.
        CheckpointError: the file is damaged, or not such a model's.

    Warns:
        InputWarning: as `load_actor` and `convert`.
    """
    if isinstance(model, str | os.PathLike):
        actor = loading.load_actor(model, vec_normalize=vec_normalize)
    else:
        actor = _described(model, vec_normalize)
    if observations is None and conversion.get("thresholds") is None:
        raw = actor.interface.observation_mean is not None
        rolls_out = getattr(model, "rollout_buffer", None) is not None
        observations = _rolled_out(model, raw) if rolls_out else _replayed(model, raw)
    return SB3Policy(convert(actor, observations, **conversion))


def _described(model: Any, given: Any) -> Actor:
    """The actor of a model in memory, with its normalisation inside where that is asked for."""
    described = sb3.describe(model)
    actor = torch_rl.actor_from_sb3(described)
    wrapper = _wrapper(model)
    if given is True and wrapper is None:
        raise InputError(
            "vec_normalize=True takes the model's own VecNormalize, but it has none: give the wrapper itself"
        )
    if given is None and wrapper is not None:
        return vec_normalize.outside(actor) if wrapper.norm_obs else actor
    return vec_normalize.apply(actor, wrapper if given is True else given, described)


def _wrapper(model: Any) -> Any:
    """The `VecNormalize` that a model's environment is in; None where there is none."""
    find = getattr(model, "get_vec_normalize_env", None)
    return None if find is None else find()


def _rolled_out(model: Any, raw: bool) -> NDArray[Any]:
    """The observations of a model's last rollout, as the model saw them."""
    buffer = model.rollout_buffer
    seen: NDArray[Any] = buffer.observations.reshape(-1, *buffer.obs_shape)
    if raw or not buffer.full or len(seen) < _ROLLOUT:
        why = "the rollout buffer holds normalised ones" if raw else f"the rollout buffer has fewer than {_ROLLOUT:,}"
        raise InputError(
            f"give observations to calibrate on, [N, observation_dim]: {why}, and there is no replay buffer. "
            "snnkern.collect(snnkern.load_actor(zip), env) makes some"
        )
    most = _CALIBRATION if len(buffer.obs_shape) == 1 else _IMAGES
    return seen[:: -(-len(seen) // most)]


def _replayed(model: Any, raw: bool) -> NDArray[np.floating]:
    """The newest observations of a model's replay buffer, raw or as the model sees them."""
    buffer: Any = getattr(model, "replay_buffer", None)
    if buffer is None or not (size := buffer.size()):
        raise InputError(
            "give observations to calibrate on, [N, observation_dim]: there is no replay buffer with any. "
            "snnkern.collect(snnkern.load_actor(zip), env) makes some"
        )
    shape = buffer.observations.shape[2:]
    most = _CALIBRATION if len(shape) == 1 else _IMAGES
    wanted = -(-most // buffer.n_envs)  # steps, each of as many observations as there are environments
    newest = (buffer.pos - 1 - np.arange(min(size, wanted))) % buffer.buffer_size
    observations: NDArray[np.floating] = buffer.observations[newest]
    observations = observations.reshape(-1, *shape)
    if raw:
        return observations
    wrapper = _wrapper(model)
    if wrapper is None and vec_normalize.was_used(sb3.describe(model)):
        raise InputError(
            "the model takes observations that VecNormalize has normalised, and its replay buffer holds the "
            "environment's own: give vec_normalize, or normalised observations"
        )
    return observations if wrapper is None else wrapper.normalize_obs(observations)


def _can_be_shared(carry: Tensor) -> bool:
    return carry.is_cpu and carry.dtype in (torch.float32, torch.float64)  # NumPy does not know bfloat16


def _carry(actor: SpikingActor, carry: NDArray[np.floating]) -> Tensor:
    """What `predict` returned, in the actor's dtype."""
    return torch.from_numpy(np.array(carry)).to(actor.thresholds[0].dtype)
