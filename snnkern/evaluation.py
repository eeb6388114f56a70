"""Control performance: returns, performance ratios with confidence intervals; settings, and what is kept of each."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from snnkern import _backends, environments
from snnkern.actors import Actor
from snnkern.calibration import chosen_alpha
from snnkern.errors import InputError, check_whole, require
from snnkern.limits import MOST_SIDE_BY_SIDE, MOST_TIMESTEPS, check_episodes
from snnkern.neurons import Dynamics, Neuron, parse_neuron
from snnkern.nn import SpikingActor
from snnkern.rollout import Acts, rollout
from snnkern.store import Record

if TYPE_CHECKING:
    import gymnasium

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """An estimate and the ends of its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What a policy achieved over episodes with the seeds `seed`, `seed + 1`, ….

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
        """Reads what a store keeps."""
        result = record["result"]
        return cls(tuple(result["returns"]), tuple(result["lengths"]), tuple(result["spikes"]))

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
        return _bootstrap(_mean, self.returns)

    def ratio(self, dense: Evaluation) -> Interval:
        """Performance ratio: mean return over the dense actor's mean return, with its 95 % interval.

        Both sets of episodes are resampled. A ratio means nothing where the dense actor's mean return is not positive:
        there it is NaN.
        """
        return average_performance_ratio([(self, dense)])


def average_performance_ratio(pairs: Sequence[tuple[Evaluation, Evaluation]]) -> Interval:
    """Mean over environments of spiking return / dense return, with its 95 % interval.

    Args:
        pairs: the spiking and the dense actor's evaluation, for every environment. Each one's episodes are resampled by
            themselves.

    Raises:
        InputError: there are no environments.

    Source: Xu et al., ICML 2026 ("average performance ratio", APR).
    """
    if not pairs:
        raise InputError("an average performance ratio needs at least one environment")
    if any(dense.mean <= 0 for _, dense in pairs):
        return Interval(math.nan, math.nan, math.nan)
    return _bootstrap(_average_ratio, *(evaluation.returns for pair in pairs for evaluation in pair))


def evaluate(
    policy: Acts,
    env: str | Callable[[], gymnasium.Env[Any, Any]],
    *,
    episodes: int = 10,
    seed: int = 1000,
    rows: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Runs a policy for a fixed number of episodes with fixed seeds.

    On the CPU backend a spiking actor's episodes do not depend on how they share rows, to the last bit; a dense actor's
    products round differently from one batch size to the next, which chaotic dynamics amplify.

    Args:
        policy: an `Actor`, a `SpikingActor`, or anything with `act`.
        env: a registered name, or a function that makes the environment.
        episodes: how many; their seeds are seed, seed + 1, ….
        seed: seed of the first.
        rows: how many run side by side; must divide `episodes`. Unless given, the largest divisor up to 32.
        progress: called after every step with the number of episodes finished so far.

    Raises:
        InputError: the environment does not exist or does not fit the policy; a number is out of range.
        MissingDependencyError: Gymnasium or MuJoCo is not installed.
    """
    episodes, seed = check_episodes(episodes, seed)
    if rows is None:
        rows = max(divisor for divisor in range(1, 33) if episodes % divisor == 0)
    rows = check_whole("rows", rows, least=1, most=MOST_SIDE_BY_SIDE)
    if episodes % rows:
        raise InputError(f"rows must divide the number of episodes ({episodes}), got {rows}")
    envs = environments.make_vector(env, rows)
    try:
        result = rollout(policy, envs, episodes=episodes // rows, seed=seed, progress=progress)
    finally:
        envs.close()
    return Evaluation(
        returns=tuple(float(value) for value in result.returns.T.flat),  # episode e of row r has seed + r + e · rows
        lengths=tuple(int(value) for value in result.lengths.T.flat),
        spikes=() if result.spikes is None else tuple(float(value) for value in result.spikes),
    )


def grid(
    neurons: Iterable[str | Neuron],
    timesteps: Iterable[int],
    alphas: Iterable[float | str] = ("auto",),
    memories: Iterable[float] = (0.0,),
    levels: int | None = None,
) -> list[Dynamics]:
    """Every combination of neuron, T, α and μ, once each, as settings for `sweep`.

    An α of "auto" is the one that is recommended for the neuron (`snnkern.calibration.recommended`).

    Raises:
        InputError: a parameter is out of range.
    """
    kinds = [parse_neuron(neuron, levels) for neuron in neurons]
    steps = [check_whole("timesteps (T)", each, least=1, most=MOST_TIMESTEPS) for each in timesteps]
    combinations = itertools.product(kinds, steps, alphas, memories)
    return list(
        dict.fromkeys(Dynamics(kind, t, chosen_alpha(alpha, kind), memory) for kind, t, alpha, memory in combinations)
    )


def describe_task(
    fingerprint: str,
    env: str,
    setting: Mapping[str, Any] | None,
    calibration: Mapping[str, Any] | None,
    *,
    episodes: int,
    seed: int,
    backend: str,
) -> dict[str, Any]:
    """All that the result of an evaluation depends on, ready for JSON.

    Args:
        fingerprint: the dense actor's.
        env: a registered name.
        setting: what it is converted to, as `Dynamics.to_dict` has it; None for the dense actor itself.
        calibration: where the thresholds come from; None for the dense actor itself.
        episodes: how many.
        seed: seed of the first.
        backend: what computes, by `backend_name`; the dense actor uses none.
    """
    return {
        "actor": fingerprint,
        "environment": env,
        "setting": setting,
        "calibration": calibration,
        "episodes": episodes,
        "seed": seed,
        "backend": None if setting is None else backend,
        "versions": {name: _version(name) for name in ("snnkern", "torch", "gymnasium", "mujoco")},
    }


def backend_name(actor: Actor, backend: str) -> str:
    """What computes an actor's spiking versions: "auto" may be another backend on the next day."""
    own = actor.interface.action_scale
    return str(_backends.choose(backend, own.device, own.dtype).NAME)


def evaluation_record(policy: Actor | SpikingActor, name: str, env: str, episodes: int, seed: int) -> Record:
    """What a store keeps of an evaluation, but for its task; runs it.

    Args:
        policy: the dense actor, or a spiking one, whose exact setting is kept as well.
        name: the actor's, for people.
        env: a registered name.
        episodes: how many.
        seed: seed of the first.
    """
    started = time.perf_counter()
    result = asdict(evaluate(policy, env, episodes=episodes, seed=seed))
    if isinstance(policy, SpikingActor):
        result |= {"dynamics": policy.dynamics.to_dict(), "thresholds": thresholds_digest(policy.thresholds)}
    return {"actor": name, "result": result, "run": {"seconds": time.perf_counter() - started}}


def thresholds_digest(thresholds: Iterable[Tensor]) -> str:
    """A hash of thresholds: equal for equal ones."""
    digest = hashlib.sha256()
    for threshold in thresholds:
        digest.update(threshold.detach().cpu().double().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _mean(sample: Any, axis: int = -1) -> Any:
    return np.mean(sample, axis=axis)


def _average_ratio(*samples: Any, axis: int = -1) -> Any:
    means = [np.mean(sample, axis=axis) for sample in samples]
    return np.mean([spiking / dense for spiking, dense in zip(means[::2], means[1::2], strict=True)], axis=0)


def _bootstrap(statistic: Callable[..., Any], *samples: Sequence[float]) -> Interval:
    """Percentile bootstrap with a fixed generator, so that the same episodes give the same interval."""
    stats = require("scipy.stats", "rl", "a confidence interval")
    arrays = tuple(np.asarray(sample) for sample in samples)
    value = float(statistic(*arrays))
    if any(len(array) < 2 for array in arrays):
        return Interval(value, math.nan, math.nan)
    interval = stats.bootstrap(
        arrays,
        statistic,
        n_resamples=_RESAMPLES,
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(value, float(interval.low), float(interval.high))
