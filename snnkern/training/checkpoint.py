"""A refinement that was interrupted, on disk: tensors and a description. Nothing of it is ever run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes, read_tensors, write_tensors
from snnkern.limits import Amount

_FILE = "refinement.safetensors"


class Checkpoint(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a refinement after a round.

    Attributes:
        key: a hash of all that the refinement began with.
        rounds: finished.
        updates: of all rounds.
        seconds: spent.
        given_error: of the actor that was given.
        best_error: of the best one so far.
    """

    key: str
    rounds: int
    updates: int
    seconds: Amount
    given_error: Amount
    best_error: Amount


def write(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """Writes what is finished, in place of what was there before."""
    write_tensors(folder / _FILE, dict(tensors), msgspec.to_builtins(checkpoint))


def read(folder: Path, key: str) -> tuple[Checkpoint, dict[str, Tensor]] | None:
    """What was finished of the refinement with this key; None if nothing was.

    Raises:
        InputError: the folder holds another refinement, or a damaged one.
    """
    file = folder / _FILE
    if not file.exists():
        return None
    tensors, _, description = read_tensors(read_bytes(file), str(file))
    checkpoint = from_json(description or "{}", Checkpoint, f"{file}")
    if checkpoint.key != key:
        raise InputError(
            f"{folder} holds another refinement: of another actor, other observations, or with another environment, "
            "recipe or seed. Give another folder, or remove it"
        )
    return checkpoint, tensors


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The tensors whose names begin with a name and a dot, by the rest of their names."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}
