"""Spiking actors that see, on an engine, and their comparison with the reference in float64."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from snnkern import Dynamics, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.layers import spread
from snnkern.kernels.neurons import parse_neuron
from snnkern.policies.spiking import corrected_actor
from support.visual import Form, frames, reference_layers, visual_actor, visual_thresholds


def seeing(form: Form, neuron="if", timesteps: int = 4, *, backend: str, per_neuron: bool = False, **options):
    """A random spiking actor of this form."""
    dense = visual_actor(form)
    thresholds = visual_thresholds(dense, per_neuron=per_neuron)
    neuron = parse_neuron(neuron) if isinstance(neuron, str) else neuron
    return SpikingActor(dense, thresholds, Dynamics(neuron, timesteps, **options), backend=backend)


def episode(actor: SpikingActor, decisions: int, batch: int, *, seed: int = 1) -> Tensor:
    """Observations `[decisions, batch, C, H, W]`, uint8."""
    shape = actor.interface.observation_shape
    return torch.from_numpy(frames(decisions * batch, shape, seed=seed)).view(decisions, batch, *shape)


def assert_agrees(actor: SpikingActor, observations: Tensor, resets: dict[int, Tensor] | None = None) -> float:
    """Compares every decision of an episode with the reference's, on the rows that rounding cannot have changed so far.

    Args:
        observations: `[D, B, …]`.
        resets: the rows `[B]` to reset before a decision.

    Returns:
        the share of the rows that were compared to the end.
    """
    actor.reset()
    device = actor.output.weight.device
    exact = copy.deepcopy(actor).cpu().double()
    layers = reference_layers(corrected_actor(exact), exact.thresholds)
    shapes = [layer.neuron_shape for layer in exact.hidden]
    thresholds = [spread(layer.threshold, shape) for layer, shape in zip(exact.hidden, shapes, strict=True)]
    batch = observations.shape[1]
    carries = [torch.zeros(batch, *shape, dtype=torch.float64) for shape in shapes]
    row_alpha = actor.alpha if isinstance(actor.alpha, Tensor) else None
    sure = torch.ones(batch, dtype=torch.bool)
    for step, observation in enumerate(observations):
        if resets and step in resets:
            actor.reset(resets[step])
            for carry in carries:
                carry[resets[step]] = 0.0
        signal = exact.interface.normalize(observation)
        wanted = reference.actor(signal, carries=carries, dynamics=actor.dynamics, row_alpha=row_alpha, **layers)
        carries = [layer.carry.clone() for layer in wanted.layers]
        action = actor(observation.to(device)).cpu()
        assert actor._bound is not None
        sure &= torch.stack([layer.margin for layer in wanted.layers]).amin(dim=0) >= 1e-5
        expected = exact.interface.action(wanted.output)
        torch.testing.assert_close(action[sure].double(), expected[sure], rtol=1e-5, atol=1e-4)
        counts = torch.stack([layer.counts for layer in wanted.layers])
        assert torch.equal(actor.spikes.cpu()[:, sure], counts[:, sure])
        most = max(threshold.amax() for threshold in thresholds)
        for layer, carry, threshold in zip(actor.hidden, carries, thresholds, strict=True):
            found = layer.carry.value.cpu().double()
            assert found.shape == carry.shape
            error = (found - carry).flatten(1).abs()
            assert bool((error <= 1e-4 * threshold + 1e-5 * most)[sure].all())
            bound = actor.dynamics.clip * threshold * (1 + 1e-6)
            assert bool((found.flatten(1).abs() <= bound).all())
    return float(sure.double().mean())


def assert_replays(captured, ours: SpikingActor, observations: Tensor) -> None:
    """A captured decision decides as the actor does, with a carry of its own; some rows are reset on the way."""
    for step, observation in enumerate(observations):
        if step == 2:
            mask = torch.arange(observation.shape[0], device=observation.device) % 2 == 0
            captured.reset(mask)
            ours.reset(mask)
        captured.observation.copy_(observation)
        torch.testing.assert_close(captured.replay(), ours(observation), rtol=0, atol=1e-6)
        assert torch.equal(captured.spikes, ours.spikes)
        for mine, layer in zip(captured.carries, ours.hidden, strict=True):
            assert torch.equal(mine, layer.carry.value)
    captured.reset()
    assert not any(bool(carry.any()) for carry in captured.carries)
