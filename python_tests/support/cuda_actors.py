"""Actors on CUDA beside the same on the CPU's engine."""

from __future__ import annotations

import torch
from torch import Tensor

import snnkern
from snnkern import SpikingActor
from snnkern.kernels.backends import cuda
from support.cases import random_actor


def twins(widths, neuron, device, timesteps=5, *, seed=0, **parameters) -> tuple[SpikingActor, SpikingActor]:
    """The same actor on the CPU's engine and on CUDA."""
    actor, thresholds = random_actor(widths, seed=seed)
    ours, wanted = (
        snnkern.convert(actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, backend=backend, **parameters)
        for backend in ("cuda", "cpu")
    )
    return ours.to(device), wanted


def on_cuda(actor: SpikingActor, device) -> SpikingActor:
    """The same weights, thresholds and dynamics on CUDA."""
    layers = [(layer.weight.T, layer.bias) for layer in [*actor.hidden, actor.output]]
    dense = snnkern.Actor(layers[:-1], layers[-1], actor.interface)
    return SpikingActor(dense, actor.thresholds, actor.dynamics, backend="cuda").to(device)


def decide(actor: SpikingActor, observation: Tensor) -> Tensor:
    action = actor(observation.to(actor.output.weight.device)).cpu()
    assert isinstance(actor._engine, cuda.Engine)
    return action


def assert_twins(ours: SpikingActor, wanted: SpikingActor, observations: Tensor, resets=None) -> None:
    """Hidden layers in every bit, the output up to the rounding of its sum."""
    for step, observation in enumerate(observations):
        if resets and step in resets:
            ours.reset(resets[step])
            wanted.reset(resets[step])
        action = decide(ours, observation)
        torch.testing.assert_close(action, wanted(observation), rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.spikes.cpu(), wanted.spikes)
        for mine, other in zip(ours.hidden, wanted.hidden, strict=True):
            assert torch.equal(mine.carry.value.cpu(), other.carry.value)
