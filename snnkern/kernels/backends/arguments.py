"""What a whole actor must be before an engine is packed from it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.backends import ActorParts
from snnkern.kernels.tensors import bounds, check_numbers, check_tensor, plain


def checked(actor: ActorParts) -> ActorParts:
    """The actor in memory that native code can read, where its tensors are what an actor's must be.

    Raises:
        InputError: a shape does not follow from the layer before and the interface; a dtype or device is not that of
            most; a number is NaN, infinite or out of range. Names the tensor as `state_dict` does.
    """
    interface = actor.interface
    given = [tensor for layer in (*actor.hidden, actor.output, interface) for tensor in layer]
    kinds = Counter((tensor.dtype, tensor.device) for tensor in given if isinstance(tensor, Tensor))
    ((dtype, device), _), *_ = kinds.most_common(1) or [((torch.float32, torch.device("cpu")), 0)]

    def part(name: str, value: object, *shape: int) -> Tensor:
        tensor = check_tensor(name, value, shape, dtype, device)
        check_numbers(name, tensor, **bounds(name))
        return plain(tensor)

    inputs, actions = interface.observation_dim, interface.action_dim
    if (interface.observation_mean is None) != (interface.observation_std is None):
        raise InputError("interface.observation_mean and interface.observation_std go together: only one is there")
    widths = {"action_scale": actions, "action_bias": actions}
    if interface.observation_mean is not None:
        widths |= {"observation_mean": inputs, "observation_std": inputs}
    tensors: dict[str, Any] = {
        name: part(f"interface.{name}", getattr(interface, name), width) for name, width in widths.items()
    }
    hidden = []
    for index, (weight, bias, threshold) in enumerate(actor.hidden):
        neurons = weight.shape[-1] if isinstance(weight, Tensor) and weight.dim() else 0
        weight = part(f"hidden.{index}.weight", weight, inputs, neurons)
        bias = part(f"hidden.{index}.bias", bias, neurons)
        hidden.append((weight, bias, part(f"hidden.{index}.threshold", threshold, neurons)))
        inputs = neurons
    output = part("output.weight", actor.output[0], inputs, actions), part("output.bias", actor.output[1], actions)
    return ActorParts(hidden, output, interface._replace(**tensors), actor.dynamics)
