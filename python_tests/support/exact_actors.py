"""Actors that see whose numbers are small multiples of powers of two: no sum is rounded, in whatever order.

So the engine must give what the reference gives, bit for bit, also where a potential stands exactly on a threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor

import snnkern
from snnkern import Neuron, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.backends import cpu
from snnkern.policies.spiking import dense_actor
from support.visual import Form, frames, reference_layers, visual_actor, visual_thresholds


def dyadic(tensor: Tensor, unit: float) -> Tensor:
    return (tensor / unit).round() * unit


def exact_actor(
    form: Form, neuron: str | Neuron, *, size: float = 1.0, per_neuron: bool = False, seed: int = 0, **parameters
) -> SpikingActor:
    """Numbers are small multiples of powers of two: whatever is summed in float32 is exact."""
    actor = visual_actor(form, torch.float64, seed=seed, observation_scale=256.0)
    with torch.no_grad():
        for name, tensor in actor.named_parameters():
            if "bridge" not in name:
                tensor.copy_(dyadic(tensor, 1 / 8).clamp(-1, 1))
    thresholds = [
        torch.exp2((threshold * size).clamp(min=2**-4).log2().round().clamp(max=3))
        for threshold in visual_thresholds(actor, per_neuron=per_neuron)
    ]
    thresholds[0].view(-1)[0] = 0  # one that never fires
    given = {"timesteps": 4, "alpha": 0.5, "memory": 0.5} | parameters
    return snnkern.convert(actor.float(), thresholds=thresholds, neuron=neuron, **given)


def wanted_decisions(snn: SpikingActor, form: Form, rows: int, decisions: int) -> list:
    """By the reference, in float64: what `snn` decides for the frames of seeds 0, 1, …"""
    exact = dense_actor(snn).double()
    parts = reference_layers(exact, [threshold.double() for threshold in snn.thresholds])
    carries = [torch.zeros(rows, *layer.neuron_shape).double() for layer in snn.hidden]
    found = []
    for decision in range(decisions):
        pixels = torch.from_numpy(frames(rows, form.image, seed=decision))
        signal = exact.interface.normalize(pixels)
        decided = reference.actor(signal, carries=carries, dynamics=snn.dynamics, **parts)
        carries = [layer.carry for layer in decided.layers]
        found.append((exact.interface.action(decided.output), carries, [layer.counts for layer in decided.layers]))
    return found


def assert_decides(snn: SpikingActor, form: Form, rows: int, decisions: int) -> None:
    for decision, (action, carries, counts) in enumerate(wanted_decisions(snn, form, rows, decisions)):
        found = torch.from_numpy(snn.act(frames(rows, form.image, seed=decision)))
        assert type(snn._engine) is cpu.StagedEngine
        assert torch.equal(snn.spikes, torch.stack(counts))
        for layer, carry in zip(snn.hidden, carries, strict=True):
            assert torch.equal(layer.carry.value.double(), carry)
        torch.testing.assert_close(found.double(), action, rtol=1e-6, atol=1e-6)  # tanh alone is rounded
