"""What happens inside the layers of a spiking actor: residuals, the clamp of the carry, rasters of a few neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from numpy.typing import NDArray

from snnkern.control.follow import as_observations, replay
from snnkern.kernels import reference
from snnkern.limits import MOST_TIMESTEPS, Amount, Number
from snnkern.policies.spiking import SpikingActor, reference_parts

_BINS = 80
_REACH = 2.0  # thresholds


@dataclass(frozen=True)
class Residuals:
    """What one hidden layer owes at the end of its decisions; shares and sizes over neurons with θ > 0 and decisions.

    Attributes:
        edges: of the bins of r / θ, from −2 to 2; the outermost bins also hold what lies beyond.
        share: of the non-zero residuals in each bin.
        owing: share that is not zero. A neuron whose current is negative throughout owes nothing.
        mean: of r / θ where it is not zero.
        large: share of the non-zero residuals beyond ±θ: more than one spike too few or too many.
        one_too_many: share of the non-zero residuals that are −θ, to 1e-3: one spike was sent where the mean current is
            not positive, or one more than the mean current is worth.
        clamped: share of the non-zero residuals whose carry the clamp cuts.
        carry: root mean square of c / θ, over all.
    """

    edges: list[Number]
    share: list[Amount]
    owing: Amount
    mean: Number
    large: Amount
    one_too_many: Amount
    clamped: Amount
    carry: Amount


def residuals(snn: SpikingActor, observations: NDArray[np.floating], running: NDArray[np.bool_]) -> list[Residuals]:
    """The residuals of every hidden layer along recorded observations `[decisions, rows, *observation_shape]`.

    Args:
        snn: the spiking actor; its carry stays as it is.
        observations: each row a sequence.
        running: which decisions count, `[decisions, rows]`.

    Raises:
        InputError: the observations do not fit the actor.
    """
    edges = np.linspace(-_REACH, _REACH, _BINS + 1)
    counts = np.zeros((len(snn.hidden), _BINS))
    sums = np.zeros((len(snn.hidden), 7))  # all, non-zero, Σ r/θ, beyond ±θ, −θ, clamped, Σ (c/θ)²
    for decisions, rows in zip(replay(snn, observations), running, strict=True):
        for index, (decision, layer) in enumerate(zip(decisions, snn.hidden, strict=True)):
            per_neuron = layer.per_neuron(layer.threshold)
            alive = per_neuron > 0
            threshold = per_neuron[alive]
            chosen = torch.from_numpy(rows)
            owed = (decision.residual[chosen][:, alive] / threshold).double().cpu().numpy()
            carried = (decision.carry[chosen][:, alive] / threshold).double().cpu().numpy()
            cut = (decision.carry != decision.unclamped)[chosen][:, alive].cpu().numpy()
            some = owed[owed != 0]
            inside = np.clip(some, edges[0], np.nextafter(edges[-1], 0))
            counts[index] += np.histogram(inside, edges)[0]
            large, single = (np.abs(some) > 1.001).sum(), (np.abs(some + 1) < 1e-3).sum()
            sums[index] += owed.size, some.size, some.sum(), large, single, cut.sum(), (carried**2).sum()
    found = []
    for count, (every, some, total, large, single, cut, carried) in zip(counts, sums, strict=True):
        number = max(some, 1.0)
        found.append(
            Residuals(
                edges=edges.tolist(),
                share=(count / number).tolist(),
                owing=float(some / max(every, 1.0)),
                mean=float(total / number),
                large=float(large / number),
                one_too_many=float(single / number),
                clamped=float(cut / number),
                carry=float(np.sqrt(carried / max(every, 1.0))),
            )
        )
    return found


@dataclass(frozen=True)
class RasterLayer:
    """Some neurons of one hidden layer through some decisions; all in units of θ.

    Attributes:
        neurons: which.
        spikes: what was sent at every simulation step, `[D · T][neurons]`.
        potentials: membrane potential at the end of every simulation step, `[D · T][neurons]`.
        carries: the carry that each decision started with, `[D][neurons]`.
    """

    neurons: Annotated[list[int], Meta(max_length=100)]
    spikes: list[list[Number]]
    potentials: list[list[Number]]
    carries: list[list[Number]]


@dataclass(frozen=True)
class Raster:
    """A sequence of decisions of an episode, as the reference computes it.

    Attributes:
        first: the first decision's step in the episode.
        decisions: D.
        timesteps: T.
        layers: the hidden layers.
    """

    first: int
    decisions: Annotated[int, Meta(ge=1, le=100)]
    timesteps: Annotated[int, Meta(ge=1, le=MOST_TIMESTEPS)]
    layers: Annotated[list[RasterLayer], Meta(min_length=1, max_length=100)]


@torch.no_grad()
def raster(
    snn: SpikingActor, observations: NDArray[np.floating], *, first: int = 100, decisions: int = 6, neurons: int = 8
) -> Raster:
    """A few decisions of one episode: spikes, potentials and carry of the neurons that spike most in them.

    Args:
        snn: the spiking actor; its carry stays as it is.
        observations: one episode, `[steps, *observation_shape]`.
        first: where to begin; earlier where the episode is too short.
        decisions: how many, at most as many as there are steps.
        neurons: of each layer, at most.
    """
    decisions = min(decisions, len(observations))
    first = max(0, min(first, len(observations) - decisions))
    width, parts = len(snn.hidden), reference_parts(snn)
    carries = [layer.threshold.new_zeros(1, *layer.neuron_shape) for layer in snn.hidden]
    started: list[list[torch.Tensor]] = [[] for _ in range(width)]
    found: list[list[reference.Decision]] = [[] for _ in range(width)]
    for step, observation in enumerate(observations[: first + decisions]):
        row = as_observations(snn, observation)[None]
        done = reference.actor(snn.interface.normalize(row), carries=carries, dynamics=snn.dynamics, **parts)
        for index, decision in enumerate(done.layers):
            if step >= first:
                started[index].append(carries[index][0].flatten())
                found[index].append(decision)
            carries[index] = decision.carry
    layers = []
    for index, layer in enumerate(snn.hidden):
        every = layer.per_neuron(layer.threshold)
        spikes = torch.cat([decision.spikes[:, 0].flatten(1) for decision in found[index]])
        alive = int((every > 0).sum())
        busiest = (spikes != 0).sum(dim=0).where(every > 0, -1).argsort(descending=True, stable=True)
        chosen = busiest[: min(neurons, alive)].sort().values
        threshold = every[chosen]
        potentials = torch.cat([decision.potentials[:, 0].flatten(1) for decision in found[index]])
        layers.append(
            RasterLayer(
                neurons=chosen.tolist(),
                spikes=(spikes[:, chosen] / threshold).tolist(),
                potentials=(potentials[:, chosen] / threshold).tolist(),
                carries=(torch.stack(started[index])[:, chosen] / threshold).tolist(),
            )
        )
    return Raster(first, decisions, snn.dynamics.timesteps, layers)
