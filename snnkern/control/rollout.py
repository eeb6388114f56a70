"""Runs a policy in a Gymnasium vector environment; each row's carry is reset exactly when its episode ends."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.control import environments
from snnkern.errors import InputError, require
from snnkern.limits import check_episodes
from snnkern.policies.actor import Policy, check_actor
from snnkern.policies.spiking import SpikingActor

if TYPE_CHECKING:
    import gymnasium


@runtime_checkable
class Acts(Protocol):
    """Anything that maps observations `[B, *observation_shape]` to actions `[B, action_dim]`.

    An `Actor` or a `SpikingActor` is checked against the environment; what also `Spikes` is reset, and its spikes are
    counted.
    """

    def act(self, observation: NDArray[Any], /) -> NDArray[Any]: ...


class Spikes(Acts, Protocol):
    """What acts and spikes, such as a `SpikingActor`: it keeps a carry for each row."""

    def reset(self, mask: NDArray[np.bool_] | None = None) -> None:
        """Starts a new episode: in all rows, or in those where `mask` `[B]` is True."""

    @property
    def spikes(self) -> Tensor:
        """Spikes sent in the last decision, per layer and row, int64 `[layers, B]`."""


@runtime_checkable
class HasForm(Protocol):
    """A policy that says what it takes and gives, such as a `SpikingNetwork`; `observation_dtype` as NumPy names it."""

    @property
    def observation_shape(self) -> tuple[int, ...]: ...

    @property
    def observation_dtype(self) -> str: ...

    @property
    def action_dim(self) -> int | None: ...


@runtime_checkable
class WrapsSpikingActor(Protocol):
    """A policy around a spiking actor, such as an `SB3Policy`."""

    @property
    def actor(self) -> SpikingActor: ...


def acting(policy: object) -> Acts:
    """The policy itself, or the spiking actor inside of another one, whose carry is then reset where episodes end.

    Raises:
        InputError: it cannot act; says what could.
    """
    if isinstance(policy, WrapsSpikingActor) and isinstance(policy.actor, SpikingActor):
        return policy.actor
    if isinstance(policy, Acts):
        return policy
    return check_actor(policy)


def spiking(policy: object) -> Spikes | None:
    """The policy, if it has the parts of one that `Spikes`; they are not asked for, for there may be no spikes yet."""
    whole = all(inspect.getattr_static(policy, name, None) is not None for name in ("act", "reset", "spikes"))
    return cast("Spikes", policy) if whole else None


def check_fit(policy: object, observation_space: gymnasium.Space[Any], action_space: gymnasium.Space[Any]) -> None:
    """Checks that a policy fits an environment, where it says what it takes: an actor, or one that `HasForm`.

    Raises:
        InputError: as `environments.check_spaces`.
    """
    if isinstance(policy, Policy):
        environments.check_spaces(policy.interface, observation_space, action_space)
    elif isinstance(policy, HasForm) and policy.action_dim is not None:
        environments.check_shapes(
            policy.observation_shape, policy.observation_dtype, policy.action_dim, observation_space, action_space
        )


def acting_within(policy: Acts, action_space: gymnasium.Space[Any]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """How a policy acts in an environment that it fits: what an actor without tanh says is clipped to the action space.

    So do the libraries that train such actors, by PPO for instance. A module, dense or spiking, counts as one of them,
    whatever it ends with. What others do is their own.
    """
    clip = clipping(policy, action_space)
    return policy.act if clip is None else lambda observation: clip(policy.act(observation))


def clipping(
    policy: Acts, action_space: gymnasium.Space[Any]
) -> Callable[[NDArray[np.floating]], NDArray[np.floating]] | None:
    """What becomes of the actions of an actor without tanh, as in `acting_within`; None for other policies."""
    bounds = bounds_of(policy, action_space)
    return None if bounds is None else lambda action: np.clip(action, *bounds)


def bounds_of(
    policy: Acts, action_space: gymnasium.Space[Any]
) -> tuple[NDArray[np.floating], NDArray[np.floating]] | None:
    """The least and the largest action that an environment gets, `[action_dim]`; None for what is not clipped."""
    if not isinstance(policy, Policy | HasForm) or (isinstance(policy, Policy) and policy.interface.squash):
        return None
    bounds = vars(action_space)
    return bounds["low"], bounds["high"]


@dataclass(frozen=True)
class Episodes:
    """Finished episodes, `[rows, episodes per row]`.

    Attributes:
        returns: undiscounted sum of rewards.
        lengths: environment steps.
        spikes: spikes per decision in each hidden layer, averaged over the decisions of these episodes,
            `[hidden layers]`; None for a policy that does not spike.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    spikes: NDArray[np.float64] | None


def rollout(
    policy: Acts,
    envs: gymnasium.vector.VectorEnv[Any, Any, Any],
    *,
    episodes: int = 1,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Episodes:
    """Runs a policy until every row has finished `episodes` episodes.

    Every row counts the same number of episodes, whatever their lengths: counting the first so many to finish would
    favour short ones. A row that is done early goes on unrecorded. All three autoreset modes of Gymnasium work:

    * disabled: ended rows are reset here, episode e of row r with seed + r + e · rows, so that the seeds of all
      episodes are the same however many rows share them;
    * next step: the step after an episode's last one only resets; its action and reward are not counted;
    * same step: the observation that comes with the end is already the next episode's.

    In the last two, the seed of a row's first episode is seed + r, and later ones continue the environment's generator.

    Args:
        policy: an `Actor`, a `SpikingActor`, an `SB3Policy`, or anything with `act`. With `reset` and `spikes`, too, it
            is reset where episodes start, and its spikes are counted (`Spikes`). What an actor without tanh says is
            clipped to the action space.
        envs: a Gymnasium vector environment, such as `snnkern.control.environments.make_vector` makes.
        episodes: episodes per row.
        seed: seed of the first episode of row 0.
        progress: called after every step with the number of episodes finished so far.

    Raises:
        InputError: the environment is not a vector, its spaces do not fit the policy, or a number is out of range.
    """
    episodes, seed = check_episodes(episodes, seed)
    policy = acting(policy)
    gym = require("gymnasium", "rl", "running environments")
    if not isinstance(envs, gym.vector.VectorEnv):
        raise InputError(f"rollout needs a Gymnasium vector environment, got {type(envs).__name__}")
    check_fit(policy, envs.single_observation_space, envs.single_action_space)
    modes = gym.vector.AutoresetMode
    act = acting_within(policy, envs.single_action_space)
    mode = modes(envs.metadata.get("autoreset_mode", modes.NEXT_STEP))
    snn = spiking(policy)

    rows = envs.num_envs
    returns = np.zeros((rows, episodes))
    lengths = np.zeros((rows, episodes), dtype=np.int64)
    finished = np.zeros(rows, dtype=np.int64)
    resetting = np.zeros(rows, dtype=bool)  # rows whose next step only resets
    spikes: NDArray[np.int64] | None = None

    observation, _ = envs.reset(seed=seed)
    if snn:
        snn.reset()
    while (finished < episodes).any():
        recorded = (finished < episodes) & ~resetting
        action = act(observation)
        if snn:
            sent = torch.as_tensor(snn.spikes)[:, recorded].sum(dim=1).cpu().numpy()
            spikes = sent if spikes is None else spikes + sent
        observation, reward, terminated, truncated, _ = envs.step(action)

        at = np.flatnonzero(recorded), finished[recorded]
        returns[at] += reward[recorded]
        lengths[at] += 1
        ended = (terminated | truncated) & ~resetting
        finished += ended & recorded

        if mode == modes.NEXT_STEP:
            started, resetting = resetting, ended
        else:
            started = ended
        if mode == modes.DISABLED and ended.any():
            seeds: Any = [seed + row + int(episode) * rows for row, episode in enumerate(finished)]
            observation, _ = envs.reset(seed=seeds, options={"reset_mask": ended})
        if snn and started.any():
            snn.reset(started)
        if progress:
            progress(int(finished.sum()))
    mean_spikes = None if spikes is None else spikes / lengths.sum()
    return Episodes(returns, lengths, mean_spikes)
