"""How far a spiking actor's actions are from the dense actor's: what is measured, and what is learnt on."""

from __future__ import annotations

from types import EllipsisType

import torch
from torch import Tensor, nn

from snnkern.conversion.regression import matching_distance
from snnkern.policies.actor import Interface

Bounds = tuple[Tensor, Tensor]  # the least and the largest action that an environment gets, `[action_dim]` each


def action_error(actions: Tensor, answers: Tensor, interface: Interface, bounds: Bounds | None) -> Tensor:
    """The difference of what the environment gets, as a part of the action's scale, `[B, dimensions with a scale]`.

    Args:
        actions: of the spiking actor, `[B, action_dim]`.
        answers: the dense actor's.
        interface: of both.
        bounds: to which an environment clips them; None where it does not.
    """
    if bounds is not None:
        actions, answers = actions.clamp(*bounds), answers.clamp(*bounds)
    where = _with_scale(interface)
    return (actions - answers)[where] / interface.action_scale[where]


def matching_loss(results: Tensor, answers: Tensor, interface: Interface, bounds: Bounds | None = None) -> Tensor:
    """A distance from the output layer's results to actions whose gradient is the action error itself.

    With tanh it is `matching_distance`; without, half the squared error, which goes on as a straight line beyond the
    bounds. Where it is least, the mean action error is 0.

    Args:
        results: z, before tanh and scaling, `[B, action_dim]`.
        answers: the actions to come to, `[B, action_dim]`.
        interface: of the actor, whether it has a tanh, and its scale.
        bounds: the least and the largest action that the environment gets, `[action_dim]`, of an actor without tanh:
            what is beyond them is clipped to them.

    Returns:
        the mean over all dimensions whose scale is not 0, as a part of the action's scale.
    """
    where = _with_scale(interface)

    def as_results(actions: Tensor) -> Tensor:
        return ((actions - interface.action_bias) / interface.action_scale)[where]

    results, targets = results[where], as_results(answers)
    if interface.squash:
        return matching_distance(results, targets).mean()
    if bounds is None:
        return 0.5 * nn.functional.mse_loss(results, targets)
    ends = [as_results(bound) for bound in bounds]
    low, high = torch.minimum(*ends), torch.maximum(*ends)  # a negative scale turns them round
    inside, targets = results.clamp(low, high), targets.clamp(low, high)
    error = inside - targets
    return (0.5 * error.square() + (results - inside) * error).mean()


def _with_scale(interface: Interface) -> EllipsisType | tuple[EllipsisType, Tensor]:
    """The index of the action's dimensions that have a scale; in the others, all actions are the same."""
    kept = interface.action_scale != 0
    return ... if bool(kept.all()) else (..., kept)
