"""The actors that ship with the package, by the names that `snnkern.load_actor` knows."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """Names of the actors that ship with the package."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def path(name: str) -> Path:
    """The file of an actor in `names()`."""
    return _FOLDER / f"{name}.safetensors"
