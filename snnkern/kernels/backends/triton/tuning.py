"""The tiles that `warmup()` found fastest: kept in the process, and on disk beside the kernels that Triton compiled."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from snnkern.errors import InputError
from snnkern.files import from_json, read_bytes, to_json, write_atomically
from snnkern.kernels.backends.triton.environment import INTERPRETED

_MOST_BYTES = 1 << 16  # of a file


class Tile(NamedTuple):
    """Rows that a program works on at a time, and its warps: 16 rows per warp feed the tensor cores."""

    rows: int
    warps: int

    @property
    def resident(self) -> int:
        """Programs whose registers a multiprocessor holds at the same time."""
        return 8 // self.warps


class _Kept(msgspec.Struct):
    """What a file holds. Its name is a hash of all that the choice depends on, which it repeats for people to read."""

    rows: int
    warps: int
    of: str


class Tiles:
    """The choices for one kernel.

    Args:
        kernel: of `triton.jit`. Choices hold as long as its source is the same.
        tiles: what there is to choose from. A file that names another one is ignored.
    """

    def __init__(self, kernel: Any, tiles: Sequence[Tile]) -> None:
        self._kernel, self._tiles = kernel, tiles
        self._known: dict[str, Tile | None] = {}

    def find(self, key: tuple[object, ...]) -> Tile | None:
        """The tile that was found fastest for this key, in this process or an earlier one; None where none was."""
        name = repr(key)
        if name not in self._known:
            self._known[name] = self._read(name)
        return self._known[name]

    def keep(self, key: tuple[object, ...], tile: Tile) -> None:
        """Keeps a tile for this key. Where nothing can be written, the process keeps it alone."""
        name = repr(key)
        self._known[name] = tile
        if (path := self._path(name)) is None:
            return
        with contextlib.suppress(OSError, InputError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, to_json({**tile._asdict(), "of": name}))

    def _read(self, name: str) -> Tile | None:
        if (path := self._path(name)) is None:
            return None
        try:
            kept = from_json(read_bytes(path, _MOST_BYTES), _Kept, str(path))
        except InputError:  # there is none, or it is damaged: the next choice takes its place
            return None
        tile = Tile(kept.rows, kept.warps)
        return tile if tile in self._tiles and kept.of == name else None

    def _path(self, name: str) -> Path | None:
        """Where the choice is kept; None where nothing is measured."""
        if INTERPRETED:
            return None
        import triton

        whole = f"{triton.__version__} {self._kernel.cache_key} {name}"
        digest = hashlib.sha256(whole.encode()).hexdigest()
        return Path(triton.knobs.cache.dir) / f"snnkern-tile-{digest[:32]}.json"


def bucket(batch: int) -> int:
    """Batches that share a choice: those up to the same power of two. Its exponent; −1 for no rows."""
    return (batch - 1).bit_length() if batch else -1
