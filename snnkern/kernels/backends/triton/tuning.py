"""The tiles that `warmup()` found fastest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from snnkern.kernels.backends.triton.environment import INTERPRETED


class Tile(NamedTuple):
    """Rows that a program works on at a time, and its warps: 16 rows per warp feed the tensor cores."""

    rows: int
    warps: int

    @property
    def resident(self) -> int:
        """Programs whose registers a multiprocessor holds at the same time."""
        return 8 // self.warps


class Shelf(Protocol):
    """Keeps choices longer than a process."""

    def read(self, of: str) -> tuple[int, int] | None:
        """Rows and warps that were kept under this text, whoever kept them; None where there are none."""

    def write(self, of: str, tile: Tile) -> None:
        """Keeps a choice under a text, if it can."""


shelf: Shelf | None = None  # `snnkern.policies.tiles` has one: kernels alone write no files


class Tiles:
    """The choices for one kernel.

    Args:
        kernel: of `triton.jit`. Choices hold as long as its source is the same.
        tiles: what there is to choose from. Another one on the shelf is ignored.
    """

    def __init__(self, kernel: Any, tiles: Sequence[Tile]) -> None:
        self._kernel, self._tiles = kernel, tiles
        self._known: dict[tuple[object, ...], Tile | None] = {}

    def find(self, key: tuple[object, ...]) -> Tile | None:
        """The tile that was found fastest for this key, in this process or an earlier one; None where none was."""
        if key not in self._known:
            kept = None if shelf is None or INTERPRETED else shelf.read(self._of(key))
            self._known[key] = next((tile for tile in self._tiles if tile == kept), None)
        return self._known[key]

    def keep(self, key: tuple[object, ...], tile: Tile) -> None:
        """Keeps a tile for this key."""
        self._known[key] = tile
        if shelf is not None:
            shelf.write(self._of(key), tile)

    def _of(self, key: tuple[object, ...]) -> str:
        """All that a choice depends on: release, source, device and shape."""
        import triton

        return f"Triton {triton.__version__}, kernel {self._kernel.cache_key}: {key!r}"


def bucket(batch: int) -> int:
    """Batches that share a choice: those up to the same power of two. Its exponent; −1 for no rows."""
    return (batch - 1).bit_length() if batch else -1
