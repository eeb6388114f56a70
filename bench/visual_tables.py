"""The tables of docs/gpu.md about visual actors: what is made of their Triton kernels, and what an H100 should take."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from h100 import BEST, CLOCK, L2_SHARED, MEMORY, MULTIPROCESSORS, PRODUCTS, WORST, Assumed, Measured, Span
from machine_code import KINDS, TARGETS, Mix, table
from triton_compiled import FIRST_INPUTS, INPUTS, TIMESTEPS, VISUAL, Case, Compiled
from triton_tables import OF_16_ROWS, SPLIT

from snnkern.kernels.backends.triton import launch
from snnkern.kernels.backends.triton.engine import Tile, planes
from snnkern.kernels.backends.triton.visual import LARGE, SMALL, TILES, shared_steps
from snnkern.kernels.neurons import Dynamics, parse_neuron

BATCHES = (1, 32, 1024)
COLUMNS, PARTS, OPERAND = 32, 3, 2  # channels of a program; parts of a weight, and the bytes of each
# DrQ-v2: positions of its convolutions, and the Linear layers behind them.
POSITIONS = (41 * 41, 39 * 39, 37 * 37, 35 * 35)
PRODUCTS_OF = (9 * 9, 9 * 32, 9 * 32, 9 * 32)  # per position and channel
TRUNK, HIDDEN = 35 * 35 * 32, 1024
PIECE, NEURONS = 256, 64
# Behind the convolutions: the projection's sum; three layers of neurons; three products; tanh, scale, bias; before
# them, counts are set to 0.
SMALL_LAUNCHES = 1 + 3 + 3 + 3 + 1
FLOAT32 = 66.9e12 / 2 / CLOCK / MULTIPROCESSORS  # products of float32 numbers outside of tensor cores, per clock


def compiled_table(kernels: Sequence[Compiled]) -> str:
    """Registers, shared memory and products of every kernel."""
    rows = []
    for name, tile, kind in itertools.product(VISUAL, TILES, KINDS):
        group = [_find(kernels, name, kind, target, tile) for target in TARGETS]
        products = [next(name for name, count in one.products.items() if count).split(".")[0] for one in group]
        rows.append(
            [
                f"{name}, {kind}, {tile.rows} {'rows' if name == 'projection' else 'positions'}",
                *(one.registers for one in group),
                max(one.shared for one in group) >> 10,
                min(one.warps for one in group),
                ", ".join(products),
            ]
        )
    heading = ["kernel", *TARGETS, "shared memory, KB", "warps per multiprocessor", "multiplied by"]
    local = sum(one.local for one in kernels)
    return (
        table(heading, rows)
        + f"\n\nRegisters per thread. Local memory of all {len(kernels)} compiled kernels together: "
        f"{local} bytes. Triton {launch.release()}."
    )


@dataclass(frozen=True)
class Launch:
    """What a launch takes: its programs, and what each of them waits for, as `Load` of triton_tables.py."""

    programs: int
    resident: int
    products: float
    issued: Mix
    l2: float
    memory: float

    def seconds(self, assumed: Assumed) -> float:
        of_one = math.ceil(self.programs / MULTIPROCESSORS)
        issue = assumed.clocks(self.issued)
        products, l2, memory = (clocks / assumed.bandwidth for clocks in (self.products, self.l2, self.memory))
        together = max(products, issue, l2, memory)
        alone = max(products + issue, l2, memory)
        clocks = max(of_one * together, math.ceil(of_one / self.resident) * alone)
        return assumed.launch + (clocks if assumed.overlaps else of_one * alone) / CLOCK


def convolution(kernels: Sequence[Compiled], kind: str, index: int, batch: int) -> Launch:
    """One of DrQ-v2's convolutions, with the tile that the default rule takes."""
    tiles = {tile: batch * math.ceil(POSITIONS[index] / tile.rows) for tile in TILES}
    tile = SMALL if tiles[LARGE] <= MULTIPROCESSORS else LARGE
    first, dynamics = index == 0, Dynamics(parse_neuron(kind.lower()), TIMESTEPS)
    kernel = _find(kernels, "first" if first else "convolution", kind, "sm_90", tile)
    turns = math.ceil(TIMESTEPS / shared_steps(dynamics, tile, (9, 0), projects=False))
    inputs, passes = (FIRST_INPUTS, SPLIT) if first else (INPUTS, PARTS * TIMESTEPS)
    read = 9 * 9 * 4 if first else 3 * 32 * planes(dynamics)  # of a position: pixels, or three lines' spikes
    weights = inputs * COLUMNS * PARTS * OPERAND * (1 if first else turns)
    return Launch(
        programs=tiles[tile],
        resident=kernel.warps // tile.warps,
        products=tile.rows * inputs * COLUMNS * passes / _rate(tile),
        issued=(kernel.instructions or Mix()) * tile.warps,
        l2=(weights + tile.rows * (read + COLUMNS * planes(dynamics))) / L2_SHARED,
        memory=tile.rows * COLUMNS * 8 / (MEMORY / CLOCK / MULTIPROCESSORS),
    )


def projection(kernels: Sequence[Compiled], kind: str, batch: int) -> Launch:
    """The trunk's currents: as many pieces to a program as leave every multiprocessor busy."""
    blocks, pieces = NEURONS // COLUMNS, math.ceil(TRUNK / PIECE)
    programs = {tile: math.ceil(batch / tile.rows) * blocks * pieces for tile in TILES}
    tile = SMALL if batch <= SMALL.rows else LARGE
    dynamics = Dynamics(parse_neuron(kind.lower()), TIMESTEPS)
    kernel = _find(kernels, "projection", kind, "sm_90", tile)
    turns = math.ceil(TIMESTEPS / shared_steps(dynamics, tile, (9, 0), projects=True))
    weights = PIECE * COLUMNS * PARTS * OPERAND * turns
    return Launch(
        programs=programs[tile],
        resident=kernel.warps // tile.warps,
        products=tile.rows * PIECE * COLUMNS * PARTS * TIMESTEPS / _rate(tile),
        issued=(kernel.instructions or Mix()) * tile.warps,
        l2=(weights + tile.rows * PIECE * planes(dynamics)) / L2_SHARED,
        memory=tile.rows * COLUMNS * TIMESTEPS * 8 / (MEMORY / CLOCK / MULTIPROCESSORS),
    )


def behind(batch: int, assumed: Assumed) -> float:
    """Seconds of the small launches: their products in float32, outside of tensor cores."""
    products = batch * TIMESTEPS * (50 * HIDDEN + HIDDEN * HIDDEN) + batch * HIDDEN
    return SMALL_LAUNCHES * assumed.launch + products / FLOAT32 / MULTIPROCESSORS / CLOCK / assumed.bandwidth


def by_layers(batch: int) -> float:
    """Seconds of the same decision layer by layer at best, at the peak of float32's products or of memory's bytes:
    currents are written and read, and so are spikes."""
    reached = BEST.bandwidth
    seconds = behind(batch, BEST) + 2 * len(POSITIONS) * BEST.launch
    for positions, products in zip(POSITIONS, PRODUCTS_OF, strict=True):
        steps = 1 if products == PRODUCTS_OF[0] else TIMESTEPS
        neurons = batch * positions * 32
        multiplied = neurons * products * steps / FLOAT32 / MULTIPROCESSORS / CLOCK
        seconds += max(multiplied, neurons * 4 * 2 * steps / MEMORY) / reached  # cuDNN's
        seconds += neurons * 4 * (steps + TIMESTEPS + 2) / MEMORY / reached  # the neurons'
    return seconds + batch * TIMESTEPS * TRUNK * max(4 / MEMORY, 50 / FLOAT32 / MULTIPROCESSORS / CLOCK) / reached


def predicted_table(kernels: Sequence[Compiled]) -> str:
    """Each part of a decision, all of it, and the same layer by layer."""
    measured = Measured()
    rows = []
    for kind, batch in itertools.product(KINDS, BATCHES):
        first, *others, trunk, rest = zip(*(_parts(kernels, kind, batch, one) for one in (BEST, WORST)), strict=True)
        spans = [Span(*map(sum, zip(*part, strict=True))) for part in ([first], others, [trunk], [rest])]
        whole = Span(*map(sum, zip(*spans, strict=True)))
        found = [measured.visual(path, kind, batch) for path in ("triton", "layers")]
        rows.append([f"{kind}, batch {batch:,}", *spans, whole, f"{by_layers(batch) * 1e6:,.0f}", *found])
    heading = ["µs", "first convolution", "the other three", "trunk's currents", "the rest", "all", "layer by layer"]
    return table([*heading, "measured", "measured, layer by layer"], rows)


def _parts(kernels: Sequence[Compiled], kind: str, batch: int, assumed: Assumed) -> list[float]:
    """Seconds of the convolutions, of the trunk's currents, and of the rest."""
    launches = [convolution(kernels, kind, index, batch) for index in range(len(POSITIONS))]
    launches.append(projection(kernels, kind, batch))
    return [*(launch.seconds(assumed) for launch in launches), behind(batch, assumed)]


def _rate(tile: Tile) -> float:
    return PRODUCTS * (OF_16_ROWS if tile.rows == 16 else 1.0)


def _find(kernels: Sequence[Compiled], kernel: str, kind: str, target: str, tile: Tile) -> Compiled:
    case = Case(kernel, kind, target, "float32", str(tile.rows))
    return next(one for one in kernels if one.case == case)
