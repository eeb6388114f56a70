"""Files: read whole before anything is parsed, with a bound on what they may claim; written beside and renamed.

A file may come from a stranger: nothing that it holds is run, and what it unpacks to is bounded by its own size. Since
its bytes are in memory first, another program that shortens it meanwhile makes an error and no crash.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import math
import os
import pickle
import platform
import re
import secrets
import shutil
import stat
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as _deserialize
from safetensors.torch import save as _serialize
from torch import Tensor

from snnkern.errors import CheckpointError, InputError, brief

MOST_BYTES = 2**30  # of a file, unless it holds observations
_MOST_OBSERVATIONS = 2**34
_MOST_GROWTH = 10  # what a file unpacks to, as a multiple of its size
_METADATA_KEY = "snnkern"
# Parts of a checkpoint of training, and what the names of their tensors then begin with.
_PARTS = {"model_state_dict": "", "obs_norm_state_dict": "actor_obs_normalizer.", "actor_state_dict": ""}
_ZIP, _PICKLE, _ARRAY = b"PK\x03\x04", b"\x80", b"\x93NUMPY"
_BESIDE = ".tmp-"

StrPath = str | os.PathLike[str]


class ObjectsError(CheckpointError):
    """A file that `torch.save` wrote asks to build objects or to run code; it may hold tensors beside them."""


T = TypeVar("T")


def read_bytes(path: StrPath, most: int = MOST_BYTES) -> bytes:
    """The whole of a regular file.

    Raises:
        InputError: the file does not exist or cannot be read, is larger than `most` bytes, or is a directory, a device
            or a pipe, which may have no end.
    """
    _check_path(path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"cannot read {path}: it is {_kind(found.st_mode)}")
        if found.st_size > most:
            raise InputError(f"cannot read {path}: {found.st_size:,} bytes are more than the {most:,} allowed")
        with open(path, "rb") as file:
            return file.read(found.st_size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {path}: {reason(error)}") from error


def write_atomically(path: StrPath, content: bytes) -> None:
    """Writes beside `path` and renames, so that readers see the old file or the new one, never a part.

    A link stays one: the file that it leads to is replaced.

    Raises:
        InputError: the folder does not exist or cannot be written to, or what is at `path` is no regular file.
    """
    target = _target(path)
    beside = target.with_name(f"{_own()}{secrets.token_hex(8)}")
    try:
        _remove_abandoned(target.parent)
        try:
            beside.write_bytes(content)
            if target.exists():
                shutil.copymode(target, beside)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def check_writable(path: StrPath) -> None:
    """Refuses a file that cannot be written, before the work whose result it is to hold.

    Raises:
        InputError: its folder does not exist or cannot be written to, or what is there is no regular file.
    """
    folder = _target(path).parent
    if not folder.is_dir():
        named = Path(path).parent  # the folder that was meant, unless `path` is a link
        raise InputError(f"cannot write {path}: there is no folder {folder if named.is_dir() else named}")
    if not os.access(folder, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {folder} is not writable")


def make_folder(folder: Path) -> None:
    """Makes a folder for files, and those above it, where they are missing.

    Raises:
        InputError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot make the folder {folder}: {reason(error)}") from error
    check_writable(folder / "file")


def reason(error: Exception) -> str:
    """What the system says, or the first sentence of what a library says."""
    said = getattr(error, "strerror", None) or str(error)
    return said.strip().partition("\n")[0].partition(". ")[0] or type(error).__name__


def _check_path(path: object) -> None:
    if not isinstance(path, str | os.PathLike):  # numbers and bytes mean something to the system
        raise InputError(f"a file is named by its path, got {type(path).__name__}")


def _target(path: StrPath) -> Path:
    """Where a file is to be written: a regular file, or nothing yet."""
    _check_path(path)
    if not os.path.basename(path):
        raise InputError(f"cannot write {os.fspath(path)!r}: it names no file")
    try:
        target = Path(os.path.realpath(path))
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write {path}: {reason(error)}") from error
    if not stat.S_ISREG(mode):  # to rename over a device or a pipe would destroy it
        raise InputError(f"cannot write {path}: it is {_kind(mode)}, and only a regular file is replaced")
    return target


def _kind(mode: int) -> str:
    kinds = {"a directory": stat.S_ISDIR, "a device": stat.S_ISCHR, "a pipe": stat.S_ISFIFO, "a socket": stat.S_ISSOCK}
    return next((name for name, test in kinds.items() if test(mode)), "a device")


def _own() -> str:
    """How the names of this process's unfinished files begin."""
    return f"{_BESIDE}{platform.node()}-{os.getpid()}-"


@functools.cache  # once for each folder: a store may hold many files
def _remove_abandoned(folder: Path) -> None:
    """Removes the unfinished files of processes of this machine that are gone."""
    if os.name == "nt":  # where one cannot ask for a process without ending it
        return
    for file in folder.glob(f"{_BESIDE}*"):
        machine, _, process = file.name.removeprefix(_BESIDE).rpartition("-")[0].rpartition("-")
        if machine == platform.node() and process.isdecimal():
            with contextlib.suppress(OSError, OverflowError):
                try:
                    os.kill(int(process), 0)
                except ProcessLookupError:
                    file.unlink()


def to_json(content: Any, indent: int | None = None) -> bytes:
    """Plain data and dataclasses as JSON that every reader takes.

    A number that is not finite, for which JSON has no word, becomes null, and half a surrogate pair, of which names of
    files that are no UTF-8 are full, a question mark.
    """
    return json.dumps(_plain(content), indent=indent, allow_nan=False).encode()


def _plain(content: Any) -> Any:
    if isinstance(content, str):
        return content.encode(errors="replace").decode()
    if isinstance(content, dict):
        return {_plain(key): _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    if dataclasses.is_dataclass(content):
        return _plain(vars(content))
    return None if isinstance(content, float) and not math.isfinite(content) else content


def from_json(content: bytes | str, kind: type[T], what: str) -> T:
    """Reads JSON of a type that msgspec knows.

    Args:
        content: the JSON.
        kind: its type.
        what: what errors call it.

    Raises:
        InputError: it is not JSON, or not of that type.
    """
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{what} has not the form that is wanted: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InputError(f"{what} is not JSON: {error}") from error


def read_array(path: Path) -> NDArray[Any]:
    """Reads an array that `numpy.save` wrote.

    Raises:
        InputError: the file cannot be read, or is not one whole array of real numbers.
    """
    content = read_bytes(path, _MOST_OBSERVATIONS)
    if not content.startswith(_ARRAY):
        several = " It holds several arrays, as numpy.savez writes them." if content.startswith(_ZIP) else ""
        raise InputError(f"{path} is not a .npy file of one array.{several}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # a header is Python's text, and damaged ones fail in many ways
        raise InputError(f"cannot read {path} as a .npy array: {reason(error)}") from error
    if array.dtype.kind not in "biuf":
        raise InputError(f"{path} holds an array of {brief(str(array.dtype))}, where one of real numbers was wanted")
    if array.size * max(array.itemsize, 1) > len(content):  # elements of no size are no numbers
        raise InputError(f"cannot read {path} as a .npy array: it claims {array.size:,} elements")
    return array


def write_tensors(path: StrPath, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes tensors and a JSON description to a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_METADATA_KEY: json.dumps(description, sort_keys=True)}
    write_atomically(path, _serialize(plain, metadata))


def read_tensors(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str], str | None]:
    """Reads a checkpoint of tensors: safetensors, or a state dict that `torch.save` wrote.

    Args:
        content: the file's.
        name: what errors call it.

    Returns:
        the tensors by name; the metadata; and the description that `write_tensors` was given, as JSON, or None.

    Raises:
        CheckpointError: the file is truncated, or is not a checkpoint.
        ObjectsError: it holds code or objects other than tensors.
    """
    if content[8:9] == b"{":  # first: the length of the header before it may begin as a pickle does
        return _read_safetensors(content, name)
    if content.startswith((_ZIP, _PICKLE)):
        return read_state_dict(content, name), {}, None
    raise CheckpointError(f"{name} is not a checkpoint: neither safetensors nor a file that torch.save wrote")


class _Header(msgspec.Struct, rename={"metadata": "__metadata__"}):
    """The header of a safetensors file, but for its tensors."""

    metadata: dict[str, str] = {}


def _read_safetensors(content: bytes, name: str) -> tuple[dict[str, Tensor], dict[str, str], str | None]:
    try:
        tensors = _deserialize(content)  # compares what the header claims with what there is
        end = 8 + int.from_bytes(content[:8], "little")
        metadata = from_json(content[8:end], _Header, "its header").metadata
    except Exception as error:  # SafetensorError; KeyError for a dtype that this torch has not
        raise CheckpointError(f"{name} is not a whole safetensors file: {reason(error)}") from error
    return tensors, metadata, metadata.pop(_METADATA_KEY, None)


def read_state_dict(content: bytes, name: str, size: int | None = None) -> dict[str, Tensor]:
    """Reads the state dict that `torch.save` wrote, or the first of several, as CleanRL writes them.

    A dict of state dicts, one for each part of an actor, becomes one, whose names begin with the part's; of a
    checkpoint of training, `parts_that_act` are read.

    Args:
        content: the file's.
        name: what errors call it.
        size: bytes of the file that this one was in, which bound it; by default its own.

    Raises:
        CheckpointError: it is truncated, or is not a state dict.
        ObjectsError: it holds code or objects other than tensors.
    """
    size = len(content) if size is None else size
    try:
        plain = _repacked(content, name, size) if content.startswith(_ZIP) else content
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            state = torch.load(io.BytesIO(plain), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # an instruction that torch.save does not write
            raise CheckpointError(f"{name} is damaged, or not a checkpoint that torch.save wrote") from error
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({wanted[1].removeprefix('builtins.')})" if wanted else ""
        raise ObjectsError(
            f"{name} asks to run code or build objects{what}, which is refused: save the actor's state_dict() instead"
        ) from error
    except Exception as error:  # damaged files make torch.load fail in many ways, struct.error among them
        raise CheckpointError(f"{name} is truncated or not a checkpoint: {reason(error)}") from error
    if isinstance(state, tuple | list) and state and all(isinstance(part, dict) for part in state):
        state = state[0]
    if isinstance(state, dict):
        state = _joined(dict(parts_that_act(state)))
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) and not tensor.is_nested for key, tensor in state.items()
    ):
        raise CheckpointError(f"{name} is not a state dict of tensors: it holds {_describe(state)}")
    # A stride of 0 makes a tensor of any size out of one number.
    dense = [tensor for tensor in state.values() if tensor.layout == torch.strided and tensor.device.type != "meta"]
    check_growth(name, sum(tensor.numel() * tensor.element_size() for tensor in dense), size)
    return dict(state)


def parts_that_act(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Of a checkpoint of training, as RSL-RL writes them, the tensors of the policy by name; another dict as it is.

    What is left out are optimizers, counters and critics. A normalisation of observations that stands beside the policy
    has the names that it has inside of newer ones.
    """
    parts = {prefix: state[part] for part, prefix in _PARTS.items() if isinstance(state.get(part), Mapping)}
    if "" not in parts:
        return state
    named = [(prefix, name, value) for prefix, part in parts.items() for name, value in part.items()]
    return {f"{prefix}{name}" if isinstance(name, str) else name: value for prefix, name, value in named}


def _joined(state: dict[Any, Any]) -> dict[Any, Any]:
    """State dicts by their names, if it is nothing else, as one: "part.name"; anything else as it is."""
    if not state or not all(isinstance(name, str) and isinstance(part, dict) and part for name, part in state.items()):
        return state
    pairs = [(name, key, value) for name, part in state.items() for key, value in part.items()]
    joined = {f"{name}.{key}": value for name, key, value in pairs if isinstance(key, str)}
    return joined if len(joined) == len(pairs) else state


def unzipped(content: bytes, name: str, size: int) -> zipfile.ZipFile:
    """A zip whose members are no larger, all together, than a file of `size` bytes may grow to.

    Raises:
        CheckpointError: they are, or two have the same name, or they are packed by another method than Deflate.
    """
    archive = zipfile.ZipFile(io.BytesIO(content))
    members = archive.infolist()
    check_growth(name, sum(member.file_size for member in members), size)
    if len({member.filename for member in members}) < len(members):
        raise CheckpointError(f"{name} holds two files of one name")
    if not all(member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise CheckpointError(f"{name} is packed by another method than Deflate")
    return archive


def _repacked(content: bytes, name: str, size: int) -> bytes:
    """A zip without compression: torch, which reads zips by itself, then sees what has been checked here."""
    plain = io.BytesIO()
    with unzipped(content, name, size) as archive, zipfile.ZipFile(plain, "w") as other:
        for member in archive.infolist():
            other.writestr(member.filename, archive.read(member))
    return plain.getvalue()


def check_growth(name: str, claimed: int, size: int) -> None:
    """Refuses what a file of `size` bytes claims to unpack to, where that is many times as much.

    Raises:
        CheckpointError: names both.
    """
    if claimed > _MOST_GROWTH * size:
        raise CheckpointError(
            f"{name} has {size:,} bytes and unpacks to {claimed:,}: more than {_MOST_GROWTH} times as much is refused"
        )


def _describe(state: object) -> str:
    if isinstance(state, dict):
        entries = list(state.items())[:5]
        return f"a dict with {', '.join(f'{_brief(name)}: {type(value).__name__}' for name, value in entries)}"
    return f"a {type(state).__name__}"


def _brief(name: object) -> str:
    """A key of a dict; of one that is neither text nor a number only its type, since it may be of any size."""
    return brief(name) if isinstance(name, str | int | float) else type(name).__name__
