"""An H100 SXM on paper, and what bench/gpu.py has measured on a GPU: what the tables of docs/gpu.md share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from machine_code import ROOT, Mix, table

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
SHARED, BARRIER, SHUFFLE, ADD = 30, 40, 25, 4
ISSUED = 4  # instructions of warps, per clock and multiprocessor
# Of those, what its pipelines execute (CUDA's programming guide, compute capability 9.0).
INTEGERS, MULTIPLIES, SPECIAL, MOVED = 2, 2, 0.5, 1
PRODUCTS = 990e12 / 2 / CLOCK / MULTIPROCESSORS  # of bfloat16 numbers, per clock and multiprocessor


class Assumed(NamedTuple):
    """What a prediction assumes where the data sheet leaves it open.

    Attributes:
        issue: the share of what schedulers and pipelines can do that instructions reach.
        bandwidth: the same of memory, of L2 when all read, and of tensor cores.
        l2: L2's latency in clocks.
        launch: seconds from the end of what stands before it in the stream.
        overlaps: whether the programs of a multiprocessor multiply while others decode.
        keeps: whether L1 keeps from one row to the next what fits of the weights.
        whole: whether a round of loads that is partly empty takes as many instructions as a full one.
    """

    issue: float
    bandwidth: float
    l2: int
    launch: float
    overlaps: bool
    keeps: bool
    whole: bool

    def clocks(self, mix: Mix) -> float:
        """Clocks of a multiprocessor for so many instructions of warps."""
        busiest = max(
            mix.issued / ISSUED,
            mix.integers / INTEGERS,
            mix.multiplies / MULTIPLIES,
            mix.special / SPECIAL,
            mix.memory / MOVED,
        )
        return busiest / self.issue


BEST = Assumed(issue=0.9, bandwidth=0.9, l2=250, launch=0.8e-6, overlaps=True, keeps=True, whole=False)
WORST = Assumed(issue=0.65, bandwidth=0.75, l2=350, launch=1.5e-6, overlaps=False, keeps=False, whole=True)


def assumptions_table() -> str:
    """The best and the worst case."""
    described: dict[str, Callable[[Assumed], object]] = {
        "instructions, of what schedulers and pipelines can do": lambda one: f"{one.issue:.0%}",
        "bytes and products, of what memory, L2 and tensor cores can do": lambda one: f"{one.bandwidth:.0%}",
        "L2's latency, clocks": lambda one: one.l2,
        "a launch in a busy stream or a graph, µs": lambda one: f"{one.launch * 1e6:.1f}",
        "Triton: products of one program while another decodes": lambda one: "yes" if one.overlaps else "no",
        "CUDA: L1 keeps weights from one row to the next, as much as fits": lambda one: "yes" if one.keeps else "no",
        "CUDA: a round of loads that is not full takes": lambda one: "a whole round" if one.whole else "its share",
    }
    rows = [[what, say(BEST), say(WORST)] for what, say in described.items()]
    return table(["assumed", "best case", "worst case"], rows)


class Span(NamedTuple):
    """The best and the worst case of a time, in seconds, or in clocks where that is said."""

    best: float
    worst: float

    @property
    def clocks(self) -> str:
        """Of clocks, to tens."""
        low, high = (f"{round(clocks, -1):,.0f}" for clocks in self)
        return low if low == high else f"{low} to {high}"

    def __str__(self) -> str:
        """In µs, rounded outwards by at most a tenth."""
        low, high = self.best * 1e6, self.worst * 1e6
        return f"{_rounded(low, math.floor)}–{_rounded(high, math.ceil)}"


def _rounded(value: float, to: Callable[[float], int]) -> str:
    """To one or two digits: steps of 1, 2 or 5 that are at most a tenth of the number."""
    scale = 10.0 ** math.floor(math.log10(value / 10))
    step = max(size for size in (scale, 2 * scale, 5 * scale) if size <= value / 10)
    rounded = to(value / step) * step
    return f"{rounded:,.{0 if rounded >= 10 else 1}f}"


class Measured:
    """The medians of a run of bench/gpu.py on a GPU, as cells of a table: empty where there is none."""

    def __init__(self) -> None:
        found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self._found = found if found.get("gpu") else {}

    def neurons(self, backend: str, kind: str, form: str) -> str:
        """A neuron kernel's time in µs."""
        return self._cell("neurons", {"backend": backend, "neuron": kind.lower(), "form": form})

    def gradients(self, backend: str, kind: str, batch: int) -> str:
        """The time in µs of both hidden layers' gradients."""
        return self._cell("gradients", {"backend": backend, "neuron": kind.lower(), "batch": batch})

    def actor(self, backend: str, kind: str, batch: int) -> str:
        """A decision's time in µs, in a CUDA graph of many."""
        return self._cell("decisions", {"name": f"{backend} graph", "neuron": kind.lower(), "batch": batch})

    def visual(self, path: str, kind: str, batch: int) -> str:
        """A visual actor's decision in µs, replayed as a CUDA graph: on "triton", or in "layers"."""
        return self._cell("visual", {"path": path, "neuron": kind.lower(), "batch": batch})

    def decisions_table(self) -> str:
        """All that was measured of decisions: a row for each name and neuron, a column for each batch."""
        found = {
            (one["name"], one["neuron"], one["batch"]): one["seconds"][1] for one in self._found.get("decisions", ())
        }
        rows, batches = dict.fromkeys(key[:2] for key in found), sorted({batch for *_, batch in found})
        cells = [
            [name, neuron.upper(), *(_microseconds(found.get((name, neuron, batch))) for batch in batches)]
            for name, neuron in rows
        ]
        return table(["µs at a batch of", "neuron", *(f"{batch:,}" for batch in batches)], cells)

    def _cell(self, what: str, key: dict[str, object]) -> str:
        for entry in self._found.get(what, ()):
            if key.items() <= entry.items():
                return _microseconds(entry["seconds"][1])
        return ""


def _microseconds(seconds: float | None) -> str:
    """Three digits; empty for what was not measured."""
    if seconds is None:
        return ""
    return f"{seconds * 1e6:,.0f}" if seconds >= 1e-4 else f"{seconds * 1e6:.1f}"
