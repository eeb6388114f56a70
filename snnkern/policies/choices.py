"""What `warmup()` found fastest, on disk: beside the kernels that Triton compiled."""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes, to_json, write_atomically

_MOST_BYTES = 1 << 16  # of a file


class _Kept(msgspec.Struct):
    """What a file holds. Its name is a hash of `of`, which says all that the choice depends on."""

    choice: str
    of: str


class ChoiceFiles:
    """A `snnkern.kernels.backends.tuning.Shelf` in Triton's cache, a file for each choice."""

    def read(self, of: str) -> str | None:
        """What a file says; None where there is none, or it is damaged: the next choice takes its place."""
        path = self._path(of)
        try:
            kept = from_json(read_bytes(path, _MOST_BYTES), _Kept, str(path))
        except InputError:
            return None
        return kept.choice if kept.of == of else None

    def write(self, of: str, choice: str) -> None:
        """Writes a file. Where that is not allowed, nothing is kept."""
        path = self._path(of)
        with contextlib.suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_json({"choice": choice, "of": of}))

    def _path(self, of: str) -> Path:
        return _cache() / f"snnkern-choice-{hashlib.sha256(of.encode()).hexdigest()[:32]}.json"


def _cache() -> Path:
    """Triton's folder, also where there is no Triton: CUDA's kernels do without."""
    try:
        from triton import knobs
    except ImportError:
        named = os.environ.get("TRITON_CACHE_DIR")
        return Path(named) if named else Path.home() / ".triton" / "cache"
    return Path(knobs.cache.dir)
