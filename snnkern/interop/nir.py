"""Exports spiking actors of IF neurons as graphs of NIR, the Neuromorphic Intermediate Representation.

NIR describes layers and neurons. The caller adds what NIR cannot describe: the number of steps T, the potential that a
decision starts with, reset by subtraction (NIR's IF is reset to a value), the carry, and the interface to the
environment. NIR cannot describe SNM, MT and DC neurons at all, and its LIF neuron leaks in continuous time.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnkern.errors import InputError, require
from snnkern.kernels import reference
from snnkern.policies.actor import why_not_plain
from snnkern.policies.spiking import SpikingActor

_WHY = {
    "differential": "its spikes are changes of a rate that the receiver integrates",
    "multilevel": "it sends spikes of several sizes",
    "signed": "its negative spikes depend on what was sent before",
    "leak": "it loses a part of its potential at every step, NIR's LIF one in continuous time",
}


def to_nir(snn: SpikingActor, *, dt: float = 1e-4) -> Any:
    """Exports a spiking actor of IF neurons as a NIR graph: input; Affine and IF for each hidden layer; Affine, output.

    Currents are divided by each neuron's threshold, so that every threshold and every spike is 1: simulators that want
    one threshold for all neurons can read the graph. The input is a normalised observation, the same at each of the T
    steps; give the mean of the output over the steps to `snn.interface.action`.

    Run it with reset by subtraction, from the potentials that `start` returns.

    Args:
        snn: of `snnkern.IF` neurons.
        dt: a simulation step in seconds; the resistance is 1 / dt, so that a step adds the current itself.

    Returns:
        a `nir.NIRGraph`; its nodes are "input", "layer_1", "neuron_1", …, "readout", "output".

    Raises:
        InputError: other neurons, which NIR cannot express; an actor that sees; or dt is not above 0.
        MissingDependencyError: nir is not installed.
    """
    nir = require("nir", "nir", "to_nir")
    thresholds = _check(snn)
    if not isinstance(dt, int | float) or not 0 < dt < float("inf"):
        raise InputError(f"dt must be a number of seconds above 0, got {dt!r}")
    inputs = torch.tensor([snn.interface.observation_dim]).numpy()
    nodes: dict[str, Any] = {"input": nir.Input({"input": inputs})}
    sent = torch.ones(snn.interface.observation_dim, dtype=torch.float64)
    for number, (layer, threshold) in enumerate(zip(snn.hidden, thresholds, strict=True), 1):
        scale = torch.where(threshold > 0, 1 / threshold, 0.0)  # without a threshold nothing is ever sent
        weight = layer.weight.detach().cpu().double().T * sent * scale[:, None]
        nodes[f"layer_{number}"] = nir.Affine(_array(weight), _array(layer.bias.detach().cpu().double() * scale))
        ones = torch.ones_like(threshold)
        nodes[f"neuron_{number}"] = nir.IF(r=_array(ones / dt), v_threshold=_array(ones), v_reset=_array(ones * 0))
        sent = threshold
    weight = snn.output.weight.detach().cpu().double().T * sent
    nodes["readout"] = nir.Affine(_array(weight), _array(snn.output.bias.detach().cpu().double()))
    nodes["output"] = nir.Output({"output": torch.tensor([snn.interface.action_dim]).numpy()})
    names = list(nodes)
    return nir.NIRGraph(nodes, list(itertools.pairwise(names)))


def start(snn: SpikingActor, batch: int) -> list[Tensor]:
    """The potentials that a decision in the graph starts with, β + c / θ, `[batch, N]` for every hidden layer.

    c is `snn.carry`, which `carry_on` keeps; an episode starts with none.

    Raises:
        InputError: other neurons than IF, or a carry of another batch.
    """
    thresholds = _check(snn)
    beta = snn.dynamics.neuron.initial_fraction
    carries = _carries(snn, batch)
    return [
        torch.where(threshold > 0, beta + carry / threshold, beta).float()
        for carry, threshold in zip(carries, thresholds, strict=True)
    ]


def carry_on(snn: SpikingActor, potentials: Sequence[Tensor], spikes: Sequence[Tensor]) -> None:
    """Computes the carry after a decision of the graph, and sets `snn.carry` to it (`docs/semantics.md`).

    Args:
        snn: whose carry the decision started with.
        potentials: at the end of the decision, `[B, N]` for every hidden layer.
        spikes: how many each neuron sent in the decision, `[B, N]` for every hidden layer.

    Raises:
        InputError: other neurons than IF, or a carry of another batch.
    """
    thresholds = _check(snn)
    carries = _carries(snn, len(potentials[0]))
    beta = snn.dynamics.neuron.initial_fraction
    after = []
    for carry, threshold, potential, count in zip(carries, thresholds, potentials, spikes, strict=True):
        gained = potential.double() * threshold - (beta * threshold + carry)
        after.append(reference.residual_carry(gained, count.double() * threshold, carry, threshold, snn.dynamics))
    snn.carry = [carry.to(layer.threshold) for carry, layer in zip(after, snn.hidden, strict=True)]


def _carries(snn: SpikingActor, batch: int) -> list[Tensor]:
    return [layer.start(batch).cpu().double() for layer in snn.hidden]


def _check(snn: SpikingActor) -> list[Tensor]:
    """The thresholds of a spiking actor that NIR can express, float64 `[N]` each."""
    if not isinstance(snn, SpikingActor):
        raise InputError(f"snn must be a SpikingActor (see convert), got {type(snn).__name__}")
    if not snn.is_plain:
        raise InputError(f"only actors of vectors and Linear layers are exported to NIR: {why_not_plain(snn)}")
    neuron = snn.dynamics.neuron
    for trait, why in _WHY.items():
        if getattr(neuron, trait):
            raise InputError(f"NIR cannot express {neuron.label} neurons: {why}. Convert with neuron='if'")
    return [threshold.detach().cpu().double() for threshold in snn.thresholds]


def _array(tensor: Tensor) -> Any:
    return tensor.float().contiguous().numpy()
