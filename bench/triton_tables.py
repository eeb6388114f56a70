"""The tables of docs/gpu.md about the Triton kernels: what is made of them, what an H100 should take for them, and what
their precisions cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import cuda_tables
from cuda_tables import NEURON_FORMS, TIMESTEPS
from h100 import (
    BEST,
    CLOCK,
    INTEGERS,
    ISSUED,
    L2_SHARED,
    MEMORY,
    MULTIPROCESSORS,
    PRODUCTS,
    WORST,
    Assumed,
    Measured,
    Span,
)
from machine_code import COMPILED_KINDS, KINDS, TARGETS, Mix, table
from triton_compiled import DTYPES, WIDTHS, Case, Compiled

from snnkern.kernels.backends.choice import small_batch
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.backends.triton.engine import PRECISIONS, TILES, Tile, block, default_tile, planes

BATCHES = (1024, 2048, 4096, 8192, 16384, 65536)
OBSERVED = 32  # the first layer's inputs, padded
ACTED = 16  # actions, padded
SPLIT = 6  # products of float32 numbers that are in three parts both
# Products that a clock has, as a share of PRODUCTS: TF32's are half; those of mma.sync, which 16 rows take, are about
# 62 % (Luo et al., arXiv 2402.13499).
RATE = {"float32": 1.0, "bf16": 1.0, "tf32": 0.5}
OF_16_ROWS = 0.62
ONCE = {2: 100, 4: 150}  # instructions of a neuron kernel's warp beside its steps, by the neurons of a thread


def compiled_table(kernels: Sequence[Compiled]) -> str:
    """Registers, local and shared memory of every kernel, and which instructions multiply."""
    rows = []
    for precision, tile, kind in itertools.product(PRECISIONS, TILES, COMPILED_KINDS):
        group = [_find(kernels, Case("actor", kind, target, precision, str(tile.rows))) for target in TARGETS]
        products = [next(name for name, count in one.products.items() if count).split(".")[0] for one in group]
        name = f"actor, {kind}, {precision}, {tile.rows} rows"
        warps = min(one.warps for one in group)
        rows.append(
            [
                name,
                *(one.registers for one in group),
                max(one.shared for one in group) >> 10,
                warps,
                ", ".join(products),
            ]
        )
    for dtype, kind in itertools.product(DTYPES, COMPILED_KINDS):
        of_target = [
            [_find(kernels, Case("neuron", kind, target, dtype, form)) for form in NEURON_FORMS] for target in TARGETS
        ]
        most = [max(one.registers for one in group) for group in of_target]
        every = [one for group in of_target for one in group]
        rows.append(
            [
                f"neuron, {kind}, {dtype}",
                *most,
                max(one.shared for one in every) >> 10,
                min(one.warps for one in every),
                "",
            ]
        )
    heading = ["kernel", *TARGETS, "shared memory, KB", "warps per multiprocessor", "multiplied by"]
    local = sum(one.local for one in kernels)
    return (
        table(heading, rows) + f"\n\nRegisters per thread, of the hungriest form. Local memory of all {len(kernels)} "
        f"compiled kernels together: {local} bytes. Triton {launch.release()}."
    )


def instructions_table(kernels: Sequence[Compiled]) -> str:
    """Instructions of a neuron kernel's thread in a step, on an H100."""
    forms = [form for form in NEURON_FORMS if form.startswith("a sequence")]
    rows = [
        [
            f"{kind}, {dtype}",
            width(Case("neuron", kind, "sm_90", dtype, forms[0])),
            *(f"{_instructions(kernels, Case('neuron', kind, 'sm_90', dtype, form)).issued:.0f}" for form in forms),
        ]
        for dtype, kind in itertools.product(DTYPES, KINDS)
    ]
    return table(["instructions of a step", "neurons per thread", *forms], rows)


def width(case: Case) -> int:
    """Neurons of a neuron kernel's thread."""
    elements = launch.tile_elements(case.dynamics().neuron, DTYPES[case.precision])
    return elements // (32 * launch.TILE_WARPS)


@dataclass(frozen=True)
class Load:
    """What a tile of rows takes of a multiprocessor: instructions of warps, and clocks of its tensor cores, of its
    share of L2's and of memory's bandwidth. And the bytes of packed spikes that all programs keep in L2."""

    tile: Tile
    products: float
    issued: Mix
    l2: float
    memory: float
    scratch: float

    @classmethod
    def of(cls, kernel: Compiled, tile: Tile) -> Load:
        case = kernel.case
        wide, outputs = WIDTHS[1], WIDTHS[-1]
        dynamics = case.dynamics()
        columns, steps = block(dynamics.neuron, tile, case.precision, (9, 0))
        parts = 3 if case.precision == "float32" else 1
        between = TIMESTEPS * wide * wide * parts
        split = SPLIT * (OBSERVED * wide + wide * ACTED)
        rate = PRODUCTS * (OF_16_ROWS if tile.rows == 16 else 1.0)
        weights = between // steps * (4 if case.precision == "tf32" else 2) + 3 * 2 * (OBSERVED + ACTED) * wide
        spikes = (
            tile.rows * wide * planes(dynamics) * (1 + wide // columns)
        )  # written once, read for every block of columns
        moved = tile.rows * (4 * (WIDTHS[0] + outputs) + 2 * (2 * 4 * wide + 8))
        return cls(
            tile=tile,
            products=tile.rows * (between / RATE[case.precision] + split) / rate,
            issued=(kernel.instructions or Mix()) * tile.warps,
            l2=(weights + spikes) / L2_SHARED,
            memory=moved / (MEMORY / CLOCK / MULTIPROCESSORS),
            scratch=MULTIPROCESSORS * tile.resident * tile.rows * wide * planes(dynamics),
        )

    def clocks(self, tiles: int, assumed: Assumed) -> float:
        """Clocks of a multiprocessor for so many tiles. A program by itself decodes and multiplies in turn; several
        overlap at best, until one of the four is busy all the time."""
        issue = assumed.clocks(self.issued)
        products, l2, memory = (clocks / assumed.bandwidth for clocks in (self.products, self.l2, self.memory))
        together = max(products, issue, l2, memory)
        alone = max(products + issue, l2, memory)
        if not assumed.overlaps:
            return tiles * alone
        return max(tiles * together, math.ceil(tiles / self.tile.resident) * alone)

    def seconds(self, batch: int, assumed: Assumed) -> float:
        """Seconds of a decision for a batch."""
        tiles = math.ceil(batch / self.tile.rows / MULTIPROCESSORS)
        return assumed.launch + self.clocks(tiles, assumed) / CLOCK

    def span(self, batch: int) -> Span:
        return Span(self.seconds(batch, BEST), self.seconds(batch, WORST))

    def floor(self, batch: int) -> float:
        """Seconds that its products take of all tensor cores, or its bytes of memory."""
        return batch / self.tile.rows / MULTIPROCESSORS * max(self.products, self.memory) / CLOCK


def loads(kernels: Sequence[Compiled]) -> dict[tuple[str, Tile], Load]:
    """For every kind and tile, on an H100."""
    return {(kind, tile): _load(kernels, kind, tile, "float32") for kind, tile in itertools.product(KINDS, TILES)}


def _load(kernels: Sequence[Compiled], kind: str, tile: Tile, precision: str) -> Load:
    return Load.of(_find(kernels, Case("actor", kind, "sm_90", precision, str(tile.rows))), tile)


def parts_table(kernels: Sequence[Compiled]) -> str:
    """What a tile takes of each part of a multiprocessor, and the share of the tensor cores' peak that follows."""
    rows = []
    for precision, (kind, tile) in itertools.product(PRECISIONS, itertools.product(KINDS, TILES[:1])):
        load = _load(kernels, kind, tile, precision)
        shares = [load.tile.resident * load.products / load.clocks(load.tile.resident, one) for one in (WORST, BEST)]
        issue = load.issued.issued / ISSUED, load.issued.integers / INTEGERS
        cells = [f"{clocks:,.0f}" for clocks in (load.products, *issue, load.l2, load.memory)]
        rows.append(
            [f"{kind}, {precision}", *cells, "–".join(f"{share:.0%}" for share in shares), f"{load.scratch / 1e6:.1f}"]
        )
    heading = ["a tile of 64 rows, clocks", "tensor cores", "schedulers", "integer pipeline", "L2", "memory"]
    heading += ["of the tensor cores' peak", "packed spikes of all programs, MB"]
    return table(heading, rows)


def predicted_table(kernels: Sequence[Compiled]) -> str:
    """Floor, prediction and, where there is one, measurement."""
    measured = Measured()
    rows = []
    every = loads(kernels)
    for kind, batch in itertools.product(KINDS, BATCHES):
        load = every[kind, default_tile(batch, MULTIPROCESSORS)]
        floor = f"{load.floor(batch) * 1e6:,.0f}"
        name = f"actor, {kind}, batch {batch:,}"
        rows.append([name, floor, load.span(batch), measured.actor("triton", kind, batch)])
    for dtype, kind, form in itertools.product(("float32", "bfloat16"), KINDS, NEURON_FORMS):
        bytes_each = 4 if dtype == "float32" else 2
        counted = form.replace("a constant current", "a sequence")  # which takes as many instructions, or more
        case = Case("neuron", kind, "sm_90", dtype, counted)
        step, together, once = _instructions(kernels, case), 32 * width(case), ONCE[width(case)]
        times = cuda_tables.neuron_times(NEURON_FORMS[form] * bytes_each, step, together, once)
        cell = measured.neurons("triton", kind, form) if dtype == "float32" else ""
        rows.append([f"neurons, {kind}, {dtype}, {form}", *times, cell])
    return table(["what", "floor, µs", "predicted, µs", "measured, µs"], rows)


def borders_table(kernels: Sequence[Compiled], rows: Mapping[str, cuda_tables.Row]) -> str:
    """The batches up to which CUDA is predicted to be faster than Triton, and both at the border that is set."""
    every = loads(kernels)
    cells = []
    for kind, row in rows.items():

        def both(batch: int, kind: str = kind, row: cuda_tables.Row = row) -> tuple[Span, Span]:
            return row.span(batch), every[kind, default_tile(batch, MULTIPROCESSORS)].span(batch)

        borders = [
            _border(both, lambda cuda, triton: cuda.worst < triton.best),
            _border(both, lambda cuda, triton: sum(cuda) < sum(triton)),
            _border(both, lambda cuda, triton: cuda.best < triton.worst),
        ]
        cells.append([kind, *(f"{border:,}" for border in borders), *both(small_batch())])
    border = f"{small_batch():,} rows, µs"
    heading = ["neuron", "CUDA is surely faster up to, rows", "in the middle of both ranges", "perhaps faster up to"]
    return table([*heading, f"CUDA at {border}", f"Triton at {border}"], cells)


def _border(both: Callable[[int], tuple[Span, Span]], is_faster: Callable[[Span, Span], bool]) -> int:
    """The batch up to which CUDA is faster all the time, in steps of a row for every multiprocessor; 0 for none."""
    batches = range(MULTIPROCESSORS, BATCHES[-1], MULTIPROCESSORS)
    return next(batch for batch in batches if not is_faster(*both(batch))) - MULTIPROCESSORS


def _find(kernels: Sequence[Compiled], case: Case) -> Compiled:
    return next(kernel for kernel in kernels if kernel.case == case)


def _instructions(kernels: Sequence[Compiled], case: Case) -> Mix:
    return _find(kernels, case).instructions or Mix()
