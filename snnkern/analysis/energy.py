"""Counts the spikes, operations and energy of a spiking actor's decisions, on recorded observations.

Every floating-point addition and multiplication of `docs/semantics.md` is counted, with thresholds folded into weights
and the weights of one level summed before they are scaled. Comparisons, tanh and the observation's normalisation are
left out for spiking and dense actors alike. `docs/energy.md` has the rules in words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from snnkern.control.follow import LayerDecision, as_observations, replay
from snnkern.conversion.activations import chunk_rows
from snnkern.errors import InputError, check_number
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import Dynamics
from snnkern.limits import MOST_PICOJOULES, Amount
from snnkern.policies.actor import Actor
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.stateless import Norm, Readout


@dataclass(frozen=True)
class Energies:
    """The energy of each kind of operation, in picojoules.

    Attributes:
        multiplication: of two 32-bit floating-point numbers.
        addition: of two 32-bit floating-point numbers. With the multiplication: 4.6 pJ per multiply-accumulate.
        scaling: multiplication by a power of two, which spikes of MT and DC below the largest level need. It costs
            as much as any multiplication unless the hardware shifts exponents.
        read: of one parameter. The usual figures leave memory out.

    Source: Horowitz, "Computing's energy problem (and what we can do about it)", ISSCC 2014, for 45 nm.
    """

    multiplication: float = 3.7
    addition: float = 0.9
    scaling: float = 3.7
    read: float = 0.0

    def __post_init__(self) -> None:
        for each in fields(self):
            check_number(f"the pJ of one {each.name}", getattr(self, each.name), least=0, most=MOST_PICOJOULES)


@dataclass(frozen=True)
class Operations:
    """Operations per decision: additions, multiplications, multiplications by a power of two, parameter reads."""

    additions: float = 0.0
    multiplications: float = 0.0
    scalings: float = 0.0
    reads: float = 0.0

    def __add__(self, other: Operations) -> Operations:
        return Operations(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def nanojoules(self, energies: Energies) -> float:
        """Energy per decision, in nJ."""
        return 1e-3 * (
            self.additions * energies.addition
            + self.multiplications * energies.multiplication
            + self.scalings * energies.scaling
            + self.reads * energies.read
        )


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer per decision.

    Attributes:
        name: "hidden 1", …, "output".
        spikes: sent by this layer.
        synaptic_operations: weights that a spike from the layer before reaches.
        synapses: operations on weights.
        neurons: operations of the neurons: potentials, DC's decoding, the carry.
    """

    name: str
    spikes: float
    synaptic_operations: float
    synapses: Operations
    neurons: Operations

    @property
    def operations(self) -> Operations:
        """The operations of synapses and neurons together."""
        return self.synapses + self.neurons


@dataclass(frozen=True)
class Cost:
    """The cost of a decision, layer by layer."""

    layers: tuple[LayerCost, ...]

    @property
    def spikes(self) -> float:
        """Spikes per decision."""
        return sum(layer.spikes for layer in self.layers)

    @property
    def synaptic_operations(self) -> float:
        """Synaptic operations per decision."""
        return sum(layer.synaptic_operations for layer in self.layers)

    @property
    def operations(self) -> Operations:
        """Operations per decision."""
        return sum((layer.operations for layer in self.layers), Operations())

    def nanojoules(self, energies: Energies | None = None) -> float:
        """Energy per decision; by the 45 nm figures unless others are given."""
        return self.operations.nanojoules(energies or Energies())

    def summary(self, energies: Energies | None = None) -> CostSummary:
        """Totals and layers as numbers."""
        energies = energies or Energies()

        def numbers(of: Cost | LayerCost) -> dict[str, float]:
            spent = of.operations.nanojoules(energies)
            counts = {"spikes": of.spikes, "synaptic_operations": of.synaptic_operations}
            return {**counts, **vars(of.operations), "nanojoules": spent}

        layers = [
            LayerSummary(
                name=layer.name,
                **numbers(layer),
                nanojoules_synapses=layer.synapses.nanojoules(energies),
                nanojoules_neurons=layer.neurons.nanojoules(energies),
            )
            for layer in self.layers
        ]
        return CostSummary(**numbers(self), layers=layers)

    def to_dict(self, energies: Energies | None = None) -> dict[str, Any]:
        """Totals and layers; ready for JSON."""
        return asdict(self.summary(energies))


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Spikes, operations and nanojoules of a decision."""

    spikes: Amount
    synaptic_operations: Amount = 0.0
    additions: Amount = 0.0
    multiplications: Amount = 0.0
    scalings: Amount = 0.0
    reads: Amount = 0.0
    nanojoules: Amount


@dataclass(frozen=True, kw_only=True)
class LayerSummary(_Counts):
    """What a layer costs, as numbers."""

    name: str
    nanojoules_synapses: Amount
    nanojoules_neurons: Amount


@dataclass(frozen=True, kw_only=True)
class CostSummary(_Counts):
    """What a decision costs, as numbers."""

    layers: list[LayerSummary] = field(default_factory=list)


@torch.no_grad()
def dense_cost(actor: Actor, observations: NDArray[np.floating] | None = None) -> Cost:
    """Counts the cost of the dense actor: a multiply-accumulate and a read for each weight, and a read for each bias.

    A convolution uses a weight at every place of its output, and is counted there each time; what it pads with is not.

    Args:
        actor: the dense actor.
        observations: `[N, *observation_shape]`; where they are given, weights whose input is zero are skipped, as
            hardware with zero-skipping does: the mean over these observations.

    Raises:
        InputError: the observations do not fit the actor.
    """
    active = [torch.ones(actor.interface.observation_dim, dtype=torch.float64)]
    active += [torch.ones(_size(layer, one), dtype=torch.float64) for layer, one in _geometries(actor)]
    if observations is not None:
        sums = [torch.zeros_like(rates) for rates in active[1:]]
        for start in range(0, len(observations), (rows := chunk_rows(actor))):
            chunk = as_observations(actor, observations[start : start + rows])
            for total, activation in zip(sums, actor.hidden_activations(chunk), strict=True):
                total += (activation != 0).flatten(1).sum(dim=0).cpu()
        active[1:] = [total / len(observations) for total in sums]
    chains = dict(actor.bridges.items())
    layers: list[tuple[nn.Module, Convolution | None]] = [*_geometries(actor), (actor.output, None)]
    return Cost(
        tuple(
            LayerCost(name, 0.0, 0.0, _real_inputs(rates, layer, one, chains.get(str(index), ())), Operations())
            for index, (name, rates, (layer, one)) in enumerate(
                zip(_names(len(actor.hidden)), active, layers, strict=True)
            )
        )
    )


def spiking_cost(snn: SpikingActor, observations: NDArray[Any], running: NDArray[np.bool_] | None = None) -> Cost:
    """Counts the cost of a spiking actor: the mean over its decisions along recorded observations.

    Args:
        snn: the spiking actor; its carry stays as it is.
        observations: `[decisions, rows, *observation_shape]`, each row a sequence, or one sequence
            `[decisions, *observation_shape]`.
        running: which decisions count, `[decisions, rows]`; all of them unless given.

    Raises:
        InputError: the observations do not fit the actor, or no decision counts.
    """
    if observations.ndim == 1 + len(snn.interface.observation_shape):
        observations = observations[:, None]
    counting = np.ones(observations.shape[:2], dtype=bool) if running is None else running
    if counting.shape != observations.shape[:2] or not counting.any():
        raise InputError(
            f"running must be a boolean {list(observations.shape[:2])} with a decision that counts, "
            f"got shape {list(counting.shape)} with {int(counting.sum())}"
        )
    found = [_Sent(math.prod(layer.neuron_shape)) for layer in snn.hidden]
    for decisions, rows in zip(replay(snn, observations), counting, strict=True):
        for sent, decision, layer in zip(found, decisions, snn.hidden, strict=True):
            threshold = layer.per_neuron(layer.threshold)
            sent.add(decision, threshold, snn.dynamics.neuron.levels, torch.from_numpy(rows))
    for sent in found:
        sent.divide(int(counting.sum()))

    dynamics = snn.dynamics
    chains = dict(snn.bridges.items())
    layers = []
    for index, (name, layer, sent) in enumerate(zip(_names(len(snn.hidden)), snn.hidden, found, strict=False)):
        width = len(sent.spikes)
        chain = chains.get(str(index), ())
        # What does not spike is real: its current is computed once, and is the same at every step.
        constant = index == 0 or bool(chain)
        if constant:
            inputs = torch.ones(snn.interface.observation_dim) if index == 0 else found[index - 1].active
            synaptic, synapses = 0.0, _real_inputs(inputs.double(), layer, layer.convolution, chain)
        else:
            before = found[index - 1]
            synaptic = float(before.spikes @ _reached(layer, layer.convolution, width=len(before.spikes)))
            synapses = Operations(additions=synaptic, scalings=before.smaller_levels * width, reads=synaptic + width)
        spikes = float(sent.spikes.sum())
        neurons = _neurons(dynamics, width, spikes, first=constant) + _carry(dynamics, width)
        layers.append(LayerCost(name, spikes, synaptic, synapses, neurons))
    chain = chains.get(str(len(snn.hidden)), ())
    synapses = _real_inputs(found[-1].active, snn.output, None, chain)
    layers.append(LayerCost("output", 0.0, 0.0, synapses, Operations()))
    return Cost(tuple(layers))


class _Sent:
    """What a layer sent: of every neuron the spikes, and whether its mean was not zero; smaller levels in use."""

    def __init__(self, neurons: int) -> None:
        self.spikes, self.active = torch.zeros(2, neurons, dtype=torch.float64)
        self.smaller_levels = 0.0

    def add(self, decision: LayerDecision, threshold: torch.Tensor, levels: int, rows: torch.Tensor) -> None:
        """Takes in the rows that count.

        The weights that a step's spikes of one level meet are summed first, and scaled once for every receiving neuron.
        """
        spikes = decision.spikes[:, rows]
        size = spikes.abs()
        alive = threshold > 0
        used = sum(int((alive & (size == threshold / 2**level)).any(dim=2).sum()) for level in range(1, levels))
        self.spikes += (spikes != 0).sum(dim=(0, 1)).cpu()
        self.active += (decision.mean[rows] != 0).sum(dim=0).cpu()
        self.smaller_levels += used

    def divide(self, decisions: int) -> None:
        """From sums to means."""
        self.spikes, self.active = self.spikes / decisions, self.active / decisions
        self.smaller_levels /= decisions


def _geometries(actor: Actor) -> Iterator[tuple[nn.Module, Convolution | None]]:
    return zip(actor.hidden, actor.convolutions, strict=True)


def _size(layer: nn.Module, geometry: Convolution | None) -> int:
    """Neurons of a layer."""
    return len(cast("torch.Tensor", layer.bias)) if geometry is None else math.prod(geometry.output_shape)


def _reached(layer: nn.Module, geometry: Convolution | None, width: int) -> torch.Tensor:
    """How many neurons each of `width` senders reaches, float64 `[width]`."""
    outputs = _size(layer, geometry)
    if geometry is None:
        return torch.full((width,), float(outputs), dtype=torch.float64)
    axes = []
    _, *sizes = geometry.input_shape
    _, *places = geometry.output_shape
    for size, number, kernel, stride, padding in zip(
        sizes, places, geometry.kernel, geometry.stride, geometry.padding, strict=True
    ):
        offset = torch.arange(size)[:, None] + padding - torch.arange(number) * stride  # in the kernel of each place
        axes.append(((offset >= 0) & (offset < kernel)).sum(dim=1).double())
    reach = axes[0][:, None] * axes[1] * geometry.channels
    return reach.expand(geometry.input_shape).reshape(-1)


def _real_inputs(
    active: torch.Tensor, layer: nn.Module, geometry: Convolution | None, chain: Iterable[nn.Module]
) -> Operations:
    """A layer that receives real numbers, which are not zero so often `[senders]`; and the bridge before it.

    Of a layer normalisation: the mean, the deviations, their squares, the quotients, weight and bias.
    """
    total = Operations()
    for step in chain:
        width = len(cast("torch.Tensor", step.bias)) if hasattr(step, "bias") else len(active)
        if isinstance(step, nn.Linear | Readout):
            total += _products(float(active.sum()) * width, width)
        elif isinstance(step, nn.LayerNorm | Norm):
            total += Operations(additions=4.0 * width, multiplications=3.0 * width, reads=2.0 * width)
        active = torch.ones(width, dtype=torch.float64)
    return total + _products(float(active @ _reached(layer, geometry, len(active))), _size(layer, geometry))


def _products(products: float, outputs: int) -> Operations:
    """Real inputs times weights, the sums beginning with the bias."""
    return Operations(additions=products, multiplications=products, reads=products + outputs)


def _neurons(dynamics: Dynamics, width: int, spikes: float, first: bool) -> Operations:
    """The neurons' own updates over T steps."""
    steps = dynamics.timesteps * width
    if not dynamics.neuron.differential:
        # u takes weights in directly; at every step the bias, or the first layer's current, is added to it, and at
        # every spike θ or λ is taken off. A leak multiplies u at every step.
        return Operations(additions=steps + spikes, multiplications=steps if dynamics.neuron.leak else 0)
    # At every step u ← u + x + e^x − e and Q = t·e; with x also e^x ← e^x + x / t, where the first layer's x comes at
    # t = 1 alone; at every spike u ← u − s and e ← e + s / t.
    arriving, divided = (width, 0) if first else (steps, steps)
    return Operations(
        additions=2 * steps + 2 * arriving + 2 * spikes,
        multiplications=steps + divided + spikes,
    )


def _carry(dynamics: Dynamics, width: int) -> Operations:
    """r = max(u − u_0, −Q), c ← μ·c + α·r, u_0 = β·θ + c; DC has its Q already. Nothing without a carry."""
    if not dynamics.alpha and not dynamics.memory:
        return Operations()
    remembers, starts = dynamics.memory > 0, dynamics.neuron.initial_fraction > 0
    counts = not dynamics.neuron.differential
    return Operations(
        additions=float(width * (1 + remembers + starts)), multiplications=float(width * (1 + remembers + counts))
    )


def _names(hidden: int) -> Sequence[str]:
    return [*(f"hidden {index + 1}" for index in range(hidden)), "output"]
