"""The files of actors and spiking actors: safetensors with a description."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from snnkern.errors import CheckpointError, InputError, check_number
from snnkern.files import StrPath, write_tensors
from snnkern.kernels.backends.choice import check_name
from snnkern.kernels.neurons import Dynamics
from snnkern.kernels.tensors import check_state, check_tensor
from snnkern.policies.activations import RELU
from snnkern.policies.actor import Actor, Conv, Interface, Policy, check_layer, layer_norm, linear
from snnkern.policies.readers.saved import (
    FORMAT_VERSION,
    ActorDescription,
    PolicyDescription,
    Saved,
    StepDescription,
    check_names,
    read_description,
    read_file,
)
from snnkern.policies.spiking import SpikingActor
from snnkern.policies.training import TrainableActor


def save_actor(actor: Actor, path: StrPath) -> None:
    """Saves an actor as safetensors; `load_actor` reads it back, equal bit for bit."""
    check_state(actor)  # before it is written in place of a good one
    description = {"format": "actor", **describe_policy(actor, len(actor.hidden), actor.architecture())}
    write_tensors(path, actor.state_dict(), description)


def describe_policy(policy: Policy, hidden_layers: int, architecture: Mapping[str, object]) -> dict[str, Any]:
    """What a file of a policy says beside its tensors; of Linear layers alone what it has always said."""
    return {
        "version": FORMAT_VERSION if "activation" in architecture else 1,  # which older releases read
        "hidden_layers": hidden_layers,
        "metadata": policy.metadata,
        **policy.interface.description(),
        **architecture,
    }


def interface_from(tensors: Mapping[str, Tensor], description: PolicyDescription) -> Interface:
    """The interface that a file's tensors and description say."""
    buffers: dict[str, Any] = {name.removeprefix("interface."): tensors[name] for name in interface_names(description)}
    for name, buffer in buffers.items():  # before anything as wide as the description says is made
        width = description.action_dim if name.startswith("action") else description.observation_dim
        if tuple(buffer.shape) != (width,):
            raise InputError(f"interface.{name} must be [{width}], got shape {list(buffer.shape)}")
    clip, shape = description.observation_clip, description.observation_shape
    if shape is not None and math.prod(shape) != description.observation_dim:
        raise InputError(f"an observation of {list(shape)} has not {description.observation_dim:,} numbers")
    return Interface(
        description.observation_dim if shape is None else shape,
        description.action_dim,
        squash=description.squash,
        observation_clip=math.inf if clip is None else clip,
        dtype=buffers["action_scale"].dtype,
        observation_dtype=None if description.observation_dtype is None else torch.uint8,
        observation_scale=description.observation_scale,
        observation_offset=description.observation_offset,
        **buffers,
    )


def interface_names(description: PolicyDescription) -> list[str]:
    """Names of the buffers of the interface that a description speaks of."""
    names = ["action_scale", "action_bias"]
    if description.normalized:
        names += ["observation_mean", "observation_std"]
    return [f"interface.{name}" for name in names]


def actor_from_description(tensors: dict[str, Tensor], text: str) -> Actor:
    """The dense actor that a file's tensors and description say.

    Raises:
        CheckpointError: the tensors are not those of the description, or it is of another kind of file.
    """
    description = read_description(text, ActorDescription)
    layers = [*(f"hidden.{index}" for index in range(description.hidden_layers)), "output"]
    wanted = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    wanted += bridge_names(description) + interface_names(description)
    check_names("an actor", tensors, wanted)
    return _actor(layers, tensors, interface_from(tensors, description), description, description.activation)


def bridge_names(description: PolicyDescription) -> list[str]:
    """Names of the tensors of the bridges that a description speaks of."""
    return [
        f"bridges.{place}.{index}.{part}"
        for place, steps in description.bridges.items()
        for index, step in enumerate(steps)
        for part in ("weight", "bias")
        if step.kind != "tanh"
    ]


class SpikingDescription(PolicyDescription, tag_field="format", tag="spiking-actor"):
    """The metadata of a spiking actor's file, in addition to its tensors.

    Attributes:
        dynamics: neuron, T, α, μ and κ, as `Dynamics.to_dict` has them.
        check_finite: whether observations with a NaN or an infinity are refused.
        carry: whether the carry is among the tensors.
        corrected: whether the dense layers are, since the spiking ones have been corrected; version 0.1 did neither.
    """

    dynamics: dict[str, Any]
    check_finite: bool
    carry: bool
    corrected: bool = False


def save(policy: Actor | SpikingActor, path: StrPath, *, include_carry: bool = False) -> None:
    """Saves an actor or a spiking actor as safetensors; a file at `path` is replaced only when the new one is whole.

    Args:
        policy: the actor or spiking actor.
        path: the file.
        include_carry: whether a spiking actor's carry is saved too, to resume in the middle of an episode.

    Raises:
        InputError: the file cannot be written; a number is NaN or infinite, or a threshold below 0.
    """
    if isinstance(policy, Actor):
        save_actor(policy, path)
        return
    if not isinstance(policy, SpikingActor):
        inside = ": save its .actor" if isinstance(getattr(policy, "actor", None), SpikingActor) else ""
        inside = ": save its .spiking()" if isinstance(policy, TrainableActor) else inside
        raise InputError(f"only an Actor or a SpikingActor can be saved, got {type(policy).__name__}{inside}")
    if isinstance(policy.alpha, Tensor):
        raise InputError("alpha (α) is set for every row: set it to one number before the actor is saved")
    check_state(policy)
    tensors = dict(policy.state_dict())
    carries = [layer.carry.value for layer in policy.hidden]
    has_carry = include_carry and carries[0] is not None
    if has_carry:
        tensors |= {f"hidden.{index}.carry": carry for index, carry in enumerate(carries)}
    description = {
        "format": SpikingDescription.__struct_config__.tag,
        **describe_policy(policy, len(policy.hidden), policy.architecture()),
        "dynamics": policy.dynamics.to_dict(),
        "corrected": bool(policy.original),
        "check_finite": policy.check_finite,
        "carry": has_carry,
    }
    write_tensors(path, tensors, description)


def load(path: StrPath, *, backend: str = "auto") -> SpikingActor:
    """Loads a spiking actor that `save` wrote, equal bit for bit.

    Args:
        path: the file.
        backend: a name from `snnkern.backends()`, or "auto".

    Raises:
        InputError: the file does not exist.
        CheckpointError: it is truncated, or not a spiking actor's.
    """
    check_name(backend)
    return restore(read_file(path), backend)


def restore(saved: Saved, backend: str) -> SpikingActor:
    """The spiking actor that a file holds, every complaint naming the file."""
    try:
        return _assemble(saved, backend)
    except InputError as error:
        raise CheckpointError(f"{saved.name}: {error}") from error


def _assemble(saved: Saved, backend: str) -> SpikingActor:
    tensors = saved.tensors
    found = read_description(saved.description, SpikingDescription)
    if found.activation != RELU and not found.corrected:
        raise InputError(f"it says that its dense actor's activation is {found.activation}, but has no dense layers")
    hidden = [f"hidden.{index}" for index in range(found.hidden_layers)]
    parts = ["weight", "bias", "threshold", *(["carry"] if found.carry else [])]
    wanted = [f"{layer}.{part}" for layer in hidden for part in parts]
    wanted += ["output.weight", "output.bias", *bridge_names(found), *interface_names(found)]
    dense = [f"original.{index}" for index in range(len(hidden) + 1)] if found.corrected else []
    wanted += [f"{layer}.{part}" for layer in dense for part in ("weight", "bias")]
    check_names("a spiking actor", tensors, wanted)
    interface = interface_from(tensors, found)
    # Matrices are [in, out] here; of what is no matrix, `Actor` says what it should be.
    turned = {name: tensor.mT if tensor.dim() == 2 else tensor for name, tensor in tensors.items()}
    policy = SpikingActor(
        _actor([*hidden, "output"], turned, interface, found),
        [tensors[f"{layer}.threshold"] for layer in hidden],
        Dynamics.from_dict(found.dynamics),
        original=_actor(dense, turned, interface, found, found.activation) if found.corrected else None,
        backend=backend,
        check_finite=found.check_finite,
    )
    if found.carry:
        for layer, name in zip(policy.hidden, hidden, strict=True):
            carry = tensors[f"{name}.carry"]
            rows = tensors["hidden.0.carry"].shape[:1]
            if carry.dtype != layer.threshold.dtype:
                raise InputError(f"{name}.carry is {carry.dtype}, but its threshold is {layer.threshold.dtype}")
            if carry.shape != (*rows, *layer.neuron_shape):
                neurons = ", ".join(map(str, layer.neuron_shape))
                raise InputError(f"{name}.carry must be [B, {neurons}], got {list(carry.shape)}")
            layer.carry.value = carry
    return policy


def _actor(
    layers: Sequence[str],
    tensors: dict[str, Tensor],
    interface: Interface,
    description: PolicyDescription,
    activation: str = RELU,
) -> Actor:
    """The dense actor that tensors and their description say, by the names of its layers.

    Raises:
        InputError: they do not fit each other.
    """
    if unknown := sorted({*description.convolutions, *description.bridges} - {*map(str, range(len(layers)))}):
        raise InputError(f"there is no layer {unknown[0]} among the {len(layers)}")
    if str(len(layers) - 1) in description.convolutions:
        raise InputError("the output layer cannot be a convolution")
    made: list[Any] = []
    for index, name in enumerate(layers):
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        found = description.convolutions.get(str(index))
        made.append((weight, bias) if found is None else Conv(weight, bias, found.stride, found.padding))
    bridges = {
        int(place): [_step(f"bridges.{place}.{index}", step, tensors) for index, step in enumerate(steps)]
        for place, steps in description.bridges.items()
    }
    return Actor(made[:-1], made[-1], interface, description.metadata, bridges, activation)


def _step(name: str, step: StepDescription, tensors: dict[str, Tensor]) -> nn.Module:
    """A step of a bridge.

    Raises:
        InputError: its tensors are not those of such a step.
    """
    if step.kind == "tanh":
        return nn.Tanh()
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    if step.kind == "linear":
        check_layer(name, weight, bias, None)
        return linear(weight, bias)
    check_number(f"{name}'s eps", step.eps, 0, 1)
    for part, tensor in (("weight", weight), ("bias", bias)):
        check_tensor(f"{name}.{part}", tensor, (weight.numel(),), weight.dtype, weight.device)
    return layer_norm(weight.numel(), weight, bias, step.eps)
