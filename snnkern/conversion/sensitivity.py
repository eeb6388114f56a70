"""Measures how much an error inside an actor moves its action, state by state.

If tanh is saturated or a neuron's receivers are silent, an error costs nothing; elsewhere a small error may be the
whole difference between two actions. `snnkern.conversion.fitting` weights errors by this.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from snnkern.policies.actor import Actor

# Nodes and weights of the mean over a standard normal variable.
_NODES, _WEIGHTS = (tuple(map(float, row)) for row in np.polynomial.hermite_e.hermegauss(9))
# What a state in which nothing moves the action counts of the average one: a spiking actor visits others, too.
FLOOR = 0.01


@dataclass(frozen=True)
class Sensitivity:
    """Squared movement of the action per squared error, over each column's mean plus a floor; about 1 on average.

    Attributes:
        hidden: of the activations of every hidden layer, `[S, N]`.
        output: of z, `[S, action_dim]`.
    """

    hidden: list[Tensor]
    output: Tensor


def sensitivity(actor: Actor, activations: Sequence[Tensor], deviation: Tensor, floor: float = FLOOR) -> Sensitivity:
    """Sensitivity of an actor's action, before it is scaled, in S states.

    Errors of z are not small, so the slope of tanh is taken over the errors that are there:
    E[(tanh(z + e) − tanh(z))²] / E[e²] for normal e.

    Args:
        actor: the dense actor.
        activations: of its hidden layers in these states, `[S, N]` each.
        deviation: standard deviation of the errors of z, `[action_dim]`.
        floor: what a state in which nothing moves the action counts of the average one.

    Returns:
        the squared slopes, propagated back through the weights of the layers above and the neurons that are active.
        Errors are taken to be independent of each other, so that squares add up over the actions.

    Source: errors weighted by the curvature of the loss that they cause, as in Hassibi and Stork, "Second Order
    Derivatives for Network Pruning: Optimal Brain Surgeon", NeurIPS 1992; here for actions instead of a loss.
    """
    z = actor.output(activations[-1])
    squared = squared_slope(z, deviation) if actor.interface.squash else torch.ones_like(z)
    slopes = squared.sqrt()
    hidden = [torch.zeros_like(activation) for activation in activations]
    for action in range(z.shape[1]):
        gradient = slopes[:, action : action + 1] * actor.output.weight[action]
        for index in range(len(hidden) - 1, -1, -1):
            hidden[index] += gradient.square()
            if index:
                gradient = (gradient * actor.passes(index, activations[index])) @ actor.hidden[index].weight
    return Sensitivity([relative(layer, floor) for layer in hidden], relative(squared, floor))


def squared_slope(z: Tensor, deviation: Tensor) -> Tensor:
    """E[(tanh(z + e) − tanh(z))²] / E[e²] `[S, action_dim]` for normal e of this deviation `[action_dim]`."""
    deviation = deviation.clamp(min=1e-6)
    action = torch.tanh(z)
    squares = torch.zeros_like(z)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        squares += weight / math.sqrt(2.0 * math.pi) * (torch.tanh(z + node * deviation) - action).square()
    return squares / deviation.square()


def relative(squared: Tensor, floor: float) -> Tensor:
    """Over each column's mean, plus the floor; 1 for a column that moves nothing anywhere."""
    mean = squared.mean(dim=0)
    return torch.where(mean > 0, squared / mean.clamp(min=torch.finfo(squared.dtype).tiny), 1.0) + floor
