"""Actors on the CPU engine, the ways to call one, and its comparison with the reference in float64."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

import snnkern
from snnkern import SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.backends import cpu
from support.cases import random_actor

# The builds that this machine runs, or the one that the environment asks for.
_FORCED = os.environ.get("SNNKERN_ISA", "")
ISAS: list[str] = [] if cpu._cpu is None else [_FORCED] if _FORCED else cpu._cpu.isas()

# How a decision for observations `[B, I]` can be asked for.
FORMS: dict[str, Callable[[SpikingActor, Tensor], Tensor]] = {
    "tensor": lambda actor, x: actor(x),
    "strided tensor": lambda actor, x: actor(torch.stack([x, x], dim=2)[:, :, 0]),
    "array": lambda actor, x: torch.from_numpy(actor.act(x.numpy())),
    "float64 array": lambda actor, x: torch.from_numpy(actor.act(x.numpy().astype(np.float64))),
    "strided array": lambda actor, x: torch.from_numpy(actor.act(np.repeat(x.numpy(), 2, axis=1)[:, ::2])),
    "rows of one": lambda actor, x: torch.from_numpy(actor.act(x[0].numpy()))[None] if len(x) == 1 else actor(x),
}


def engine_actor(widths, neuron="if", timesteps=4, *, seed=0, check_finite=True, **dynamics) -> SpikingActor:
    actor, thresholds = random_actor(widths, seed=seed)
    return snnkern.convert(
        actor, thresholds=thresholds, neuron=neuron, timesteps=timesteps, check_finite=check_finite, **dynamics
    )


def runs_on_engine(actor: SpikingActor) -> bool:
    return actor._bound is not None


def carries(actor: SpikingActor) -> list[Tensor]:
    return [layer.carry.value for layer in actor.hidden]


def reference_decisions(actor: SpikingActor, observations: Tensor, resets: dict[int, Tensor]):
    """Actions, spike counts, carries and margins of every decision, `[D, B, …]`, by the reference in float64."""
    actor = copy.deepcopy(actor).cpu()
    hidden = [(layer.weight.T.double(), layer.bias.double(), layer.threshold.double()) for layer in actor.hidden]
    output = (actor.output.weight.T.double(), actor.output.bias.double())
    interface = actor.interface.double()
    row_alpha = actor.alpha if isinstance(actor.alpha, Tensor) else None
    carry = [torch.zeros(observations.shape[1], len(threshold), dtype=torch.float64) for _, _, threshold in hidden]
    actions, counts, after, margins = [], [], [], []
    for step, observation in enumerate(observations.double()):
        for layer in carry:
            layer[resets.get(step, torch.zeros(len(layer), dtype=torch.bool))] = 0.0
        decision = reference.actor(interface.normalize(observation), hidden, output, carry, actor.dynamics, row_alpha)
        carry = [layer.carry.clone() for layer in decision.layers]
        actions.append(interface.action(decision.output))
        counts.append(torch.stack([layer.counts for layer in decision.layers]))
        after.append(torch.cat(carry, dim=1))
        margins.append(torch.stack([layer.margin for layer in decision.layers]).amin(dim=0))
    return torch.stack(actions), torch.stack(counts), torch.stack(after), torch.stack(margins)


def assert_agrees(
    actor: SpikingActor,
    observations: Tensor,
    resets: dict[int, Tensor] | None = None,
    forms: list[str] | None = None,
) -> float:
    """Compares every decision of an episode with the reference's, on the rows that rounding cannot have changed so far.

    Args:
        observations: `[D, B, I]`.
        resets: the rows `[B]` to reset before a decision.
        forms: how each decision is asked for, names in `FORMS`; as a tensor, where there are none.

    Returns:
        the share of the rows that were compared to the end.
    """
    actor.reset()
    resets = resets or {}
    actions, counts, after, margins = reference_decisions(actor, observations, resets)
    device = actor.output.weight.device
    threshold = torch.cat(actor.thresholds).double().cpu()
    near = 1e-4 * threshold + 1e-5 * threshold.amax()  # small thresholds receive the spikes of large ones
    most_spikes = actor.dynamics.timesteps * torch.tensor([len(layer) for layer in actor.thresholds])
    sure = torch.ones(observations.shape[1], dtype=torch.bool)
    for step, observation in enumerate(observations):
        if step in resets:
            actor.reset(resets[step])
        action = FORMS[forms[step] if forms else "tensor"](actor, observation.to(device)).cpu()
        assert runs_on_engine(actor)
        carry, spikes = torch.cat(carries(actor), dim=1).double().cpu(), actor.spikes.cpu()
        sure &= margins[step] >= 1e-5
        torch.testing.assert_close(action[sure].double(), actions[step][sure], rtol=1e-5, atol=1e-4)
        assert torch.equal(spikes[:, sure], counts[step][:, sure])
        assert bool(((carry - after[step]).abs() <= near)[sure].all())
        # What holds for the others, too.
        assert bool(torch.isfinite(action).all())
        assert bool((carry.abs() <= actor.dynamics.clip * threshold * (1 + 1e-6)).all())
        assert bool((spikes <= most_spikes[:, None]).all())
    return float(sure.double().mean()) if len(sure) else 1.0
