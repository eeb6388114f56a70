"""What the precisions of Triton's actor cost, against the reference in float64: how the engine packs weights, measured,
and how tensor cores add, emulated.

    python bench/precision.py            # two minutes; neither a GPU nor an environment

In the first table, the weights between hidden layers are taken as the engine packs them, and all else is float64: so
this is what rounding weights costs. In the second one, weights are in three parts, and currents are summed as tensor
cores do, or as float32 does (accumulation.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import accumulation
import numpy as np
import torch
from machine_code import KINDS, ROOT, table
from torch import Tensor

import snnkern
from snnkern import Dynamics
from snnkern.kernels import reference
from snnkern.kernels.backends import ActorParts, HiddenPart
from snnkern.kernels.backends.triton.engine import PRECISIONS, Engine, scaling
from snnkern.kernels.neurons import parse_neuron

OBSERVATIONS = ROOT / "bench" / "results" / "halfcheetah.npy"
TIMESTEPS = 8
EVERY = 25  # of the observations, one is summed as tensor cores do, which takes long


class Cost(NamedTuple):
    """What a precision costs, over all observations.

    Attributes:
        current: largest error of a neuron's summed current, as a share of the sum of its terms' sizes.
        spikes: share of the second layer's spike trains that are not the float64 reference's.
        mean, largest: difference of an action, in units of the action's range of ±1.
    """

    current: float
    spikes: float
    mean: float
    largest: float


def packed(parts: ActorParts, precision: str) -> list[Tensor]:
    """The weights between hidden layers that the engine multiplies with, `[in, out]` in float64."""
    engine = Engine(parts, precision)
    factor = scaling(parts.dynamics.neuron)[0]
    weights = []
    for before, layer, together in zip(parts.hidden, parts.hidden[1:], engine._weights[1:], strict=False):
        rows, columns = layer.weight.shape
        weights.append(together.double().sum(dim=0)[:rows, :columns] / factor / before.threshold.double()[:, None])
    return weights


class Subject:
    """`td3-halfcheetah` and what it sees in its environment, for one decision in float64.

    Attributes:
        parts: the actor's.
        first: what its first hidden layer sends, `[T, B, N]` in activation units.
        wanted: what its second one sends.
        action: `[B, 6]`.
        sizes: the sum of the sizes of a current's terms, `[T, B, N]`.
    """

    def __init__(self, kind: str, every: int = 1) -> None:
        actor = snnkern.load_actor("td3-halfcheetah")
        observations = torch.from_numpy(np.load(OBSERVATIONS).astype(np.float32))
        thresholds = list(snnkern.calibrate(actor, observations, "max"))
        dynamics = Dynamics(parse_neuron(kind.lower()), TIMESTEPS, 0.0)
        layers = [(layer.weight.T.contiguous(), layer.bias) for layer in [*actor.hidden, actor.output]]
        pairs = zip(layers[:-1], thresholds, strict=True)
        hidden = [HiddenPart(weight, bias, theta) for (weight, bias), theta in pairs]
        self.parts = ActorParts(hidden, layers[-1], actor.interface.parts(), dynamics)
        self._observations = observations[::every].double()
        self._layers = [tuple(tensor.double() for tensor in layer[:3]) for layer in hidden]
        self.weight = self._layers[1][0]
        self.first, self.wanted, self.action = self.decide(self.weight)
        self.sizes = self.first.abs() @ self.weight.abs()

    def decide(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Spikes of both layers and the action, with another weight between them."""
        (before, *rest), (_, *others) = self._layers
        weight_out, bias_out = (tensor.double() for tensor in self.parts.output)
        given = [(before.T, *rest), (weight.T, *others)]
        carry = [self._observations.new_zeros(len(self._observations), len(theta)) for _, theta in (rest, others)]
        output = weight_out.T, bias_out
        decision = reference.actor(self._observations, given, output, carry, self.parts.dynamics)
        first, second = (layer.spikes for layer in decision.layers[:2])
        return first, second, decision.output.tanh()

    def receive(self, current: Tensor) -> Tensor:
        """The second layer's spikes, for its current without bias `[T, B, N]`."""
        _, bias, theta = self._layers[1]
        dynamics, carry = self.parts.dynamics, torch.zeros_like(current[0])
        differential = dynamics.neuron.differential
        given = current if differential else current + bias
        return reference.neuron(given, theta, carry, dynamics, bias if differential else None).spikes

    def differing(self, spikes: Tensor) -> float:
        """The share of the second layer's spike trains that are not the wanted ones."""
        return (spikes != self.wanted).any(dim=0).double().mean().item()


@torch.no_grad()
def costs(kind: str) -> Iterator[tuple[str, Cost]]:
    """Of every precision, for one decision."""
    subject = Subject(kind)
    for precision in PRECISIONS:
        (weight,) = packed(subject.parts, precision)
        _, spikes, action = subject.decide(weight)
        error = (subject.first @ (weight - subject.weight)).abs()
        change = (action - subject.action).abs()
        yield (
            precision,
            Cost(
                current=(error / subject.sizes.clamp(min=1e-300)).max().item(),
                spikes=subject.differing(spikes),
                mean=change.mean().item(),
                largest=change.max().item(),
            ),
        )


@torch.no_grad()
def accumulated(kind: str) -> Iterator[tuple[str, accumulation.Error, float]]:
    """Of every way to sum currents, for one decision on a part of the observations: what it does to currents, and the
    share of spike trains that differ."""
    subject = Subject(kind, EVERY)
    parts = Engine(subject.parts, "float32")._weights[1].double() / scaling(subject.parts.dynamics.neuron)[0]
    units = subject.first / subject.parts.hidden[0].threshold.double()
    exact = units @ parts.sum(dim=0)
    for name, way in accumulation.WAYS.items():
        current = way(units.flatten(0, 1), parts).view_as(exact)
        error = accumulation.Error.of(current, exact, subject.sizes)
        yield name, error, subject.differing(subject.receive(current))


def precision_table() -> str:
    heading = [
        "precision",
        "error of a current, at most",
        "spike trains that differ",
        "an action, on average",
        "at most",
    ]
    rows = [
        [f"{kind}, {precision}", f"{cost.current:.1e}", f"{cost.spikes:.2%}", f"{cost.mean:.1e}", f"{cost.largest:.1e}"]
        for kind in KINDS
        for precision, cost in costs(kind)
    ]
    return table(heading, rows)


def accumulation_table() -> str:
    heading = ["currents", "error, at most", "mean error toward zero", "errors toward zero", "spike trains that differ"]
    rows = [
        [
            f"{kind}, {name}",
            f"{error.largest:.1e}",
            f"{-error.bias:.1e}",
            f"{error.toward_zero:.0%}",
            f"{differing:.3%}",
        ]
        for kind in KINDS
        for name, error, differing in accumulated(kind)
    ]
    return table(heading, rows)


if __name__ == "__main__":
    print(precision_table())
    print(accumulation_table())
