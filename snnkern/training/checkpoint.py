"""A refinement that was interrupted, on disk: tensors and descriptions. Nothing of it is ever run.

One file has the numbers after the last finished round. The states of every visit have a file of their own, which is
written once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from torch import Tensor

from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes, read_tensors, write_tensors
from snnkern.limits import Amount, Count

_FILE = "refinement.safetensors"
_OWN = re.compile(r"refinement\.safetensors|states-\d+\.safetensors")
_MOST_BYTES = 2**34  # of a file, when it is written as when it is read


class Checkpoint(msgspec.Struct, forbid_unknown_fields=True):
    """The numbers of a refinement after a round.

    Attributes:
        key: a hash of all that the refinement began with.
        rounds: finished.
        visits: whose states were learnt from, and are in files of their own.
        measured: whether the average after these rounds took part in the choice of the best.
        updates: of all rounds.
        seconds: spent.
        measuring: seconds that the last measurement took.
        given_error: of the actor that was given.
        best_error: of the best one so far.
    """

    key: str
    rounds: Count
    visits: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    measured: bool
    updates: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    seconds: Amount
    measuring: Amount
    given_error: Amount
    best_error: Amount


class _Visit(msgspec.Struct, forbid_unknown_fields=True):
    """What a file of states says: of which refinement, and which visit of it."""

    key: str
    visit: Annotated[int, msgspec.Meta(ge=0, le=2**31)]


_Kind = TypeVar("_Kind", Checkpoint, _Visit)


def write(folder: Path, checkpoint: Checkpoint, tensors: Mapping[str, Tensor]) -> None:
    """Writes what is finished, in place of what was there before.

    Raises:
        InputError: it cannot be written, or is too large to be read again.
    """
    _write(folder / _FILE, tensors, checkpoint)


def write_visit(folder: Path, key: str, number: int, tensors: Mapping[str, Tensor]) -> None:
    """Writes the states of a visit and their answers.

    Raises:
        InputError: as `write`.
    """
    _write(_states(folder, number), tensors, _Visit(key, number))


def read(folder: Path, key: str) -> tuple[Checkpoint, dict[str, Tensor]] | None:
    """What was finished of the refinement with this key; None if nothing was.

    Raises:
        InputError: the folder holds another refinement, or a damaged one.
    """
    file = folder / _FILE
    if not file.exists():
        return None
    checkpoint, tensors = _read(file, Checkpoint)
    if checkpoint.key != key:
        raise InputError(
            f"{folder} holds another refinement: of another actor, other observations, or with another environment, "
            "recipe or seed. Remove it, or give another folder (on the command line: another output)"
        )
    return checkpoint, tensors


def read_visit(folder: Path, key: str, number: int) -> dict[str, Tensor]:
    """The states of a visit and their answers.

    Raises:
        InputError: there are none, or those of another refinement.
    """
    file = _states(folder, number)
    visit, tensors = _read(file, _Visit)
    if (visit.key, visit.visit) != (key, number):
        raise InputError(f"{file} is of another refinement, or of another visit")
    return tensors


def remove(folder: Path) -> None:
    """Removes a refinement's own files, and the folder where it holds nothing else. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for file in list(folder.iterdir()):
            if _OWN.fullmatch(file.name):
                file.unlink()
        folder.rmdir()


def part(tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    """The tensors whose names begin with a name and a dot, by the rest of their names."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def _states(folder: Path, number: int) -> Path:
    return folder / f"states-{number}.safetensors"


def _write(file: Path, tensors: Mapping[str, Tensor], description: msgspec.Struct) -> None:
    size = sum(tensor.nbytes for tensor in tensors.values()) + 2**20  # and some for the header
    if size > _MOST_BYTES:
        raise InputError(f"cannot write {file}: {size:,} bytes are more than the {_MOST_BYTES:,} that are read again")
    write_tensors(file, dict(tensors), msgspec.to_builtins(description))


def _read(file: Path, kind: type[_Kind]) -> tuple[_Kind, dict[str, Tensor]]:
    tensors, _, description = read_tensors(read_bytes(file, _MOST_BYTES), str(file))
    return from_json(description or "{}", kind, f"{file}"), tensors
