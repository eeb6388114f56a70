"""Files: safetensors with metadata, state dicts that `torch.save` wrote, and writing that never leaves half a file."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
import secrets
import shutil
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as _serialize
from torch import Tensor

from snnkern.errors import CheckpointError, InputError

_METADATA_KEY = "snnkern"
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes beside `path` and renames, so that readers see the old file or the new one, never a part.

    Raises:
        InputError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"cannot write {str(path)!r}: it names no file")
    try:
        target = Path(os.path.realpath(path))  # a link stays one
        beside = target.with_name(f".tmp-{secrets.token_hex(8)}")
        try:
            beside.write_bytes(content)
            if target.exists():
                shutil.copymode(target, beside)
            os.replace(beside, target)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses a file that cannot be written, before the work whose result it is to hold.

    Raises:
        InputError: its folder does not exist or cannot be written to, or it is a folder itself.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise InputError(f"cannot write {str(path)!r}: it is a folder")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write {path}: the folder {path.parent} is not writable")


def to_json(content: Any, indent: int | None = None) -> bytes:
    """Plain data as JSON that every reader takes.

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
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_tensors(path: str | os.PathLike[str], tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Writes tensors and a JSON description to a safetensors file, atomically."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {_METADATA_KEY: json.dumps(description, sort_keys=True)}
    write_atomically(path, _serialize(plain, metadata))


def read_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a checkpoint file of tensors: safetensors, or a state dict that `torch.save` wrote.

    Returns:
        the tensors by name, and the metadata: what `write_tensors` was given under "snnkern", the rest as it stands.

    Raises:
        CheckpointError: the file is truncated, is not a checkpoint, or holds code or objects other than tensors.
        InputError: the file does not exist or cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    if head[8:9] == b"{":  # first: the length of the header before it may begin as a pickle does
        return _read_safetensors(path)
    if head.startswith((_ZIP, _PICKLE)):
        return read_state_dict(path, str(path)), {}
    raise CheckpointError(f"{path} is not a checkpoint: neither safetensors nor a file that torch.save wrote")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
            # Copies: views of a file end with a bus error when another program shortens it.
            tensors = {name: file.get_tensor(name).clone() for name in names}
            metadata: dict[str, Any] = dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error
    if _METADATA_KEY in metadata:
        try:
            metadata[_METADATA_KEY] = json.loads(metadata[_METADATA_KEY])
        except (json.JSONDecodeError, RecursionError) as error:
            raise CheckpointError(f"{path}: its snnkern metadata is not JSON: {error}") from error
    return tensors, metadata


def read_state_dict(file: Path | BinaryIO, name: str) -> dict[str, Tensor]:
    """Reads the state dict that `torch.save` wrote to a file, or the first of several, as CleanRL writes them.

    Args:
        file: the file, or its path.
        name: what errors call it.

    Raises:
        CheckpointError: it is truncated, is not a state dict, or holds code or objects other than tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols: what cannot be read is refused below
            state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # an instruction that torch.save does not write
            raise CheckpointError(f"{name} is damaged, or not a checkpoint that torch.save wrote") from error
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({wanted[1].removeprefix('builtins.')})" if wanted else ""
        raise CheckpointError(
            f"{name} asks to run code or build objects{what}, which is refused: save the actor's state_dict() instead"
        ) from error
    except Exception as error:  # damaged files make torch.load fail in many ways, struct.error among them
        reason = str(error).strip().partition("\n")[0].partition(". ")[0]
        raise CheckpointError(f"{name} is truncated or not a checkpoint: {reason or type(error).__name__}") from error
    if isinstance(state, tuple | list) and state and all(isinstance(part, dict) for part in state):
        state = state[0]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in state.items()
    ):
        raise CheckpointError(f"{name} is not a state dict of tensors: it holds {_describe(state)}")
    return dict(state)


def _describe(state: object) -> str:
    if isinstance(state, dict):
        return (
            f"a dict with {', '.join(f'{name!r}: {type(value).__name__}' for name, value in list(state.items())[:5])}"
        )
    return f"a {type(state).__name__}"
