"""An H100 SXM on paper, and what bench/gpu.py has measured on a GPU: what the tables of docs/gpu.md share."""

from __future__ import annotations

import json
from typing import Any

from machine_code import ROOT

PAGE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "bench" / "results" / "gpu.json"

# Its data sheet, and assumed latencies in clocks, see the page.
CLOCK = 1.755e9
MULTIPROCESSORS = 132
MEMORY = 3.35e12
L1_LEFT = 192 * 1024  # of 256 KB, beside shared memory
L1_BYTES = 128  # per clock and multiprocessor
L2_BYTES = 64  # per clock, to one multiprocessor alone
L2_SHARED = 5.5e12 / CLOCK / MULTIPROCESSORS  # per clock and multiprocessor, when all of them read
L2, SHARED, BARRIER, SHUFFLE, ADD = 270, 30, 40, 25, 4
ISSUED = 4  # instructions of warps, per clock and multiprocessor
REACHED = 0.9  # of memory's and the issue's rate, at best
LAUNCH = 1.0e-6  # from the end of what stands before it in the stream
PRODUCTS = 990e12 / 2 / CLOCK / MULTIPROCESSORS  # of bfloat16 numbers, per clock and multiprocessor


class Measured:
    """The medians of a run of bench/gpu.py on a GPU, as cells of a table: empty where there is none."""

    def __init__(self) -> None:
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self._found = found if found.get("gpu") else {}

    def neurons(self, backend: str, kind: str, form: str) -> str:
        """A neuron kernel's time in µs."""
        return self._cell("neurons", {"backend": backend, "neuron": kind.lower(), "form": form})

    def actor(self, backend: str, kind: str, batch: int) -> str:
        """A decision's time in µs, replayed as a CUDA graph."""
        return self._cell("decisions", {"name": f"{backend} graph", "neuron": kind.lower(), "batch": batch})

    def visual(self, path: str, kind: str, batch: int) -> str:
        """A visual actor's decision in µs, replayed as a CUDA graph: on "triton", or in "layers"."""
        return self._cell("visual", {"path": path, "neuron": kind.lower(), "batch": batch})

    def _cell(self, what: str, key: dict[str, object]) -> str:
        for entry in self._found.get(what, ()):
            if key.items() <= entry.items():
                return f"{entry['seconds'][1] * 1e6:.1f}"
        return ""
