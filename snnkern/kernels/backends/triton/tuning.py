"""The tiles that `warmup()` chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from snnkern.kernels.backends.triton.environment import INTERPRETED
from snnkern.kernels.backends.tuning import Choices


class Tile(NamedTuple):
    """Rows that a program works on at a time, and its warps: 16 rows per warp feed the tensor cores."""

    rows: int
    warps: int

    @property
    def resident(self) -> int:
        """Programs whose registers a multiprocessor holds at the same time."""
        return 8 // self.warps


def choices(kernel: Any, tiles: Sequence[Tile]) -> Choices[Tile]:
    """The choices for a kernel of `triton.jit`; they hold as long as its source is the same, and Triton's release."""

    def stamp() -> str | None:
        if INTERPRETED:
            return None
        import triton

        return f"Triton {triton.__version__}, kernel {kernel.cache_key}"

    return Choices({f"{tile.rows} rows, {tile.warps} warps": tile for tile in tiles}, stamp)
