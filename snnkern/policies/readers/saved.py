"""What a file of a policy holds, before anything is made of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import msgspec
from torch import Tensor

from snnkern.errors import CheckpointError, InputError, brief
from snnkern.files import ObjectsError, StrPath, from_json, read_bytes, read_tensors
from snnkern.policies import zoo
from snnkern.policies.activations import RELU
from snnkern.policies.readers import drqv2, sb3

FORMAT_VERSION = 2  # the newest; 1 knew no other activations than ReLU
_READS = {"actor": "snnkern.load_actor", "spiking-actor": "snnkern.load"}  # formats
_Layers = Annotated[int, msgspec.Meta(ge=1, le=9999)]  # what four digits can number
_Width = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
_Padding = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Index = Annotated[str, msgspec.Meta(pattern="^(0|[1-9][0-9]{0,3})$")]


class ConvolutionDescription(msgspec.Struct):
    """What a convolution's tensors do not say of it: stride and padding along y and x."""

    stride: tuple[_Width, _Width]
    padding: tuple[_Padding, _Padding]


class StepDescription(msgspec.Struct):
    """A step of a bridge; `eps` is that of a layer normalisation."""

    kind: Literal["linear", "norm", "tanh"]
    eps: float = 1e-5


_Steps = Annotated[list[StepDescription], msgspec.Meta(min_length=1, max_length=100)]


class PolicyDescription(msgspec.Struct, kw_only=True):
    """The metadata of a file that `snnkern.save` wrote, in addition to its tensors.

    Attributes:
        version: the least `FORMAT_VERSION` that has all of it.
        hidden_layers: how many.
        metadata: the policy's.
        observation_dim: width of an observation.
        action_dim: width of an action.
        squash: whether tanh is applied to the output layer.
        normalized: whether observations are normalised, for which there are two tensors more.
        observation_clip: bound on the normalised observation; None for no bound.
        observation_shape: of an image, channels first; None for a vector.
        observation_dtype: of an observation, "uint8"; None for that of the network.
        observation_scale: what an observation is divided by.
        observation_offset: what is added then.
        convolutions: the hidden layers that are convolutions, by their index.
        bridges: what stands in front of a layer and does not spike, by the layer's index.
        activation: of the dense actor, by its name in `ACTIVATIONS`.
    """

    version: int
    hidden_layers: _Layers
    metadata: dict[str, str]
    observation_dim: _Width
    action_dim: _Width
    squash: bool
    normalized: bool
    observation_clip: float | None
    observation_shape: tuple[_Width, _Width, _Width] | None = None
    observation_dtype: Literal["uint8"] | None = None
    observation_scale: float = 1.0
    observation_offset: float = 0.0
    convolutions: dict[_Index, ConvolutionDescription] = {}
    bridges: Annotated[dict[_Index, _Steps], msgspec.Meta(max_length=100)] = {}
    activation: str = RELU


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
        snapshot: where DrQ-v2 wrote it, as an object; likewise.
    """

    name: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    description: str | None
    model: sb3.Model | None = None
    snapshot: drqv2.Snapshot | None = None

    def holds(self, kind: type[PolicyDescription]) -> bool:
        """Whether `snnkern.save` has written it as a policy of that kind."""
        if self.description is None:
            return False
        try:
            return from_json(self.description, _Head, "its description").format == kind.__struct_config__.tag
        except InputError:  # a reader of that kind says what is wrong
            return False


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
    if sb3.is_model(content):
        return Saved(name, {}, {}, None, sb3.read(content, name))
    try:
        return Saved(name, *read_tensors(content, name))
    except ObjectsError:
        if (snapshot := drqv2.read_snapshot(content, name)) is None:
            raise
        return Saved(name, {}, {}, None, snapshot=snapshot)


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
        reads = _READS.get(head.format)
        raise CheckpointError(
            f"this is a file of format {brief(head.format)}, where {wanted!r} was wanted"
            f"{f': {reads} reads it' if reads else ''}"
        )
    if not 1 <= head.version <= FORMAT_VERSION:
        why = "a newer snnkern wrote this file" if head.version > FORMAT_VERSION else "no snnkern wrote this file"
        raise CheckpointError(f"format version {head.version} is not one from 1 to {FORMAT_VERSION}: {why}")
    return from_json(description, kind, "its description")
