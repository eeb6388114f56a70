"""Actors on CUDA's kernel that sums integers, beside what it must give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import snnkern
from snnkern.kernels.backends import ActorParts, integers
from support.cases import random_actor


def packed(widths: Sequence[int], neuron, device, timesteps: int = 5, *, seed: int = 0, **parameters) -> ActorParts:
    """A random actor on CUDA as engines get it; parameters are those of the dynamics, and of the interface."""
    names = ("alpha", "memory", "clip")
    dynamics = {name: value for name, value in parameters.items() if name in names}
    interface = {name: value for name, value in parameters.items() if name not in names}
    actor, thresholds = random_actor(tuple(widths), seed=seed, **interface)
    snn = snnkern.convert(
        actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, backend="cuda", **dynamics
    ).to(device)
    snn._notice_changes()
    assert snn._packed is not None
    return snn._packed.parts


def made(parts: ActorParts) -> integers.Engine:
    engine = integers.engine(parts)
    assert engine is not None
    return engine


def assert_exact(
    parts: ActorParts, observations: Tensor, groups: int = 0, row_alpha: Tensor | None = None
) -> list[Tensor]:
    """Decides for `[decisions, B, inputs]`: hidden layers as `decide_slowly` has them, in every bit.

    Returns:
        the counts of every decision.
    """
    engine, rows = made(parts), observations.shape[1]
    observations = observations.to(parts.output[0])
    carries = [observations.new_zeros(rows, layer.weight.shape[1]) for layer in parts.hidden]
    wanted = [carry.clone() for carry in carries]
    counts = torch.full((len(carries), rows), -1, dtype=torch.int64, device=observations.device)
    engine._bind(carries, counts, row_alpha, groups)
    found = []
    for observation in observations:
        action = engine.decide(observation, True, 1)
        decided = integers.decide_slowly(parts, observation, wanted, row_alpha)
        wanted = decided.carries
        assert action is not None
        torch.testing.assert_close(action, decided.action, rtol=1e-5, atol=1e-5)
        assert torch.equal(counts, decided.counts)
        for carry, other in zip(carries, wanted, strict=True):
            assert torch.equal(carry, other)
        found.append(counts.clone())
    return found
