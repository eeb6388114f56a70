"""Records episodes step by step: observations, actions, the actions of other policies there, and the layers' states."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.control import environments
from snnkern.control.environments import Environment
from snnkern.control.rollout import Acts, acting_within, check_fit, spiking
from snnkern.errors import Error, InputError
from snnkern.kernels import ops, reference
from snnkern.limits import MOST_REPLAYED, MOST_SIDE_BY_SIDE, check_episodes
from snnkern.policies.actor import Policy
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.stateless import bridged

if TYPE_CHECKING:
    import gymnasium

_CHECK_EVERY = 50  # steps between two looks at whether the copy of an environment pays what the environment pays
_UNBOUNDED = 1e9  # κ with which kernels hand out residuals as they are


@dataclass(frozen=True)
class Trajectories:
    """Episodes side by side, one per row; after a row's end it has the last observation, and zeros.

    Attributes:
        observations: the inputs of the policies, `[steps, rows, *observation_shape]`: float64, or uint8 as they came.
        actions: each policy's actions in these states, `[steps, rows, action_dim]` by name.
        rewards: the rewards that each policy's actions earned or would have earned, `[steps, rows]` by name.
        lengths: steps of every episode, `[rows]`.
    """

    observations: NDArray[Any]
    actions: dict[str, NDArray[np.float64]]
    rewards: dict[str, NDArray[np.float64]]
    lengths: NDArray[np.int64]

    @property
    def running(self) -> NDArray[np.bool_]:
        """Whether an episode has not ended yet, `[steps, rows]`."""
        running: NDArray[np.bool_] = np.arange(len(self.observations))[:, None] < self.lengths
        return running


def follow(
    driver: str,
    policies: Mapping[str, Acts],
    env: Environment,
    *,
    episodes: int = 1,
    seed: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Trajectories:
    """Runs episodes of one policy, the driver, and records what other policies would do in the states that it visits.

    The driver's actions move the environments. The reward of another policy's action is measured in a copy of the
    environment, whose next state is then dropped. All policies receive the same observations; a spiking policy keeps
    its carry from one to the next.

    Args:
        driver: the name of the policy that drives.
        policies: all policies by name, the driver included.
        env: a registered name, or a function that makes the environment.
        episodes: number of episodes, run side by side, with the seeds seed, seed + 1, ….
        seed: seed of the first episode.
        progress: called after every step with the number of steps that are done, and their total.

    Raises:
        InputError: the environment does not exist or does not fit a policy; a number is out of range.
        Error: the environment's rewards depend on more than its state, which is copied.
    """
    episodes, seed = check_episodes(episodes, seed, most=MOST_SIDE_BY_SIDE)
    if driver not in policies:
        raise InputError(f"the driver must be one of the policies ({', '.join(policies)}), got {driver!r}")
    view = environments.view(env, policies[driver])
    envs = environments.make_several(env, episodes, policies[driver])
    twin = _Twin(env, view.action_repeat if view else 1) if len(policies) > 1 else None
    for policy in policies.values():
        check_fit(policy, envs[0].observation_space, envs[0].action_space)
        if snn := spiking(policy):
            snn.reset()
    limit = envs[0].spec.max_episode_steps if envs[0].spec else None
    if view:
        limit = environments.limit(str(env), policies[driver])
    current = np.stack([one.reset(seed=seed + row)[0] for row, one in enumerate(envs)])
    if current.dtype != np.uint8:  # an image
        current = current.astype(np.float64)
    lengths = np.zeros(episodes, dtype=np.int64)
    ended = np.zeros(episodes, dtype=bool)
    seen: list[NDArray[Any]] = []
    actions: dict[str, list[NDArray[Any]]] = {name: [] for name in policies}
    rewards: dict[str, list[NDArray[np.float64]]] = {name: [] for name in policies}
    act = {name: acting_within(policy, envs[0].action_space) for name, policy in policies.items()}
    try:
        while not ended.all():
            seen.append(current.copy())
            chosen = {name: np.where(ended[:, None], 0, act[name](current)) for name in policies}
            earned = {name: np.zeros(episodes) for name in policies}
            for row in np.flatnonzero(~ended):
                for name in policies:
                    if twin and (name != driver or len(seen) % _CHECK_EVERY == 1):
                        earned[name][row] = twin.reward(envs[row], chosen[name][row])
                tried = earned[driver][row]
                observation, reward, terminated, truncated, _ = envs[row].step(chosen[driver][row])
                earned[driver][row] = float(reward)
                if (
                    twin
                    and len(seen) % _CHECK_EVERY == 1
                    and not np.isclose(tried, earned[driver][row], equal_nan=True)
                ):
                    raise Error(
                        f"in a copy of the environment an action earned {tried:g}, in itself {float(reward):g}: its "
                        "rewards depend on more than the state that can be copied (a wrapper, another program)"
                    )
                current[row] = observation
                lengths[row] += 1
                ended[row] = terminated or truncated
            for name in policies:
                actions[name].append(chosen[name])
                rewards[name].append(earned[name])
            if progress:
                progress(*((int(ended.sum()), episodes) if limit is None else (len(seen), limit)))
        if progress and limit is not None:
            progress(limit, limit)
    finally:
        for one in [*envs, *([twin.env] if twin else [])]:
            one.close()
    return Trajectories(
        np.stack(seen),
        {name: np.stack(found).astype(np.float64) for name, found in actions.items()},
        {name: np.stack(found) for name, found in rewards.items()},
        lengths,
    )


class _Twin:
    """A second environment, in which an action can be tried in another one's state.

    A MuJoCo environment's state is copied whole, warm start of the solver included; another one is copied as an object.

    Args:
        env: as `environments.make` takes it.
        action_repeat: steps that an action lasts.
    """

    def __init__(self, env: Environment, action_repeat: int) -> None:
        self._action_repeat = action_repeat
        self.env: Any = environments.make(env).unwrapped
        try:
            import mujoco
        except ImportError:
            self._copy = None
        else:
            same = isinstance(getattr(self.env, "data", None), mujoco.MjData)
            self._copy = mujoco.mj_copyData if same else None

    def reward(self, original: gymnasium.Env[Any, Any], action: NDArray[Any]) -> float:
        """What the action would earn in the original's state, which stays as it is."""
        source: Any = original.unwrapped
        if self._copy:
            self._copy(self.env.data, self.env.model, source.data)
        else:
            self.env = copy.deepcopy(source)
        earned = 0.0
        for _ in range(self._action_repeat):
            _, reward, terminated, truncated, _ = self.env.step(action)
            earned += float(reward)
            if terminated or truncated:
                break
        return earned


class LayerDecision(NamedTuple):
    """The state and output of one hidden layer in one decision step, for all rows; the N of a convolution is C·H·W.

    Attributes:
        spikes: the spikes of every step, in activation units, `[T, B, N]`.
        mean: mean output over the decision step, `[B, N]`.
        residual: r, what it should have sent and has not, `[B, N]`.
        unclamped: μ·c + α·r, the next carry before its clamp, `[B, N]`.
        carry: the next carry, `[B, N]`.
    """

    spikes: Tensor
    mean: Tensor
    residual: Tensor
    unclamped: Tensor
    carry: Tensor


@torch.no_grad()
def replay(snn: SpikingActor, observations: NDArray[np.floating]) -> Iterator[list[LayerDecision]]:
    """Computes the hidden layers of a spiking actor along recorded observations, decision by decision.

    It starts from an empty carry and does not change the actor's own.

    Args:
        snn: the spiking actor.
        observations: `[decisions, B, *observation_shape]`; each row is a sequence.

    Raises:
        InputError: the observations do not fit the actor; α is set for every row.

    Source: `docs/semantics.md`.
    """
    shape = snn.interface.observation_shape
    if observations.ndim != 2 + len(shape) or observations.shape[2:] != shape:
        wanted = ", ".join(map(str, shape))
        raise InputError(f"observations must be [decisions, B, {wanted}], got shape {list(observations.shape)}")
    if isinstance(snn.alpha, Tensor):
        raise InputError("alpha (α) is set for every row: set it to one number before the actor is replayed")
    dynamics, backend = snn.dynamics, snn.backend
    widest = max(math.prod(layer.neuron_shape) for layer in snn.hidden)
    side_by_side = observations.shape[1]
    if dynamics.timesteps * side_by_side * widest > MOST_REPLAYED:
        raise InputError(
            f"{dynamics.timesteps:,} steps of {side_by_side:,} rows of {widest:,} neurons are too many to look "
            f"into: at most {MOST_REPLAYED:,} together"
        )
    whole = replace(dynamics, alpha=1.0, memory=0.0, clip=_UNBOUNDED)  # with these the carry is the residual
    differential = dynamics.neuron.differential
    thresholds = [layer.per_neuron(layer.threshold) for layer in snn.hidden]
    carries = [threshold.new_zeros(observations.shape[1], len(threshold)) for threshold in thresholds]
    chains = dict(snn.bridges.items())
    for observation in observations:
        rows = as_observations(snn, observation)
        snn.interface.check(rows, snn.check_finite)
        signal = mean = snn.interface.normalize(rows)
        decisions = []
        for index, (layer, threshold) in enumerate(zip(snn.hidden, thresholds, strict=True)):
            if str(index) in chains:
                signal = bridged(mean, chains[str(index)], backend)
            current = layer.current(signal, not differential, backend)
            bias = layer.per_neuron(layer.bias) if differential else None
            spikes, residual, _ = ops.neuron_spikes(
                current, threshold, carries[index], whole, bias=bias, backend=backend
            )
            unclamped, carries[index] = reference.next_carry(residual, carries[index], threshold, dynamics)
            mean = reference.decoded(spikes, differential)
            decisions.append(LayerDecision(spikes, mean, residual, unclamped, carries[index]))
            signal = spikes.unflatten(-1, layer.neuron_shape) if layer.convolution else spikes
        yield decisions


def as_observations(policy: Policy, observation: NDArray[Any]) -> Tensor:
    """Recorded observations `[B, …]` as the policy takes tensors: uint8 as it is, others in its dtype.

    Raises:
        InputError: they are of other numbers than the policy's, or of another shape.
    """
    interface = policy.interface
    interface.check_array(observation)
    if interface.observation_dtype.is_floating_point:
        return torch.from_numpy(np.array(observation, dtype=np.float64)).to(interface.action_scale)
    return torch.from_numpy(np.array(observation)).to(interface.action_scale.device)
