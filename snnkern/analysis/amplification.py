"""Finds where a conversion loses return: the CRPI paper's analysis of error amplification, for any actor and setting.

Four policies drive episodes from the same seeds: the dense actor, its spiking version without and with the residual
carry, and the dense actor with noise as large as the spiking version's errors. In every state that one of the first
three visits, the other policies choose an action too, which separates the effect of states from the effect of actions.

Source: Xu et al., "Error Amplification Limits ANN-to-SNN Conversion in Continuous Control", ICML 2026, section 4; the
controls with noise and with random actions are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypedDict

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from torch import Tensor

from snnkern.analysis.residuals import Raster, Residuals, raster, residuals
from snnkern.analysis.statistics import (
    Curve,
    Shift,
    autocorrelation,
    curve_over_steps,
    distances,
    low_frequency_share,
    mean_over_episodes,
    offset_share,
    root_mean_square,
    spectrum,
    state_shift,
)
from snnkern.control.environments import Environment
from snnkern.control.evaluation import RandomPolicy
from snnkern.control.follow import Trajectories, follow
from snnkern.control.intervals import Interval
from snnkern.control.rollout import Acts
from snnkern.errors import InputError
from snnkern.files import from_json, to_json
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import MOST_SIDE_BY_SIDE, Amount, Count, Number, check_episodes
from snnkern.policies.actor import Actor, check_actor, why_not_plain
from snnkern.policies.spiking import SpikingActor

DENSE, PLAIN, CRPI = "dense", "without CRPI", "with CRPI"
WHITE, CORRELATED, RANDOM, OTHER = "white noise", "correlated noise", "random actions", "other seeds"
LOW_FREQUENCY = 0.05  # cycles per decision
_TRACE = 200  # steps of the first episode's errors that are kept as they are


@dataclass(frozen=True)
class Returns:
    """Undiscounted returns that one policy's actions earn in the states that another one visits.

    Where they are the same policy it is its ordinary return. Where not, it is the sum over those states of what the
    action would have earned, the state then going on as if it had not been taken.

    Attributes:
        states: whose.
        actions: whose.
        returns: of every episode.
        mean: over episodes.
    """

    states: str
    actions: str
    returns: list[Number | None]
    mean: Interval


@dataclass(frozen=True)
class Errors:
    """Spiking minus dense action in the states that one of the two visits, as a fraction of half the action range.

    Numbers and curves are medians over episodes.

    Attributes:
        states: whose: the dense actor's (open loop) or the spiking policy's own (closed loop).
        actions: which spiking version's.
        size: root mean square over steps and action dimensions.
        size_over_time: the same at each step.
        offset_share: share of the power that is the episode's mean error.
        low_frequency_share: share of the power below `LOW_FREQUENCY`; white noise has twice that frequency.
        autocorrelation: by lag, the mean left in.
        spectrum: power by frequency, 1 for white noise.
        trace: errors of the first episode, `[steps ≤ 200][action_dim]`.
    """

    states: str
    actions: str
    size: Interval
    size_over_time: Curve
    offset_share: Interval
    low_frequency_share: Interval
    autocorrelation: Curve
    spectrum: Curve
    trace: list[Annotated[list[Number], Meta(min_length=1)]]


@dataclass(frozen=True)
class Divergence:
    """How far a policy's states are from the dense actor's.

    Attributes:
        states: whose.
        distance: between runs from the same seed, in standard deviations of the dense actor's states, by step;
            the median over episodes.
        shift: between the distributions of states.
        lengths: steps of every episode.
    """

    states: str
    distance: Curve
    shift: Shift
    lengths: list[Count]


class Noise(TypedDict):
    """Standard deviation in each action dimension, in action units, and what part stays from step to step."""

    deviation: list[Amount]
    kept: Number


@dataclass(frozen=True, kw_only=True)
class Findings:
    """The results of `analyze`.

    Attributes:
        episodes: how many, with the seeds seed, seed + 1, …; "other seeds" are the dense actor's next ones.
        seed: of the first.
        returns: for pairs of states and actions.
        errors: without and with CRPI, open and closed loop.
        divergences: of the spiking policies, the noisy ones, and the dense actor from other seeds.
        noise: as large as the errors, and correlated like them.
        residuals: of each spiking version's hidden layers, in the states that it visits.
        raster: a few decisions of a few neurons.
    """

    episodes: Count
    seed: int
    returns: Annotated[list[Returns], Meta(min_length=1, max_length=100)]
    errors: list[Errors]
    divergences: list[Divergence]
    noise: Noise
    residuals: Annotated[
        dict[str, Annotated[list[Residuals], Meta(min_length=1, max_length=100)]], Meta(min_length=1, max_length=10)
    ]
    raster: Raster


@dataclass(frozen=True, kw_only=True)
class Analysis(Findings):
    """The same with its setting.

    Attributes:
        dynamics: the setting with CRPI; the one without has α = μ = 0.
    """

    dynamics: Dynamics

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON, where None stands for what is not a number."""
        described = {**vars(self), "dynamics": self.dynamics.to_dict(), "low_frequency": LOW_FREQUENCY}
        return from_json(to_json(described), dict[str, Any], "an analysis")


def check_plain(actor: Actor) -> None:
    """Refuses an actor that `analyze` cannot look into.

    Raises:
        InputError: it sees images, or has convolutions or bridges.
    """
    if not actor.is_plain:
        raise InputError(
            f"analyze compares states that are vectors, and tries actions in copies: {why_not_plain(actor)}"
        )


def analyze(
    actor: Actor,
    env: Environment,
    dynamics: Dynamics,
    *,
    thresholds: Sequence[Tensor],
    corrected: Actor | None = None,
    episodes: int = 20,
    seed: int = 1000,
    backend: str = "auto",
    progress: Callable[[str, int, int], None] | None = None,
) -> Analysis:
    """Finds where a conversion loses return: in states or actions, and by which errors.

    Args:
        actor: the dense actor.
        env: a registered name, or a function that makes the environment.
        dynamics: neuron, T, α, μ, κ. If α and μ are 0, there is nothing to compare, and "with CRPI" is left out.
        thresholds: θ of every hidden layer, `[N]` each; see `calibrate`.
        corrected: the actor that spikes, if the conversion has corrected its weights or biases
            (`snnkern.policies.spiking.corrected_actor`); by default the dense actor.
        episodes: number per policy, run side by side.
        seed: seed of the first episode.
        backend: a name from `snnkern.backends()`, or "auto".
        progress: called with the present task, the number of its steps that are done, and their total.

    Raises:
        InputError: the environment does not exist or does not fit the actor, a parameter is out of range, or the actor
            sees images.
        Error: the environment's rewards depend on more than its state, which is copied.
    """
    episodes, seed = check_episodes(episodes, seed, most=MOST_SIDE_BY_SIDE)
    check_plain(check_actor(actor))
    report = progress or (lambda task, done, total: None)

    def run(driver: str, *others: str, first: int = seed) -> Trajectories:
        chosen = {name: policies[name] for name in (driver, *others)}
        task = f"{driver} drives" if first == seed else f"{driver} drives, {OTHER}"
        return follow(
            driver,
            chosen,
            env,
            episodes=episodes,
            seed=first,
            progress=lambda done, total: report(task, done, total),
        )

    spiking = _spiking_versions(corrected or actor, thresholds, dynamics, backend)
    random = RandomPolicy(env, [seed, 0], actor)
    policies: dict[str, Acts] = {DENSE: actor, **spiking, RANDOM: random}
    runs = {DENSE: run(DENSE, *spiking, RANDOM)}
    for name in spiking:
        runs[name] = run(name, DENSE)
    interface = actor.interface
    # Without a tanh its range is the environment's, to which its actions are clipped.
    half = interface.action_scale.abs().cpu().numpy() if interface.squash else (random.high - random.low) / 2
    half_range = np.broadcast_to(half, interface.action_dim)
    errors = [
        _errors(states, name, runs[states], half_range)
        for states, name in [*((DENSE, name) for name in spiking), *((name, name) for name in spiking)]
    ]

    size = _error_size(runs[DENSE], PLAIN)
    kept = _kept(errors[0].autocorrelation)
    for index, (name, part) in enumerate(((WHITE, 0.0), (CORRELATED, kept)), 1):
        policies[name] = _Noisy(actor, size, part, random, np.random.default_rng([seed, index]))
        runs[name] = run(name)
    runs[OTHER] = run(DENSE, first=seed + episodes)
    divergences = [_divergence(name, found, runs[DENSE]) for name, found in runs.items() if name != DENSE]

    inside: dict[str, list[Residuals]] = {}
    for name, snn in spiking.items():
        report("inside the layers", len(inside), len(spiking))
        inside[name] = residuals(snn, runs[name].observations, runs[name].running)
    report("inside the layers", len(spiking), len(spiking))
    shown = CRPI if CRPI in spiking else PLAIN
    first_episode = runs[shown].observations[: runs[shown].lengths[0], 0]
    return Analysis(
        dynamics=dynamics,
        episodes=episodes,
        seed=seed,
        returns=_returns(runs),
        errors=errors,
        divergences=divergences,
        noise={"deviation": size.tolist(), "kept": kept},
        residuals=inside,
        raster=raster(spiking[shown], first_episode),
    )


def _spiking_versions(
    actor: Actor, thresholds: Sequence[Tensor], dynamics: Dynamics, backend: str
) -> dict[str, SpikingActor]:
    """Without the carry and, where the setting has one, with it."""
    settings = {PLAIN: replace(dynamics, alpha=0.0, memory=0.0)}
    if settings[PLAIN] != dynamics:
        settings[CRPI] = dynamics
    return {name: SpikingActor(actor, thresholds, setting, backend=backend) for name, setting in settings.items()}


def _returns(runs: dict[str, Trajectories]) -> list[Returns]:
    found = []
    for states, run in runs.items():
        for actions, rewards in run.rewards.items():
            sums = rewards.sum(axis=0)
            found.append(
                Returns(states, DENSE if states == OTHER else actions, sums.tolist(), mean_over_episodes(sums))
            )
    return found


def _errors(states: str, name: str, run: Trajectories, half_range: NDArray[Any]) -> Errors:
    errors = (run.actions[name] - run.actions[DENSE]) / half_range
    running = run.running
    return Errors(
        states=states,
        actions=name,
        size=root_mean_square(errors, running),
        size_over_time=curve_over_steps(np.sqrt((errors**2).mean(axis=2)), running),
        offset_share=offset_share(errors, running),
        low_frequency_share=low_frequency_share(errors, running, LOW_FREQUENCY),
        autocorrelation=autocorrelation(errors, running),
        spectrum=spectrum(errors, running),
        trace=errors[: min(_TRACE, run.lengths[0]), 0].tolist(),
    )


def _error_size(run: Trajectories, name: str) -> NDArray[np.float64]:
    """Root mean square error of each action dimension in the median episode, in action units."""
    errors = run.actions[name] - run.actions[DENSE]
    squares = np.where(run.running[..., None], errors**2, 0.0).sum(axis=0) / run.lengths[:, None]
    size: NDArray[np.float64] = np.sqrt(np.median(squares, axis=0))
    return size


def _kept(correlation: Curve) -> float:
    """The errors' autocorrelation at lag 1, 0 … 1: what part of a correlated noise stays from step to step."""
    value = correlation.value[1] if len(correlation.value) > 1 else None
    return min(max(value or 0.0, 0.0), 1.0)


def _divergence(name: str, run: Trajectories, dense: Trajectories) -> Divergence:
    scale = dense.observations[dense.running].std(axis=0)
    scale = np.where(scale > 1e-6, scale, 0.0)
    both = min(len(run.observations), len(dense.observations))
    return Divergence(
        states=name,
        distance=curve_over_steps(
            distances(run.observations, dense.observations, scale), run.running[:both] & dense.running[:both]
        ),
        shift=state_shift(run.observations, run.running, dense.observations, dense.running, scale),
        lengths=run.lengths.tolist(),
    )


class _Noisy:
    """The dense actor with Gaussian noise of a given size, a part of which stays from step to step."""

    def __init__(
        self, actor: Actor, size: NDArray[np.float64], kept: float, bounds: RandomPolicy, generator: np.random.Generator
    ) -> None:
        self.actor = actor
        self.size = size
        self.kept = kept
        self.bounds = bounds
        self.generator = generator
        self.noise: NDArray[np.float64] | None = None

    def act(self, observation: NDArray[Any]) -> NDArray[Any]:
        action = self.actor.act(observation)
        fresh = self.size * self.generator.standard_normal(action.shape)
        kept = self.kept
        self.noise = fresh if self.noise is None else kept * self.noise + np.sqrt(1 - kept**2) * fresh
        return np.clip(action + self.noise, self.bounds.low, self.bounds.high)
