"""The actors that ship with the package, by the names that `snnkern.load_actor` knows.

`SHA256SUMS` lists them with the SHA-256 of their files, in the form that `sha256sum --check` reads.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from snnkern.errors import CheckpointError
from snnkern.files import read_bytes

_FOLDER = Path(__file__).parent
_SUMS, _SUFFIX = "SHA256SUMS", ".safetensors"


def names() -> tuple[str, ...]:
    """Names of the actors that ship with the package."""
    return tuple(_sums())


def path(name: str) -> Path:
    """The file of an actor in `names()`."""
    return _FOLDER / f"{name}{_SUFFIX}"


def read(name: str) -> bytes:
    """The file of an actor in `names()`, whole and unchanged.

    Raises:
        CheckpointError: it is not the one that the package came with.
    """
    content = read_bytes(path(name))
    if hashlib.sha256(content).hexdigest() != _sums()[name]:
        raise CheckpointError(f"the zoo's {name} has changed since the package was made: install snnkern again")
    return content


@functools.cache
def _sums() -> dict[str, str]:
    lines = (line.split() for line in (_FOLDER / _SUMS).read_text().splitlines())
    return {name.removesuffix(_SUFFIX): digest for digest, name in lines}
