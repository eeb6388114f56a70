"""What a comparison is about: the task, what a contender is, and whether it decides as the reference does."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import snnkern
from snnkern import Actor, SpikingActor, reference
from snnkern.neurons import Dynamics, parse_neuron

T = 8  # of everyone but snnkern, which runs all of TIMESTEPS
ALPHA = 0.2
# A float64 run that comes closer than this to firing or not, as a fraction of θ, may be decided by rounding.
MARGIN = 1e-5
TOLERANCE = 1e-4


class Missing(Exception):
    """A contender that cannot take part, and why."""


@dataclass(frozen=True)
class Contender:
    """One way of computing actions.

    Attributes:
        act: the action for what `prepare` makes of a NumPy observation; what is timed.
        reset: starts a new episode.
        setting: neuron, T and α that the actions must agree with; None for the dense actor.
        threads: what torch.set_num_threads is set to; ONNX Runtime always has one.
    """

    act: Callable[[Any], Any]
    reset: Callable[[], None] = lambda: None
    prepare: Callable[[NDArray[np.float32]], Any] = lambda observation: observation
    setting: tuple[str, int, float] | None = None
    threads: int = 1


@dataclass(frozen=True)
class Task:
    """An actor, its thresholds, and the consecutive observations `[N, observation_dim]` of a rollout."""

    actor: Actor
    thresholds: list[Tensor]
    observations: NDArray[np.float32]

    def layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(layer.weight, layer.bias) for layer in [*self.actor.hidden, self.actor.output]]

    def convert(self, neuron: str, timesteps: int, alpha: float = ALPHA, backend: str = "auto") -> SpikingActor:
        return snnkern.convert(
            self.actor,
            thresholds=self.thresholds,
            neuron=neuron,
            timesteps=timesteps,
            alpha=alpha,
            backend=backend,
        )

    def action(self, z: Tensor) -> NDArray[np.float32]:
        return self.actor.interface.action(z).numpy()


def record(steps: int = 10_000) -> Task:
    """The zoo's HalfCheetah actor, what it sees in so many steps, and thresholds at the maximum of its activations."""
    actor = snnkern.load_actor("td3-halfcheetah")
    observations = snnkern.collect(actor, "HalfCheetah-v5", steps, seed=0)
    return Task(actor, snnkern.calibrate(actor, observations, "max"), observations)


def rows(observations: NDArray[np.float32], batch: int, decisions: int) -> NDArray[np.float32]:
    """`[decisions, batch, observation_dim]`: consecutive observations in a row, rows far apart."""
    apart = (len(observations) - decisions) // batch
    return np.stack([observations[np.arange(batch) * apart + decision] for decision in range(decisions)])


def optional(name: str) -> ModuleType:
    """Imports an optional package.

    Raises:
        Missing: it is not installed, or does not import.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except Exception as error:  # an incompatible package fails in its own way
            raise Missing(f"{type(error).__name__}: {error}") from error


def check(
    task: Task, name: str, contender: Contender, observations: NDArray[np.float32], by_row: bool
) -> dict[str, float]:
    """Compares actions for `[decisions, batch, observation_dim]` with the reference's in float64 (DC: float32).

    Returns:
        "certain": the share of actions that rounding cannot have decided, in their decision or one before it;
        "agreeing": the share of all actions within the tolerance.

    Raises:
        AssertionError: a certain action differs, or one in ten of all.
    """
    expected, certain = _expected(task, contender.setting, observations)
    actions = np.empty(expected.shape)
    groups = [[row] for row in range(observations.shape[1])] if by_row else [slice(None)]
    for group in groups:
        contender.reset()
        for decision, observation in enumerate(observations[:, group]):
            given = contender.prepare(np.ascontiguousarray(observation[0] if by_row else observation))
            actions[decision, group] = np.asarray(contender.act(given))
    contender.reset()
    agreeing = (np.abs(actions - expected) <= TOLERANCE).all(axis=-1)
    assert agreeing[certain].all(), f"{name}: {(~agreeing[certain]).sum()} actions differ that rounding cannot decide"
    assert agreeing.mean() > 0.9, f"{name}: {1 - agreeing.mean():.0%} of the actions differ"
    return {"certain": float(certain.mean()), "agreeing": float(agreeing.mean())}


def _expected(
    task: Task, setting: tuple[str, int, float] | None, observations: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    # Whether a DC neuron may take a spike back turns on rounding of what it has sent, the same in every float32 run.
    dtype = torch.float32 if setting and setting[0] == "dc" else torch.float64
    layers = [(weight.to(dtype), bias.to(dtype)) for weight, bias in task.layers()]
    inputs = torch.from_numpy(observations).to(dtype)
    action = task.actor.interface.action
    if setting is None:
        signal = inputs
        for weight, bias in layers[:-1]:
            signal = torch.relu(reference.linear(signal, weight, bias))
        actions = action(reference.linear(signal, *layers[-1])).numpy()
        return actions, np.ones(actions.shape[:-1], dtype=bool)
    neuron, timesteps, alpha = setting
    dynamics = Dynamics(parse_neuron(neuron), timesteps, alpha, 0.0, 0.5)
    hidden = [(*layer, theta.to(dtype)) for layer, theta in zip(layers, task.thresholds, strict=False)]
    carries = [inputs.new_zeros(inputs.shape[1], len(theta)) for theta in task.thresholds]
    actions, certainties = [], []
    certain = torch.ones(inputs.shape[1], dtype=torch.bool)
    for observation in inputs:
        decided = reference.actor(observation, hidden, layers[-1], carries, dynamics)
        carries = [layer.carry for layer in decided.layers]
        for layer in decided.layers:
            certain = certain & (layer.margin > MARGIN)
        actions.append(action(decided.output).numpy())
        certainties.append(certain.numpy())
    return np.stack(actions), np.stack(certainties)
