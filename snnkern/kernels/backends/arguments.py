"""What a whole actor must be before an engine is packed from it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from snnkern.errors import InputError
from snnkern.kernels.backends import ActorParts, BridgeStep, HiddenPart, LinearStep, NormStep
from snnkern.kernels.layers import by_shape
from snnkern.kernels.tensors import bounds, check_numbers, check_tensor, plain


def checked(actor: ActorParts) -> ActorParts:
    """The actor in memory that native code can read, where its tensors are what an actor's must be.

    Raises:
        InputError: a shape does not follow from the layer before and the interface; a dtype or device is not that of
            most; a number is NaN, infinite or out of range. Names the tensor as `state_dict` does.
    """
    interface = actor.interface
    kinds = Counter((tensor.dtype, tensor.device) for tensor in actor.tensors())
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

    def bridged(
        place: int, bridge: Sequence[BridgeStep], shape: tuple[int, ...]
    ) -> tuple[tuple[BridgeStep, ...], tuple[int, ...]]:
        """The bridge before a layer, for what comes in this shape, and the shape that it hands on."""
        found: list[BridgeStep] = []
        for index, step in enumerate(bridge):
            name = f"bridges.{place}.{index}"
            width = math.prod(shape)
            if isinstance(step, LinearStep):
                outputs = _outputs(step.weight)
                weight = part(f"{name}.weight", step.weight, width, outputs)
                found.append(LinearStep(weight, part(f"{name}.bias", step.bias, outputs)))
                shape = (outputs,)
            elif isinstance(step, NormStep):
                weight, bias = (part(f"{name}.{kind}", getattr(step, kind), width) for kind in ("weight", "bias"))
                found.append(NormStep(weight, bias, step.eps))
                shape = (width,)
            else:
                found.append(step)
        return tuple(found), shape

    hidden = []
    shape: tuple[int, ...] = interface.observation_shape
    thresholds: tuple[int, ...]
    for index, layer in enumerate(actor.hidden):
        name = f"hidden.{index}"
        bridge, shape = bridged(index, layer.bridge, shape)
        convolution, threshold = layer.convolution, layer.threshold
        if convolution is None:
            outputs = _outputs(layer.weight)
            weight = part(f"{name}.weight", layer.weight, math.prod(shape), outputs)
            shape = thresholds = (outputs,)
        else:
            if convolution.input_shape != shape:
                raise InputError(
                    f"{name} is a convolution of {by_shape(convolution.input_shape)}, but it receives {by_shape(shape)}"
                )
            outputs, shape = convolution.channels, convolution.output_shape
            weight = part(f"{name}.weight", layer.weight, *convolution.weight_shape)
            per_neuron = isinstance(threshold, Tensor) and threshold.dim() == 3
            thresholds = shape if per_neuron else (outputs,)
        bias = part(f"{name}.bias", layer.bias, outputs)
        threshold = part(f"{name}.threshold", threshold, *thresholds)
        hidden.append(HiddenPart(weight, bias, threshold, convolution, bridge))
    bridge, shape = bridged(len(actor.hidden), actor.bridge, shape)
    weight = part("output.weight", actor.output[0], math.prod(shape), actions)
    output = weight, part("output.bias", actor.output[1], actions)
    return ActorParts(hidden, output, interface._replace(**tensors), actor.dynamics, bridge)


def _outputs(weight: object) -> int:
    """The last size of a weight; 0 where it has none."""
    return weight.shape[-1] if isinstance(weight, Tensor) and weight.dim() else 0
