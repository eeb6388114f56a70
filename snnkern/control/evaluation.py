"""Measures control performance: returns, and performance ratios with confidence intervals."""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from snnkern.control import environments
from snnkern.control.environments import Environment
from snnkern.control.intervals import Interval, bootstrap
from snnkern.control.records import CalibrationDescription, Outcome, Record, Result, SettingDescription, TaskDescription
from snnkern.control.rollout import Acts, WrapsSpikingActor, acting, rollout
from snnkern.errors import InputError
from snnkern.kernels.backends.choice import choose
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import check_episodes
from snnkern.policies.actor import Policy
from snnkern.policies.readers.vec_normalize import warn_of_normalized
from snnkern.version import installed

if TYPE_CHECKING:
    import gymnasium

RANDOM = "random"  # stands for the dense actor's fingerprint in a random policy's task


@dataclass(frozen=True)
class Evaluation:
    """The returns, lengths and spikes of a policy's episodes, which have the seeds `seed`, `seed + 1`, ….

    Attributes:
        returns: undiscounted return of every episode, in the order of their seeds.
        lengths: environment steps of every episode.
        spikes: spikes per decision in each hidden layer; empty for a policy that does not spike.
    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    spikes: tuple[float, ...]

    @classmethod
    def from_record(cls, record: Record) -> Evaluation:
        """Makes an evaluation from a record of a store."""
        result = record["result"]
        returns, spikes = (tuple(map(float, each)) for each in (result["returns"], result["spikes"]))  # 1 may be 1.0
        return cls(returns, tuple(result["lengths"]), spikes)

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the return over episodes."""
        return float(np.std(self.returns))

    def interval(self) -> Interval:
        """Mean return with its 95 % interval."""
        return bootstrap(np.mean, self.returns)

    def ratio(self, dense: Evaluation, random: Evaluation | None = None) -> Interval:
        """Performance ratio: mean return over the dense actor's mean return, with its 95 % interval.

        If the dense actor's mean return is not positive, this ratio has no meaning. Then a random policy's return is
        taken as zero, and the ratio is (return − random) / (dense − random), as in normalised scores; NaN without a
        random policy's episodes, or if the dense actor is no better. All sets of episodes are resampled.
        """
        return average_performance_ratio([(self, dense, random)])

    def ratio_formula(self, random: Evaluation | None = None) -> str:
        """The formula of a ratio to this dense actor, as tables show it; empty if it has no meaning."""
        if self.mean > 0:
            return "return / dense return"
        return "(return − random) / (dense − random)" if random and self.mean > random.mean else ""


def average_performance_ratio(
    groups: Sequence[tuple[Evaluation, Evaluation] | tuple[Evaluation, Evaluation, Evaluation | None]],
) -> Interval:
    """Mean over environments of the performance ratio, with its 95 % interval.

    Args:
        groups: the spiking and the dense actor's evaluation for every environment, and a random policy's where there is
            one, which `Evaluation.ratio` takes where the dense return is not positive. Each one's episodes are
            resampled by themselves.

    Raises:
        InputError: there are no environments.

    Source: Xu et al., ICML 2026 ("average performance ratio", APR). A random policy's return as zero: the normalised
    score of Mnih et al., "Human-level control through deep reinforcement learning", Nature 2015, and of D4RL.
    """
    if not groups:
        raise InputError("an average performance ratio needs at least one environment")
    compared: list[tuple[Evaluation, ...]] = []
    for spiking, dense, *rest in groups:
        zero = rest[0] if rest else None
        if not dense.ratio_formula(zero):
            return Interval()
        compared.append((spiking, dense) if dense.mean > 0 or zero is None else (spiking, dense, zero))
    statistic = functools.partial(_average_ratio, [len(group) for group in compared])
    return bootstrap(statistic, *(evaluation.returns for group in compared for evaluation in group))


def evaluate(
    policy: Acts | WrapsSpikingActor,
    env: Environment | gymnasium.Env[Any, Any] | gymnasium.vector.VectorEnv[Any, Any, Any],
    *,
    episodes: int = 10,
    seed: int = 1000,
    rows: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Runs a policy for a fixed number of episodes with fixed seeds.

    On the CPU backend, a spiking actor's episodes are the same for every number of rows, to the last bit. A dense
    actor's products round differently at different batch sizes, and chaotic dynamics amplify that.

    Args:
        policy: an `Actor`, a `SpikingActor`, an `SB3Policy`, or anything with `act`.
        env: a registered name; a function that makes the environment; an environment, which runs one episode after the
            other; or a vector of environments (`rollout` says what its autoreset mode does to seeds). For a policy that
            sees pixels, a named environment is drawn, side by side in as many processes as cores
            (`snnkern.control.pixels`).
            A given environment is reset and stepped, and not closed.
        episodes: number of episodes; their seeds are seed, seed + 1, ….
        seed: seed of the first episode.
        rows: number of episodes that run side by side; must divide `episodes`. By default the largest divisor up to
            32, or as many as the environment has.
        progress: called after every step with the number of episodes finished so far.

    Raises:
        InputError: the environment does not exist or does not fit the policy; a number is out of range.
        MissingDependencyError: Gymnasium or MuJoCo is not installed.

    Warns:
        InputWarning: the policy takes observations that VecNormalize has normalised.
    """
    episodes, seed = check_episodes(episodes, seed)
    policy = acting(policy)
    warn_of_normalized(policy)
    with environments.vector_of(env, rows, episodes, policy) as envs:
        result = rollout(policy, envs, episodes=episodes // envs.num_envs, seed=seed, progress=progress)
    return Evaluation(
        returns=tuple(float(value) for value in result.returns.T.flat),  # episode e of row r has seed + r + e · rows
        lengths=tuple(int(value) for value in result.lengths.T.flat),
        spikes=() if result.spikes is None else tuple(float(value) for value in result.spikes),
    )


def describe_task(
    fingerprint: str,
    env: str,
    setting: SettingDescription | None,
    calibration: CalibrationDescription | None,
    *,
    episodes: int,
    seed: int,
    backend: str,
) -> TaskDescription:
    """All that the result of an evaluation depends on, ready for JSON.

    Args:
        fingerprint: the dense actor's, or `RANDOM`.
        env: a registered name.
        setting: what it is converted to, as `Setting.to_dict` has it; None for the dense actor itself.
        calibration: where the thresholds come from; None for the dense actor itself.
        episodes: how many.
        seed: seed of the first.
        backend: what computes, by `backend_name`; the dense actor uses none.
    """
    packages = ["snnkern", "torch", "gymnasium", "mujoco"]
    if env.startswith(environments.SUITE):
        packages += ["dm_control", "shimmy"]
    return {
        "actor": fingerprint,
        "environment": env,
        "setting": setting,
        "calibration": calibration,
        "episodes": episodes,
        "seed": seed,
        "backend": None if setting is None else backend,
        "versions": {name: installed(name) or "unknown" for name in packages},
    }


def backend_name(actor: Policy, backend: str) -> str:
    """What computes an actor's spiking versions: "auto" may be another backend on the next day."""
    own = actor.interface.action_scale
    return choose(backend, own.device, own.dtype).NAME


class RandomPolicy:
    """Actions drawn evenly from an environment's action space, whatever it observes: the zero of normalised scores.

    Attributes:
        low: least actions, `[action_dim]`.
        high: largest actions, `[action_dim]`.

    Args:
        env: a registered name, or a function that makes the environment.
        seed: of the draws.
        actor: whom it is compared with. If that one sees pixels, this one decides as often; nothing is drawn for it.

    Raises:
        InputError: there is no such environment, or its actions are not between finite bounds.
    """

    def __init__(
        self,
        env: Environment,
        seed: int | Sequence[int],
        actor: Policy | None = None,
    ) -> None:
        view = environments.view(env, actor)
        self.view = view and replace(view, blind=True)
        with environments.one_of(env, self) as environment:
            space: Any = environment.action_space
            self._observation_ndim = len(environment.observation_space.shape or (1,))
        self.low, self.high = getattr(space, "low", np.inf), getattr(space, "high", np.inf)
        if not np.isfinite([self.low, self.high]).all():
            raise InputError(f"no random policy acts in {env}: its actions are {space}, not between finite bounds")
        self._generator = np.random.default_rng(seed)

    def act(self, observation: NDArray[Any], /) -> NDArray[Any]:
        """Random actions, `[B, action_dim]` for observations `[B, *observation_shape]`."""
        rows = observation.shape[: observation.ndim - self._observation_ndim]
        actions = self._generator.uniform(self.low, self.high, (*rows, *np.shape(self.low)))
        return actions.astype(np.float32)


@runtime_checkable
class _Converted(Protocol):
    """What was made of a dense policy, such as a `SpikingActor`."""

    @property
    def dynamics(self) -> Dynamics: ...

    @property
    def thresholds(self) -> Sequence[Tensor]: ...


def evaluation_record(policy: Acts, name: str, env: str, episodes: int, seed: int) -> Outcome:
    """What a store keeps of an evaluation, but for its task; runs it.

    Args:
        policy: the dense actor, or a spiking one, whose exact setting is kept as well, or any other.
        name: the actor's, for people.
        env: a registered name.
        episodes: how many.
        seed: seed of the first.
    """
    started = time.perf_counter()
    found = evaluate(policy, env, episodes=episodes, seed=seed)
    result: Result = {"returns": found.returns, "lengths": found.lengths, "spikes": found.spikes}
    if isinstance(policy, _Converted):
        result["dynamics"] = policy.dynamics.to_dict()
        result["thresholds"] = thresholds_digest(policy.thresholds)
    return {"actor": name, "result": result, "run": {"seconds": time.perf_counter() - started}}


def thresholds_digest(thresholds: Iterable[Tensor]) -> str:
    """A hash of thresholds: equal for equal ones."""
    digest = hashlib.sha256()
    for threshold in thresholds:
        digest.update(threshold.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


def _average_ratio(sizes: Sequence[int], *samples: Any, axis: int = -1) -> Any:
    """The samples are the spiking actor's, the dense actor's and, in groups of three, the random policy's."""
    means = iter([np.mean(sample, axis=axis) for sample in samples])
    ratios = []
    for size in sizes:
        spiking, dense, *zero = itertools.islice(means, size)
        ratios.append((spiking - zero[0]) / (dense - zero[0]) if zero else spiking / dense)
    return np.mean(ratios, axis=0)
