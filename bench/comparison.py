"""What a comparison is about: the task, and whether a contender decides as the reference does."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import snnkern
from snnkern import Actor, SpikingActor
from snnkern.analysis import latency
from snnkern.control.timing import Contender
from snnkern.kernels.neurons import Dynamics, parse_neuron

T = 8  # of everyone but snnkern, which runs all of TIMESTEPS
ALPHA = 0.2


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


def setting(neuron: str = "if", timesteps: int = T, alpha: float = ALPHA) -> Dynamics:
    return Dynamics(parse_neuron(neuron), timesteps, alpha)


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
    wanted = latency.expected(task.actor, task.thresholds, contender.setting, observations)
    found = latency.agreement(contender, observations, wanted, by_row)
    assert not found.wrong, f"{name}: {found.wrong} actions differ that rounding cannot decide"
    assert found.agreeing > 0.9, f"{name}: {1 - found.agreeing:.0%} of the actions differ"
    return {"certain": found.certain, "agreeing": found.agreeing}
