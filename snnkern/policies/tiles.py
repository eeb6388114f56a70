"""The tiles that `warmup()` found fastest, on disk: beside the kernels that Triton compiled."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import msgspec

from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes, to_json, write_atomically

_MOST_BYTES = 1 << 16  # of a file


class _Kept(msgspec.Struct):
    """What a file holds. Its name is a hash of `of`, which says all that the choice depends on."""

    rows: int
    warps: int
    of: str


class TileFiles:
    """A `snnkern.kernels.backends.triton.tuning.Shelf` in Triton's cache, a file for each choice."""

    def read(self, of: str) -> tuple[int, int] | None:
        """What a file says; None where there is none, or it is damaged: the next choice takes its place."""
        path = self._path(of)
        try:
            kept = from_json(read_bytes(path, _MOST_BYTES), _Kept, str(path))
        except InputError:
            return None
        return (kept.rows, kept.warps) if kept.of == of else None

    def write(self, of: str, tile: tuple[int, int]) -> None:
        """Writes a file. Where that is not allowed, nothing is kept."""
        path = self._path(of)
        rows, warps = tile
        with contextlib.suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_json({"rows": rows, "warps": warps, "of": of}))

    def _path(self, of: str) -> Path:
        from triton import knobs

        return Path(knobs.cache.dir) / f"snnkern-tile-{hashlib.sha256(of.encode()).hexdigest()[:32]}.json"
