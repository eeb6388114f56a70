"""The tables of docs/gpu.md about the Triton kernels: what is made of them, what an H100 should take for them, and what
their precisions cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cuda_tables
from cuda_tables import NEURON_FORMS, TIMESTEPS
from h100 import CLOCK, ISSUED, L2_SHARED, LAUNCH, MEMORY, MULTIPROCESSORS, PRODUCTS, REACHED, Measured
from machine_code import COMPILED_KINDS, KINDS, TARGETS, table
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
            *(_instructions(kernels, Case("neuron", kind, "sm_90", dtype, form)) for form in forms),
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
    """What a tile of rows takes of a multiprocessor, in clocks: of its tensor cores, of its issue of instructions, of
    its share of L2's and of memory's bandwidth. And the bytes of packed spikes that all programs keep in L2."""

    tile: Tile
    products: float
    issue: float
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
            issue=(kernel.instructions or 0) * tile.warps / ISSUED,
            l2=(weights + spikes) / L2_SHARED,
            memory=moved / (MEMORY / CLOCK / MULTIPROCESSORS),
            scratch=MULTIPROCESSORS * tile.resident * tile.rows * wide * planes(dynamics),
        )

    def clocks(self, tiles: int) -> float:
        """Clocks of a multiprocessor for so many tiles. A program by itself decodes and multiplies in turn; several
        overlap, until one of the four is busy all the time."""
        together = max(self.products, self.issue, self.l2, self.memory)
        alone = max(self.products + self.issue, self.l2, self.memory)
        return max(tiles * together, math.ceil(tiles / self.tile.resident) * alone) / REACHED

    def seconds(self, batch: int) -> float:
        """Seconds of a decision for a batch."""
        return LAUNCH + self.clocks(math.ceil(batch / self.tile.rows / MULTIPROCESSORS)) / CLOCK

    def floor(self, batch: int) -> float:
        """Seconds that its products take of all tensor cores, or its bytes of memory."""
        return batch / self.tile.rows / MULTIPROCESSORS * max(self.products, self.memory) / CLOCK


def loads(kernels: Sequence[Compiled], precision: str = "float32") -> dict[tuple[str, Tile], Load]:
    """For every kind and tile, on an H100."""
    return {
        (kind, tile): Load.of(_find(kernels, Case("actor", kind, "sm_90", precision, str(tile.rows))), tile)
        for kind, tile in itertools.product(KINDS, TILES)
    }


def parts_table(kernels: Sequence[Compiled]) -> str:
    """What a tile takes of each part of a multiprocessor, and the share of the tensor cores' peak that follows."""
    rows = []
    for precision, (kind, tile) in itertools.product(PRECISIONS, itertools.product(KINDS, TILES[:1])):
        load = loads(kernels, precision)[kind, tile]
        share = load.tile.resident * load.products / load.clocks(load.tile.resident)
        cells = [f"{clocks:,.0f}" for clocks in (load.products, load.issue, load.l2, load.memory)]
        rows.append([f"{kind}, {precision}", *cells, f"{share:.0%}", f"{load.scratch / 1e6:.1f}"])
    heading = ["a tile of 64 rows, clocks", "tensor cores", "instructions", "L2", "memory"]
    heading += ["of the tensor cores' peak", "packed spikes of all programs, MB"]
    return table(heading, rows)


def predicted_table(kernels: Sequence[Compiled]) -> str:
    """Floor, prediction and, where there is one, measurement."""
    measured = Measured()
    rows = []
    every = loads(kernels)
    for kind, batch in itertools.product(KINDS, BATCHES):
        load = every[kind, default_tile(batch, MULTIPROCESSORS)]
        times = [f"{seconds * 1e6:,.0f}" for seconds in (load.floor(batch), load.seconds(batch))]
        rows.append([f"actor, {kind}, batch {batch:,}", *times, measured.actor("triton", kind, batch)])
    for dtype, kind, form in itertools.product(("float32", "bfloat16"), KINDS, NEURON_FORMS):
        bytes_each = 4 if dtype == "float32" else 2
        counted = form.replace("a constant current", "a sequence")  # which takes as many instructions, or more
        case = Case("neuron", kind, "sm_90", dtype, counted)
        step, once = _instructions(kernels, case) / (32 * width(case)), ONCE[width(case)] / (32 * width(case))
        times = cuda_tables.neuron_times(NEURON_FORMS[form] * bytes_each, step, once)
        cell = measured.neurons("triton", kind, form) if dtype == "float32" else ""
        rows.append([f"neurons, {kind}, {dtype}, {form}", *times, cell])
    return table(["what", "floor, µs", "predicted, µs", "measured, µs"], rows)


def borders_table(kernels: Sequence[Compiled], spikes: Mapping[str, cuda_tables.Load]) -> str:
    """The largest batch for which CUDA is predicted to be faster than Triton."""
    every = loads(kernels)

    def times(kind: str, batch: int) -> tuple[float, float]:
        by_triton = every[kind, default_tile(batch, MULTIPROCESSORS)].seconds(batch)
        return cuda_tables.batched(kind, spikes[kind], batch).expected, by_triton

    rows = []
    for kind in KINDS:
        batches = range(MULTIPROCESSORS, BATCHES[-1], MULTIPROCESSORS)
        last = max(batch for batch in batches if min(times(kind, batch)) == times(kind, batch)[0])
        at_border = [f"{seconds * 1e6:.0f}" for seconds in times(kind, small_batch())]
        rows.append([kind, f"{last:,}", *at_border])
    border = f"{small_batch():,} rows, µs"
    return table(["neuron", "CUDA is faster up to, rows", f"CUDA at {border}", f"Triton at {border}"], rows)


def _find(kernels: Sequence[Compiled], case: Case) -> Compiled:
    return next(kernel for kernel in kernels if kernel.case == case)


def _instructions(kernels: Sequence[Compiled], case: Case) -> int:
    return _find(kernels, case).instructions or 0
