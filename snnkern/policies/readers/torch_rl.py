"""Actors from modules and state dicts: TD3, DDPG, SAC, DrQ-v2, CleanRL, Flax, Stable-Baselines3."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from snnkern.errors import CheckpointError, InputError
from snnkern.policies.activations import RELU, parse_activation
from snnkern.policies.actor import Actor, Interface, check_layer
from snnkern.policies.readers import sb3, visual
from snnkern.policies.readers.drqv2 import as_float
from snnkern.policies.readers.modules import changed, does_nothing, opened
from snnkern.policies.readers.saved import check_names

_ADVICE = "; snnkern.spikify converts other modules"
ASSUMED = "relu (assumed)"  # an actor's activation, in its metadata, where nobody has said it


def actor_from_module(
    module: nn.Sequential,
    *,
    action_scale: ArrayLike = 1.0,
    action_bias: ArrayLike = 0.0,
    metadata: Mapping[str, str] | None = None,
    observation_shape: Sequence[int] | None = None,
    observation_dtype: torch.dtype | None = None,
    observation_scale: float = 1.0,
    observation_offset: float = 0.0,
) -> Actor:
    """Makes an actor from an `nn.Sequential` of Linear, Conv2d and ReLU, with or without a Tanh at its end.

    A Flatten stands between the last convolution and the first Linear layer. Between ReLUs there may be more: Linear,
    LayerNorm and Tanh, which work on the mean (`docs/semantics.md`, "Bridges"). In place of all ReLUs there may be one
    other activation: Tanh, ELU, SELU, LeakyReLU, SiLU or GELU. A Sequential inside is opened, and Identity and, in
    evaluation, Dropout are left out.

    Args:
        module: with zero padding, and neither groups nor dilation in its convolutions.
        action_scale: a number or `[action_dim]`.
        action_bias: a number or `[action_dim]`.
        metadata: where the actor comes from.
        observation_shape: of an image, `(C, H, W)`; a module that begins with a Conv2d needs it.
        observation_dtype: `torch.uint8` for pixels; by default that of the module.
        observation_scale: what an observation is divided by before the module gets it; 255 for pixels.
        observation_offset: what is added then.

    Raises:
        InputError: names the modules that do not fit the pattern, or compute something of their own.
    """
    if not isinstance(module, nn.Sequential):
        raise InputError(
            f"module must be an nn.Sequential, got {type(module).__name__}: snnkern.spikify converts other modules"
        )
    chain = chain_of(module)
    ending = chain.pop() if chain and isinstance(chain[-1][1], nn.Tanh) and not changed(chain[-1][1]) else None
    squash = ending is not None
    hidden, output, bridges, activation = visual.assemble(chain, observation_shape, _ADVICE)
    begins = next(child for _, child in chain if isinstance(child, nn.Linear | nn.Conv2d))
    first = begins.weight
    if isinstance(begins, nn.Conv2d) and observation_shape is not None and len(observation_shape) == 3:
        channels, shape = first.shape[1], list(observation_shape)
        if shape[0] != channels == shape[2]:
            raise InputError(
                f"observations have the shape {shape}, but the first convolution takes {channels} channels, which come "
                "first: np.moveaxis(observations, -1, 1)"
            )
    interface = Interface(
        first.shape[1] if observation_shape is None else observation_shape,
        output[0].shape[0],
        action_scale=action_scale,
        action_bias=action_bias,
        squash=squash,
        dtype=first.dtype,
        observation_dtype=observation_dtype,
        observation_scale=observation_scale,
        observation_offset=observation_offset,
    )
    return Actor(hidden, output, interface, metadata, bridges, activation).to(first.device)


def chain_of(module: nn.Sequential) -> list[tuple[str, nn.Module]]:
    """The modules of a Sequential that do something, and what errors call them.

    Raises:
        InputError: the Sequential computes something of its own.
    """
    if why := changed(module):
        raise InputError(f"this network cannot be converted: it is a {type(module).__name__}, {why}{_ADVICE}")
    return [(f"module {name} of the Sequential", child) for name, child in opened(module) if not does_nothing(child)]


def actor_from_sb3(model: sb3.Model) -> Actor:
    """The actor of a Stable-Baselines3 model.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    actions: dict[str, Any] = {
        "action_scale": (model.high - model.low) / 2,
        "action_bias": (model.high + model.low) / 2,
    }
    metadata = {"algorithm": model.algorithm, "activation": "relu"}  # `Model.check` has seen to it
    if model.extractor != sb3.NATURE_CNN:
        return actor_from_state_dict(model.tensors, metadata=metadata, **actions)
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, tensor in model.tensors.items():
        parts[name.startswith(visual.EXTRACTOR)][name] = tensor
    behind, features = parts
    _, layers = _named_layers(behind, metadata)
    return visual.actor_with_nature_cnn(
        features,
        layers,
        model.observation_shape,
        metadata,
        observation_dtype=torch.uint8 if model.sees_bytes else None,
        observation_scale=255.0 if model.sees_bytes and model.normalize_images else 1.0,
        **actions,
    )


@dataclass(frozen=True)
class _Layout:
    """How a kind of checkpoint names its tensors.

    Attributes:
        algorithm: whose actor it is.
        example: the names, as an error shows them.
        numbered: a numbered layer; its group is the number.
        heads: names that the output layer may have; none where it is the last numbered one.
        ignored: tensors that the deterministic action does not use.
        weight: the name of a weight; "kernel" is Flax's, which is [in, out].
        first: the first layer's number.
        step: from one layer's number to the next's.
    """

    algorithm: str
    example: str
    numbered: re.Pattern[str]
    heads: tuple[str, ...]
    ignored: re.Pattern[str]
    weight: str = "weight"
    first: int = 1
    step: int = 1


# Published CRPI checkpoints carry empty neuron buffers.
_BUFFERS = r"neuron\d+\..*"
_LAYOUTS = (
    _Layout("TD3", "TD3 and DDPG: l1, l2, …", re.compile(r"l([0-9]{1,4})"), (), re.compile(_BUFFERS)),
    _Layout(
        "SAC",
        "SAC: fc1, …, fc_mu; CleanRL: fc1, …, fc_mu or fc_mean",
        re.compile(r"fc([0-9]{1,4})"),
        ("fc_mu", "fc_mean"),
        re.compile(_BUFFERS + r"|fc_(?:log_?)?std\..*"),
    ),
    _Layout(
        "Flax",
        "Flax: Dense_0, …",
        re.compile(r"Dense_([0-9]{1,4})"),
        (),
        re.compile(_BUFFERS),
        weight="kernel",
        first=0,
    ),
    _Layout(
        "SAC",
        "Stable-Baselines3's SAC: latent_pi.0, latent_pi.2, …, mu",
        re.compile(r"latent_pi\.([0-9]{1,4})"),
        ("mu",),
        re.compile(r"log_std\..*"),
        first=0,
        step=2,
    ),
    _Layout(
        "TD3",
        "Stable-Baselines3's TD3 and DDPG: mu.0, mu.2, …",
        re.compile(r"mu\.([0-9]{1,4})"),
        (),
        re.compile(_BUFFERS),
        first=0,
        step=2,
    ),
)

_RANGE = ("action_scale", "action_bias")  # CleanRL's actors have them as buffers, [action_dim] or [1, action_dim]


def actor_from_state_dict(
    tensors: Mapping[str, Any],
    *,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    activation: str | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Actor:
    """Makes an actor from named tensors, in one of the layouts that `load_actor` lists.

    A DrQ-v2 actor takes uint8 `[B, C, H, W]`; the metadata's "task" says its environment. A SAC actor with Flax's names
    ends with two heads on the last hidden layer. The second one, the log standard deviation, is ignored: the
    deterministic action does not use it.

    Args:
        tensors: tensors or arrays (NumPy's, JAX's) by name, or nested dictionaries of them, like Flax's parameters.
        action_scale: a number or `[action_dim]`; by default the one among the tensors, or 1.
        action_bias: likewise; by default the one among the tensors, or 0.
        activation: as for `load_actor`.
        metadata: where the actor comes from; an "activation" among them counts as stated.

    Raises:
        InputError: the activation is unknown.
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    metadata = dict(metadata or {})
    check_activation(activation)
    tensors = dict(_flattened(tensors))
    if visual.is_drqv2(tensors):
        actions: dict[str, Any] = {"action_scale": action_scale, "action_bias": action_bias}
        given = {name: value for name, value in actions.items() if value is not None}
        metadata["activation"] = stated_activation(activation, metadata, RELU)  # DrQ-v2's convolutions have no other
        if metadata["activation"] != RELU:
            raise CheckpointError(f"DrQ-v2's actors are of ReLUs, but {metadata['activation']} was stated")
        return visual.actor_from_drqv2(tensors, metadata, **given)
    if of_the_actor := sb3.of_the_actor(tensors):  # of a whole policy's, which has critics as well
        tensors = of_the_actor
    what, layers = _named_layers(tensors, metadata)
    if len(layers) < 2:
        raise CheckpointError(f"not {what}: it has no hidden layer, only {layers[0][0]}")

    # CleanRL's actors, which have these, are of ReLUs.
    known = RELU if set(_RANGE) <= tensors.keys() else None
    stated = stated_activation(activation, metadata, known)
    if not known or "activation" in metadata or activation:
        metadata["activation"] = stated
    pairs = [(weight, bias) for _, weight, bias in layers]
    found = {name: tensors[name].flatten() for name in _RANGE if name in tensors}
    interface = Interface(
        pairs[0][0].shape[1],
        pairs[-1][0].shape[0],
        action_scale=found.get("action_scale", 1.0) if action_scale is None else action_scale,
        action_bias=found.get("action_bias", 0.0) if action_bias is None else action_bias,
        dtype=pairs[0][0].dtype,
    )
    return Actor(pairs[:-1], pairs[-1], interface, metadata, activation=RELU if stated == ASSUMED else stated)


def _named_layers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[str, list[tuple[str, Tensor, Tensor]]]:
    """What kind of actor tensors are, and name, weight `[out, in]` and bias of its layers, which fit each other.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    layout, numbers = _recognize(tensors)
    names = [_layer_name(layout, number) for number in numbers]
    if layout.heads:
        names.append(next((head for head in layout.heads if f"{head}.weight" in tensors), layout.heads[0]))
    what = f"a {layout.algorithm} actor"
    wanted = [f"{name}.{part}" for name in names for part in (layout.weight, "bias")]
    check_names(what, tensors, wanted, [*filter(layout.ignored.fullmatch, tensors), *_RANGE])

    layers = []
    for name in names:
        weight, bias = tensors[f"{name}.{layout.weight}"], tensors[f"{name}.bias"]
        if layout.weight == "kernel" and weight.dim() == 2:
            weight = weight.T
        layers.append((name, as_float(weight), as_float(bias)))
    if layout.weight == "kernel" and _has_two_heads(layers, metadata):
        layers.pop()
    problems = []
    inputs = None
    for name, weight, bias in layers:
        try:
            check_layer(name, weight, bias, inputs, kernel=layout.weight == "kernel")
        except InputError as error:
            problems.append(str(error))
        inputs = weight.shape[0] if weight.dim() else None
    if problems:
        raise CheckpointError(f"not {what}: {'; '.join(problems)}")
    return what, layers


def _flattened(tensors: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Tensors by name, a nested name joined by dots; Flax's outermost "params" is left out.

    Raises:
        CheckpointError: something is neither a tensor nor an array of numbers.
    """
    for name, value in tensors.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, "" if name == "params" and not prefix else f"{prefix}{name}.")
        elif isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        else:
            try:
                yield f"{prefix}{name}", torch.from_numpy(np.array(value))
            except (TypeError, ValueError) as error:
                raise CheckpointError(f"{prefix}{name} must be a tensor or an array, got {value!r}") from error


def _recognize(tensors: Mapping[str, Tensor]) -> tuple[_Layout, list[int]]:
    for layout in _LAYOUTS:
        matches = (layout.numbered.fullmatch(name.rpartition(".")[0]) for name in tensors)
        found = sorted({int(match[1]) for match in matches if match})
        if found:  # a gap in the numbers is a missing layer
            return layout, list(range(min(found[0], layout.first), found[-1] + 1, layout.step))
    for layout in _LAYOUTS:  # an output layer alone, as Stable-Baselines3's SAC with net_arch=[] has behind a NatureCNN
        heads = {f"{head}.{part}" for head in layout.heads for part in ("weight", "bias")}
        if heads & tensors.keys() and all(name in heads or layout.ignored.fullmatch(name) for name in tensors):
            return layout, []
    known = "; ".join([*(layout.example for layout in _LAYOUTS), visual.EXAMPLE])
    some = ", ".join(list(tensors)[:8]) or "none"
    raise CheckpointError(
        f"not an actor's tensors. Known: {known}. Found: {some}. With other names, load them into an nn.Sequential of "
        "Linear and ReLU, and convert that"
    )


def _layer_name(layout: _Layout, number: int) -> str:
    return layout.numbered.pattern.replace("([0-9]{1,4})", str(number)).replace("\\", "")


def check_activation(activation: object) -> None:
    """Refuses an activation that is not converted; None says nothing.

    Raises:
        InputError: it is not one of `ACTIVATIONS`.
    """
    if activation is not None:
        parse_activation(activation)


def stated_activation(given: str | None, metadata: Mapping[str, str], known: str | None = None) -> str:
    """The activation that the user or an actor's metadata state, else the known one, else `ASSUMED`.

    Raises:
        CheckpointError: they contradict each other, or the metadata name one that is not converted.
    """
    said = str(metadata.get("activation", ""))
    if not said or said == ASSUMED:
        return parse_activation(given) if given else (known or ASSUMED)
    try:
        found = parse_activation(said)
    except InputError as error:
        raise CheckpointError(f"its metadata: {error}") from error
    if given and parse_activation(given) != found:
        raise CheckpointError(f"its metadata say that its activation is {said}, but {given} was stated")
    return found


def _has_two_heads(layers: Sequence[tuple[str, Tensor, Tensor]], metadata: Mapping[str, str]) -> bool:
    """Whether the last layer stands beside the one before it rather than behind it.

    The shapes tell, but for an actor with as many actions as neurons in its last hidden layer.
    """
    if len(layers) < 3:
        return False
    (_, before, _), (_, last, _) = layers[-2:]
    if last.dim() != 2 or last.shape != before.shape:
        return False
    algorithm = metadata.get("algorithm", metadata.get("algo", ""))
    return last.shape[1] != before.shape[0] or algorithm.upper() == "SAC"
