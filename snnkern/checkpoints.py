"""Reads trained actors from checkpoints of other libraries, and reads and writes our own files of actors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from snnkern import sb3_models, zoo
from snnkern.actors import Actor, Interface, Policy, as_vector, check_layer
from snnkern.errors import CheckpointError, InputError
from snnkern.files import StrPath, from_json, read_bytes, read_tensors, write_tensors
from snnkern.vec_normalize import apply

FORMAT_VERSION = 1
ASSUMED = "relu (assumed)"  # an actor's activation, in its metadata, where nobody has said it
_Layers = Annotated[int, msgspec.Meta(ge=1, le=9999)]  # what four digits can number
_Width = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class PolicyDescription(msgspec.Struct, kw_only=True):
    """The metadata of a file that `snnkern.save` wrote, in addition to its tensors.

    Attributes:
        version: `FORMAT_VERSION` when it was written.
        hidden_layers: how many.
        metadata: the policy's.
        observation_dim: width of an observation.
        action_dim: width of an action.
        squash: whether tanh is applied to the output layer.
        normalized: whether observations are normalised, for which there are two tensors more.
        observation_clip: bound on the normalised observation; None for no bound.
    """

    version: int
    hidden_layers: _Layers
    metadata: dict[str, str]
    observation_dim: _Width
    action_dim: _Width
    squash: bool
    normalized: bool
    observation_clip: float | None


class ActorDescription(PolicyDescription, tag_field="format", tag="actor"):
    """The metadata of a dense actor's file."""


class _Head(msgspec.Struct):
    """What the descriptions of all formats and versions begin with."""

    format: str
    version: int


@dataclass(frozen=True)
class Saved:
    """The content of a checkpoint file.

    Attributes:
        name: of the file, for errors.
        tensors: by name.
        metadata: what else a safetensors file says, as plain text.
        description: what `snnkern.save` has said of the tensors, as JSON; None where something else wrote the file.
        model: where Stable-Baselines3 wrote it; then there is nothing else.
    """

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    description: str | None
    model: sb3_models.Model | None = None

    def holds(self, kind: type[PolicyDescription]) -> bool:
        """Whether `snnkern.save` has written it as a policy of that kind."""
        if self.description is None:
            return False
        try:
            return from_json(self.description, _Head, "its description").format == kind.__struct_config__.tag
        except InputError:  # a reader of that kind says what is wrong
            return False


def load_actor(
    source: StrPath,
    *,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    activation: str | None = None,
    vec_normalize: Any = None,
) -> Actor:
    """Loads a trained actor: one that ships with the package, or one from a checkpoint file.

    Reads files that `snnkern.save` wrote; models that Stable-Baselines3 saved; and state dicts, as safetensors or as
    `torch.save` wrote them, with the layer names of TD3 and DDPG (`l1`, `l2`, …), SAC (`fc1`, …, `fc_mu`), CleanRL
    (`fc1`, …, `fc_mu` or `fc_mean`, `action_scale`, `action_bias`) and Flax (`Dense_0`, …).

    Args:
        source: a name in `snnkern.zoo.names()`, or a path.
        action_scale: max_action of the environment, a number or `[action_dim]`; published state dicts do not hold it.
            By default the file's, or 1.
        action_bias: the middle of the action range, a number or `[action_dim]`; by default the file's, or 0.
        activation: "relu" states that the network has ReLUs, which tensors alone do not show. If neither this nor the
            file states it, ReLU is assumed, and the actor's metadata say so ("activation").
        vec_normalize: Stable-Baselines3's `VecNormalize` that the actor was trained in, or the path of its file, of
            which nothing is run: its normalisation of observations moves into the actor. By default, a file beside a
            Stable-Baselines3 zip is used if it belongs to that model (`docs/ecosystem.md` has the names); False uses
            none. The actor's metadata say which file it was ("vec_normalize").

    Raises:
        InputError: there is no such zoo actor or file, or its activation is not ReLU.
        CheckpointError: the file is truncated, not a checkpoint, holds code, or its tensors are not an actor's.

    Warns:
        InputWarning: a Stable-Baselines3 model was trained in `VecNormalize`, and its file is not given; or the given
            file belongs to another model.
    """
    return actor_of(
        read(source),
        action_scale=action_scale,
        action_bias=action_bias,
        activation=activation,
        vec_normalize=vec_normalize,
    )


def read(source: StrPath) -> Saved:
    """Reads what a zoo name or a path stands for, whatever wrote it.

    Raises:
        InputError: there is no such zoo actor or file.
        CheckpointError: the file is truncated, not a checkpoint, or holds code.
    """
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"an actor is loaded by zoo name or path, got {type(source).__name__}")
    name = str(source)
    if name in zoo.names():
        return _parse(zoo.read(name), name)
    if not os.path.exists(source):
        zipped = f"{name}.zip"  # Stable-Baselines3 leaves the ending out, too
        if not name or not os.path.exists(zipped):
            raise InputError(f"no actor {name!r}: neither a file nor one of {', '.join(zoo.names())}")
        return read_file(zipped)
    return read_file(source)


def read_file(path: StrPath) -> Saved:
    """The same for a path alone."""
    return _parse(read_bytes(path), str(path))


def _parse(content: bytes, name: str) -> Saved:
    if sb3_models.is_model(content):
        return Saved(name, {}, {}, None, sb3_models.read(content, name))
    return Saved(name, *read_tensors(content, name))


def actor_of(
    saved: Saved,
    *,
    action_scale: ArrayLike | None = None,
    action_bias: ArrayLike | None = None,
    activation: str | None = None,
    vec_normalize: Any = None,
) -> Actor:
    """The actor that a file holds; see `load_actor`, which, as its callers do, stands between it and the user."""
    check_activation(activation)
    try:
        if saved.model is not None:
            actor = actor_from_sb3(saved.model)
        elif saved.description is not None:
            actor = _from_description(saved.tensors, saved.description)
            if "activation" in actor.metadata:
                actor.metadata["activation"] = _stated_activation(activation, actor.metadata)
        else:
            actor = actor_from_state_dict(saved.tensors, metadata=saved.metadata, activation=activation)
    except InputError as error:
        raise CheckpointError(f"{saved.name}: {error}") from error
    actor = apply(actor, vec_normalize, saved.model, Path(saved.name))
    interface = actor.interface
    for name, value in (("action_scale", action_scale), ("action_bias", action_bias)):
        if value is not None:
            setattr(interface, name, as_vector(name, value, interface.action_dim, interface.action_scale.dtype))
    return actor


def save_actor(actor: Actor, path: StrPath) -> None:
    """Saves an actor as safetensors; `load_actor` reads it back, equal bit for bit."""
    description = {"format": "actor", **describe_policy(actor, len(actor.hidden))}
    write_tensors(path, actor.state_dict(), description)


def actor_from_module(
    module: nn.Sequential,
    *,
    action_scale: ArrayLike = 1.0,
    action_bias: ArrayLike = 0.0,
    metadata: Mapping[str, str] | None = None,
) -> Actor:
    """Makes an actor from a plain `nn.Sequential` of Linear and ReLU, with or without a Tanh at its end.

    Raises:
        InputError: names the module that does not fit the pattern Linear, ReLU, …, Linear[, Tanh].
    """
    if not isinstance(module, nn.Sequential):
        raise InputError(
            f"module must be an nn.Sequential, got {type(module).__name__}: snnkern.spikify converts other modules"
        )
    modules = list(module)  # not children(): one ReLU may stand in several places
    squash = bool(modules) and isinstance(modules[-1], nn.Tanh)
    if squash:
        modules.pop()
    layers = []
    for index, child in enumerate(modules):
        wanted = nn.ReLU if index % 2 else nn.Linear
        if not isinstance(child, wanted):
            raise InputError(
                f"module {index} of the Sequential is {child}, where {wanted.__name__} was wanted: "
                "an actor is Linear, ReLU, …, Linear and an optional Tanh"
            )
        if isinstance(child, nn.Linear):
            bias = child.bias if child.bias is not None else child.weight.new_zeros(child.out_features)
            layers.append((child.weight, bias))
    if len(modules) % 2 == 0 or len(layers) < 2:
        raise InputError("an actor is Linear, ReLU, …, Linear and an optional Tanh, with at least one ReLU")
    interface = Interface(
        layers[0][0].shape[1],
        layers[-1][0].shape[0],
        action_scale=action_scale,
        action_bias=action_bias,
        squash=squash,
        dtype=layers[0][0].dtype,
    )
    return Actor(layers[:-1], layers[-1], interface, metadata).to(layers[0][0].device)


def actor_from_sb3(model: sb3_models.Model) -> Actor:
    """The actor of a Stable-Baselines3 model.

    Raises:
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    return actor_from_state_dict(
        model.tensors,
        action_scale=(model.high - model.low) / 2,
        action_bias=(model.high + model.low) / 2,
        metadata={"algorithm": model.algorithm},
        activation="relu",  # `Model.check` has seen to it
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

    A SAC actor with Flax's names ends with two heads on the last hidden layer. The second one, the log standard
    deviation, is ignored: the deterministic action does not use it.

    Args:
        tensors: tensors or arrays (NumPy's, JAX's) by name, or nested dictionaries of them, like Flax's parameters.
        action_scale: a number or `[action_dim]`; by default the one among the tensors, or 1.
        action_bias: likewise; by default the one among the tensors, or 0.
        activation: "relu", as for `load_actor`.
        metadata: where the actor comes from; an "activation" among them counts as stated.

    Raises:
        InputError: the activation is not ReLU.
        CheckpointError: names the missing, unexpected and misshapen tensors.
    """
    metadata = dict(metadata or {})
    check_activation(activation)
    tensors = dict(_flattened(tensors))
    if of_the_actor := sb3_models.of_the_actor(tensors):  # of a whole policy's, which has critics as well
        tensors = of_the_actor
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
        layers.append((name, _as_float(weight), _as_float(bias)))
    if layout.weight == "kernel" and _has_two_heads(layers, metadata or {}):
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
    if len(layers) < 2:
        raise CheckpointError(f"not {what}: it has no hidden layer, only {layers[0][0]}")

    if not set(_RANGE) <= tensors.keys():  # CleanRL's actors, which have these, are of ReLUs
        metadata["activation"] = _stated_activation(activation, metadata)
    pairs = [(weight, bias) for _, weight, bias in layers]
    found = {name: tensors[name].flatten() for name in _RANGE if name in tensors}
    interface = Interface(
        pairs[0][0].shape[1],
        pairs[-1][0].shape[0],
        action_scale=found.get("action_scale", 1.0) if action_scale is None else action_scale,
        action_bias=found.get("action_bias", 0.0) if action_bias is None else action_bias,
        dtype=pairs[0][0].dtype,
    )
    return Actor(pairs[:-1], pairs[-1], interface, metadata)


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
    known = "; ".join(layout.example for layout in _LAYOUTS)
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
        InputError: it is not "relu".
    """
    if activation is not None and activation != "relu":
        raise InputError(f'activation must be "relu", the only one that is converted, got {activation!r}')


def _stated_activation(given: str | None, metadata: Mapping[str, str]) -> str:
    """What an actor's metadata say of its activation.

    Raises:
        CheckpointError: the metadata say that it is not ReLU.
    """
    said = str(metadata.get("activation", ""))
    if said and said != ASSUMED and said.rpartition(".")[2].lower() != "relu":
        raise CheckpointError(f"its metadata say that its activation is {said}: only ReLU is converted")
    return "relu" if given or (said and said != ASSUMED) else ASSUMED


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


def check_names(what: str, tensors: Mapping[str, Tensor], wanted: Iterable[str], ignored: Iterable[str] = ()) -> None:
    """Refuses tensors whose names are not the wanted ones.

    Raises:
        CheckpointError: names what is missing and what is unexpected.
    """
    wanted = list(wanted)
    problems = []
    if missing := [name for name in wanted if name not in tensors]:
        problems.append(f"missing {_some(missing)}")
    if unexpected := sorted(set(tensors) - set(wanted) - set(ignored)):
        problems.append(f"unexpected {_some(unexpected)}")
    if problems:
        raise CheckpointError(f"not {what}: {'; '.join(problems)}")


def _some(names: Sequence[str]) -> str:
    rest = len(names) - 8
    return ", ".join(names[:8]) + (f" and {rest} more" if rest > 0 else "")


T = TypeVar("T", bound=PolicyDescription)


def read_description(description: str | None, kind: type[T]) -> T:
    """Reads what `snnkern.save` has said of a policy of one kind.

    Raises:
        CheckpointError: the file is of another kind, from a newer version of `snnkern`, or says what does not fit.
    """
    wanted = kind.__struct_config__.tag
    if description is None:
        raise CheckpointError(f"this file was not written by snnkern.save, and {wanted!r} was wanted")
    try:
        head = from_json(description, _Head, "its description")
    except InputError as error:
        raise CheckpointError(f"{error}, where {wanted!r} was wanted") from error
    if head.format != wanted:
        raise CheckpointError(f"this is a file of format {head.format!r}, where {wanted!r} was wanted")
    if head.version != FORMAT_VERSION:
        why = "a newer snnkern wrote this file" if head.version > FORMAT_VERSION else "no snnkern wrote this file"
        raise CheckpointError(f"format version {head.version} is not {FORMAT_VERSION}: {why}")
    return from_json(description, kind, "its description")


def describe_policy(policy: Policy, hidden_layers: int) -> dict[str, Any]:
    """What a file of a policy says beside its tensors."""
    return {
        "version": FORMAT_VERSION,
        "hidden_layers": hidden_layers,
        "metadata": policy.metadata,
        **policy.interface.description(),
    }


def interface_from(tensors: Mapping[str, Tensor], description: PolicyDescription) -> Interface:
    """The interface that a file's tensors and description say."""
    buffers: dict[str, Any] = {name.removeprefix("interface."): tensors[name] for name in interface_names(description)}
    for name, buffer in buffers.items():  # before anything as wide as the description says is made
        width = description.action_dim if name.startswith("action") else description.observation_dim
        if tuple(buffer.shape) != (width,):
            raise InputError(f"interface.{name} must be [{width}], got shape {list(buffer.shape)}")
    clip = description.observation_clip
    return Interface(
        description.observation_dim,
        description.action_dim,
        squash=description.squash,
        observation_clip=math.inf if clip is None else clip,
        dtype=buffers["action_scale"].dtype,
        **buffers,
    )


def interface_names(description: PolicyDescription) -> list[str]:
    """Names of the buffers of the interface that a description speaks of."""
    names = ["action_scale", "action_bias"]
    if description.normalized:
        names += ["observation_mean", "observation_std"]
    return [f"interface.{name}" for name in names]


def _from_description(tensors: dict[str, Tensor], text: str) -> Actor:
    description = read_description(text, ActorDescription)
    layers = [*(f"hidden.{index}" for index in range(description.hidden_layers)), "output"]
    wanted = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    check_names("an actor", tensors, wanted + interface_names(description))
    interface = interface_from(tensors, description)
    pairs = [(tensors[f"{layer}.weight"], tensors[f"{layer}.bias"]) for layer in layers]
    return Actor(pairs[:-1], pairs[-1], interface, description.metadata)


def _as_float(tensor: Tensor) -> Tensor:
    """float64 stays, other floats become float32, the precision that actors run in; `check_layer` refuses the rest."""
    return tensor.float() if tensor.dtype.is_floating_point and tensor.dtype != torch.float64 else tensor
