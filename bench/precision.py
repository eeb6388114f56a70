"""What the precisions of Triton's actor cost, against the reference in float64: how the engine packs weights, measured.

    python bench/precision.py            # a minute; neither a GPU nor an environment

The weights between hidden layers are taken as the engine packs them, and all else is float64: so this is what rounding
weights costs, not the order in which a GPU sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

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


@torch.no_grad()
def costs(kind: str) -> Iterator[tuple[str, Cost]]:
    """Of every precision, for one decision of `td3-halfcheetah` on what it sees in its environment."""
    actor = snnkern.load_actor("td3-halfcheetah")
    observations = torch.from_numpy(np.load(OBSERVATIONS).astype(np.float32))
    thresholds = list(snnkern.calibrate(actor, observations, "max"))
    dynamics = Dynamics(parse_neuron(kind.lower()), TIMESTEPS, 0.0)
    layers = [(layer.weight.T.contiguous(), layer.bias) for layer in [*actor.hidden, actor.output]]
    hidden = [HiddenPart(weight, bias, theta) for (weight, bias), theta in zip(layers[:-1], thresholds, strict=True)]
    parts = ActorParts(hidden, layers[-1], actor.interface.parts(), dynamics)
    exact = [tuple(tensor.double() for tensor in layer[:3]) for layer in hidden]
    output = tuple(tensor.double() for tensor in layers[-1])

    def decide(weights: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        every = [exact[0][0], *weights]
        given = [(weight.T, *rest) for weight, (_, *rest) in zip(every, exact, strict=True)]
        carry = [observations.new_zeros(len(observations), len(theta)).double() for theta in thresholds]
        decision = reference.actor(observations.double(), given, (output[0].T, output[1]), carry, dynamics)
        first, second = (layer.spikes for layer in decision.layers[:2])
        return first, second, decision.output.tanh()

    first, wanted, action = decide([exact[1][0]])
    sizes = first.abs() @ exact[1][0].abs()
    for precision in PRECISIONS:
        (weight,) = packed(parts, precision)
        _, spikes, found = decide([weight])
        error = (first @ (weight - exact[1][0])).abs()
        change = (found - action).abs()
        yield (
            precision,
            Cost(
                current=(error / sizes.clamp(min=1e-300)).max().item(),
                spikes=(spikes != wanted).any(dim=0).double().mean().item(),
                mean=change.mean().item(),
                largest=change.max().item(),
            ),
        )


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


if __name__ == "__main__":
    print(precision_table())
