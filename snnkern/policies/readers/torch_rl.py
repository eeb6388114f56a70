"""Actors from modules and state dicts: TD3, DDPG, SAC, DrQ-v2, CleanRL, RSL-RL, Flax, Stable-Baselines3."""

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
from snnkern.files import parts_that_act
from snnkern.policies.activations import RELU, assumed, assumption, parse_activation
from snnkern.policies.actor import Actor, Interface, check_layer
from snnkern.policies.readers import sb3, visual
from snnkern.policies.readers.drqv2 import as_float
from snnkern.policies.readers.modules import changed, does_nothing, opened
from snnkern.policies.readers.saved import check_names

_ADVICE = "; snnkern.spikify converts other modules"
_RSL_EPSILON = 1e-2  # what RSL-RL adds to the standard deviations of observations


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
    metadata = {"algorithm": model.algorithm, "activation": model.activation}
    actions: dict[str, Any] = {"squash": not model.clips}
    if model.clips:
        metadata |= sb3.range_as_metadata(model.low, model.high)
    else:
        actions |= {"action_scale": (model.high - model.low) / 2, "action_bias": (model.high + model.low) / 2}
    if model.extractor != sb3.NATURE_CNN:
        return _dense(model.tensors, metadata, **actions)
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, tensor in model.tensors.items():
        parts[name.startswith(visual.EXTRACTOR)][name] = tensor
    behind, features = parts
    _, layers = _named_layers(behind, metadata)
    if len(layers) > 1 and model.activation != RELU:
        raise CheckpointError(
            "this model cannot be converted: its NatureCNN has ReLUs, but the layers behind it have "
            f"{model.activation}, and all must have the same activation"
        )
    metadata["activation"] = RELU
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
        example: the names, as an error shows them; empty where another one's shows them.
        numbered: a numbered layer; its group is the number.
        heads: names that the output layer may have; none where it is the last numbered one.
        ignored: tensors that the deterministic action does not use.
        weight: the name of a weight; "kernel" is Flax's, which is [in, out].
        first: the first layer's number.
        step: from one layer's number to the next's.
        activation: of the hidden layers, where nobody states another one.
        known: whether they always have it.
        squash: whether tanh is applied to the output layer.
        noise: names of which one is there, unless the output layer has more than the mean action; none for no such
            rule.
        normalizer: what the names of the observations' normalisation begin with; empty for none.
        refused: tensors of what cannot be converted, and what it is.
    """

    algorithm: str
    example: str
    numbered: re.Pattern[str]
    heads: tuple[str, ...]
    ignored: re.Pattern[str]
    weight: str = "weight"
    first: int = 1
    step: int = 1
    activation: str = RELU
    known: bool = False
    squash: bool = True
    noise: tuple[str, ...] = ()
    normalizer: str = ""
    refused: tuple[re.Pattern[str], str] | None = None

    @property
    def what(self) -> str:
        """What errors call such an actor."""
        return f"{'an' if self.algorithm.startswith('R') else 'a'} {self.algorithm} actor"


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
        "Stable-Baselines3: latent_pi.0, …, mu or mu.0, …",
        re.compile(r"latent_pi\.([0-9]{1,4})"),
        ("mu",),
        re.compile(r"log_std\..*"),
        first=0,
        step=2,
    ),
    _Layout(
        "TD3",
        "",
        re.compile(r"mu\.([0-9]{1,4})"),
        (),
        re.compile(_BUFFERS),
        first=0,
        step=2,
    ),
    _Layout(
        "PPO or A2C",
        "PPO and A2C: mlp_extractor.policy_net.0, …, action_net",
        re.compile(r"mlp_extractor\.policy_net\.([0-9]{1,4})"),
        ("action_net",),
        re.compile(r"log_std|(?:mlp_extractor\.)?value_net\..*|(?:pi|vf)_features_extractor\..*"),
        first=0,
        step=2,
        activation="tanh",
        squash=False,
        refused=(re.compile(r"mlp_extractor\.shared_net\..*"), "layers that actor and critic share"),
    ),
    _Layout(
        "PPO",
        "CleanRL's PPO: actor_mean.0, …",
        re.compile(r"actor_mean\.([0-9]{1,4})"),
        (),
        re.compile(r"actor_logstd|critic\..*"),
        first=0,
        step=2,
        activation="tanh",
        known=True,
        squash=False,
    ),
    _Layout(
        "RSL-RL",
        "RSL-RL: actor.0, …, std or mlp.0, …, std",
        re.compile(r"actor\.([0-9]{1,4})"),
        (),
        re.compile(r"(?:log_)?std|critic(?:_obs_normalizer)?\..*|actor_obs_normalizer\.(?:_var|count)"),
        first=0,
        step=2,
        activation="elu",
        squash=False,
        noise=("std", "log_std"),
        normalizer="actor_obs_normalizer",
        refused=(re.compile(r"memory_[ac]\..*"), "a recurrent network"),
    ),
    _Layout(
        "RSL-RL",
        "",
        re.compile(r"mlp\.([0-9]{1,4})"),
        (),
        re.compile(r"(?:log_)?std|distribution\.(?:log_)?std_param|obs_normalizer\.(?:_var|count)"),
        first=0,
        step=2,
        activation="elu",
        squash=False,
        noise=("std", "log_std", "distribution.std_param", "distribution.log_std_param"),
        normalizer="obs_normalizer",
        refused=(re.compile(r"rnn\..*"), "a recurrent network"),
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

    The dict of an RSL-RL checkpoint is taken whole, and its normalisation of observations moves into the actor. A
    DrQ-v2 actor takes uint8 `[B, C, H, W]`; the metadata's "task" says its environment. A SAC actor with Flax's names
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
    tensors = dict(_flattened(parts_that_act(tensors)))
    if visual.is_drqv2(tensors):
        actions: dict[str, Any] = {"action_scale": action_scale, "action_bias": action_bias}
        given = {name: value for name, value in actions.items() if value is not None}
        # DrQ-v2's convolutions have no other activation.
        stated, metadata["activation"] = stated_activation(activation, metadata, RELU)
        if stated != RELU:
            raise CheckpointError(f"DrQ-v2's actors are of ReLUs, but {stated} was stated")
        return visual.actor_from_drqv2(tensors, metadata, **given)
    if of_the_actor := sb3.of_the_actor(tensors):  # of a whole policy's, which has critics as well
        tensors = of_the_actor
    return _dense(tensors, metadata, activation, action_scale, action_bias)


def _dense(
    tensors: Mapping[str, Any],
    metadata: dict[str, str],
    activation: str | None = None,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    squash: bool | None = None,
) -> Actor:
    """The actor that an actor's own tensors are of; `squash` is as its names say unless given."""
    tensors = dict(_flattened(tensors))
    layout, layers = _named_layers(tensors, metadata)
    if len(layers) < 2:
        raise CheckpointError(f"not {layout.what}: it has no hidden layer, only {layers[0][0]}")

    # CleanRL's TD3, DDPG and SAC have an action range, and are of ReLUs.
    is_known = layout.known or (layout.squash and set(_RANGE) <= tensors.keys())
    known = layout.activation if is_known else None
    stated, said = stated_activation(activation, metadata, known, assumption(metadata) or layout.activation)
    if not known or "activation" in metadata or activation:
        metadata["activation"] = said
    pairs = [(weight, bias) for _, weight, bias in layers]
    found = {name: _row(name, tensors) for name in _RANGE if name in tensors}
    interface = Interface(
        pairs[0][0].shape[1],
        pairs[-1][0].shape[0],
        action_scale=found.get("action_scale", 1.0) if action_scale is None else action_scale,
        action_bias=found.get("action_bias", 0.0) if action_bias is None else action_bias,
        squash=layout.squash if squash is None else squash,
        dtype=pairs[0][0].dtype,
        **_normalization(layout, tensors),
    )
    return Actor(pairs[:-1], pairs[-1], interface, metadata, activation=stated)


def _normalization(layout: _Layout, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The normalisation of observations among tensors, as an `Interface` takes it; RSL-RL's has one row."""
    if not _is_normalized(layout, tensors):
        return {}
    mean, std = (_row(name, tensors) for name in _statistics(layout))
    return {"observation_mean": mean, "observation_std": std + _RSL_EPSILON}


def _row(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    """A tensor `[N]` or `[1, N]` as `[N]`.

    Raises:
        CheckpointError: it is not a dense one of real numbers.
    """
    tensor = tensors[name]
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        raise CheckpointError(f"{name} must be a dense tensor of real numbers")
    return as_float(tensor).flatten()


def _is_normalized(layout: _Layout, tensors: Mapping[str, Tensor]) -> bool:
    return bool(layout.normalizer) and any(name.startswith(f"{layout.normalizer}.") for name in tensors)


def _statistics(layout: _Layout) -> list[str]:
    return [f"{layout.normalizer}.{part}" for part in ("_mean", "_std")]


def _named_layers(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[_Layout, list[tuple[str, Tensor, Tensor]]]:
    """How tensors are named, and name, weight `[out, in]` and bias of the actor's layers, which fit each other.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    layout, numbers = _recognize(tensors)
    names = [_layer_name(layout, number) for number in numbers]
    if layout.heads:
        names.append(next((head for head in layout.heads if f"{head}.weight" in tensors), layout.heads[0]))
    if layout.refused and (found := next(filter(layout.refused[0].fullmatch, tensors), None)):
        raise CheckpointError(f"this actor cannot be converted: it has {layout.refused[1]} ({found})")
    if layout.noise and not any(name in tensors for name in layout.noise):
        raise CheckpointError(
            f"not {layout.what}: none of {', '.join(layout.noise)}, and an output layer that gives more than the mean "
            "action is not converted; load another network into an nn.Sequential, and convert that"
        )
    wanted = [f"{name}.{part}" for name in names for part in (layout.weight, "bias")]
    if _is_normalized(layout, tensors):
        wanted += _statistics(layout)
    check_names(layout.what, tensors, wanted, [*filter(layout.ignored.fullmatch, tensors), *_RANGE])

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
        raise CheckpointError(f"not {layout.what}: {'; '.join(problems)}")
    return layout, layers


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
    known = "; ".join([*(layout.example for layout in _LAYOUTS if layout.example), visual.EXAMPLE])
    some = ", ".join(list(tensors)[:8]) or "none"
    raise CheckpointError(
        f"not an actor's tensors. Known: {known}. Found: {some}. Load others into an nn.Sequential, and convert that"
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


def stated_activation(
    given: str | None, metadata: Mapping[str, str], known: str | None = None, usual: str = RELU
) -> tuple[str, str]:
    """The activation that the user or an actor's metadata state, else the known one, else the usual one, assumed.

    Returns:
        its name, and what the actor's metadata are to say of it.

    Raises:
        CheckpointError: they contradict each other, or the metadata name one that is not converted.
    """
    said = str(metadata.get("activation", ""))
    if not said or assumption(metadata):
        stated = parse_activation(given) if given else known
        return (stated, stated) if stated else (usual, assumed(usual))
    try:
        found = parse_activation(said)
    except InputError as error:
        raise CheckpointError(f"its metadata: {error}") from error
    if given and parse_activation(given) != found:
        raise CheckpointError(f"its metadata say that its activation is {said}, but {given} was stated")
    return found, found


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
    return last.shape[1] != before.shape[0] or algorithm.upper() in ("SAC", "TQC")
