"""CUDA's kernel that sums integers: what it should take on an H100, from its machine code, and what it rounds; draws
its tables on docs/gpu.md.

    python bench/integer_tables.py       # a minute; needs nvcc, and nvdisasm, which comes with it or with triton

Instructions are counted in a copy of the kernel that is compiled for td3-halfcheetah's widths and T = 8 alone, so that
nothing stands in it that such a decision does not run.
"""

from __future__ import annotations

import itertools
import math
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from cuda_compiled import build_settings
from h100 import BEST, CLOCK, L1_BYTES, L2_SHARED, MEMORY, MULTIPROCESSORS, PAGE, WORST, Measured
from machine_code import KINDS, ROOT, Code, Loop, disassembled, table
from pages import fill
from torch import Tensor

import snnkern
from snnkern.kernels import reference
from snnkern.kernels.backends import integers
from snnkern.kernels.neurons import Kind
from snnkern.policies.spiking import reference_parts

INPUTS, WIDTH, ACTIONS, TIMESTEPS = 17, 256, 6, 8
BATCHES = (1024, 4096, 16384, 65536)
OBSERVATIONS = ROOT / "bench" / "results" / "halfcheetah.npy"
OBSERVED = 250  # of them
ERRORS_OF = ("td3-halfcheetah", "sac-halfcheetah")
TILE_ROWS, SLICES, GROUP_WARPS, GROUPS, PARTS = 8, 3, 4, 3, 8
TASKS = WIDTH // 16 // GROUP_WARPS  # of a warp in a layer
RESIDENT = 12 / 16  # of the weights, beside three groups and the first layer's
# int8 products of a clock and multiprocessor at the peak, of which mma.sync reaches half (its rate on an A100) to 65 %
# (what Luo et al., arXiv 2402.13499, find of other types).
PEAK = 1979e12 / 2 / CLOCK / MULTIPROCESSORS
MULTIPLIES = (0.65, 0.5)
# Of the instructions that could be issued: with three warps on each scheduler, and with one or two.
TOGETHER, ALONE = (BEST.issue, WORST.issue), (0.6, 0.45)
# What stands in the source, and what it is for these widths and T.
FIXED = {
    "const int timesteps = p.model.actor.timesteps;": f"constexpr int timesteps = {TIMESTEPS};",
    "tile < p.plan.resident[l]": "true",
    "loaded && p.plan.resident[0]": "true",
    "p.model.actor.hidden": "2",
    "p.plan.warps": str(GROUP_WARPS),
    "aligned_ && n + kNeighbours <= outputs_": "true",
}


def specialised() -> dict[str, Code]:
    """The machine code of each kind's kernel for these widths and T alone.

    Raises:
        RuntimeError: a line of the source that is to be replaced is not there.
    """
    flags, _ = build_settings()
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder) / "csrc"
        shutil.copytree(ROOT / "csrc", sources)
        kernel = sources / "cuda" / "integer_kernel.cu"
        text = kernel.read_text()
        for line, replacement in FIXED.items():
            if line not in text:
                raise RuntimeError(f"{kernel.name} has no {line!r}")
            text = text.replace(line, replacement)
        kernel.write_text(text)
        code = "-gencode=arch=compute_90,code=sm_90"
        command = ["nvcc", "-std=c++17", "-O3", *flags, code, "-cubin", str(kernel), "-o", f"{folder}/cubin"]
        subprocess.run(command, check=True)
        found = disassembled(Path(folder) / "cubin")
    return {kind: next(code for symbol, code in found.items() if f"KindE{Kind[kind]:d}E" in symbol) for kind in KINDS}


class Tile(NamedTuple):
    """Instructions of a warp for a tile of eight rows, by what they are for; one of the four has its scheduler."""

    first: int
    products: int
    neurons: int
    output: int
    rest: int

    @classmethod
    def of(cls, code: Code) -> Tile:
        """Counts them loop by loop: a loop's own, times how often it is run."""

        def own(loop: Loop) -> int:
            return len(code.own(loop))

        around = [loop for loop in code.loops() if code.count("IMMA", loop)]
        tile, task, products = around[0], around[-2], around[-1]
        inner = [loop for loop in code.within(tile) if loop not in around]
        observe, of_row, *ahead, first, eight, two = [loop for loop in inner if loop.end <= task.start]
        of_actions, act, of_part, counts = [loop for loop in inner if loop.start >= products.end]
        assert [code.count("LDS", loop) for loop in (eight, two, of_part)] == [8 + 2, 2 + 1, 1]
        assert [code.count("CCTL", loop) for loop in ahead] == [1, 1, 1]
        assert code.count("LDG.E.128", of_actions) == 4
        # The first senders' products stand before the loop over the others.
        names = [code.instructions[place].split(".")[0] for place in code.own(task)]
        by_senders = (WIDTH // 32 - 1) * own(products) + names.count("IMMA") + names.count("LDS")
        padded = INPUTS + INPUTS % 2
        by_inputs = padded // 8 * own(eight) + padded % 8 // 2 * own(two)
        rows, actions = TILE_ROWS // GROUP_WARPS, math.ceil(TILE_ROWS * ACTIONS / (32 * GROUP_WARPS))
        return cls(
            first=TASKS * (own(first) + by_inputs),
            products=TASKS * by_senders,
            neurons=TASKS * (own(task) - names.count("IMMA") - names.count("LDS")),
            output=TASKS * math.ceil(ACTIONS / 4) * own(of_actions) + actions * (own(act) + PARTS * own(of_part)),
            rest=own(tile) + rows * (own(observe) + own(of_row)) + sum(map(own, ahead)) + own(counts),
        )

    @property
    def moved(self) -> int:
        """Bytes between memory and a multiprocessor."""
        return TILE_ROWS * (4 * (INPUTS + ACTIONS) + 2 * (2 * 4 * WIDTH + 8))

    @property
    def from_l2(self) -> float:
        """Clocks of its share of L2: the weights that are not resident, and what comes from memory."""
        return (WIDTH * WIDTH * SLICES * (1 - RESIDENT) + self.moved) / L2_SHARED

    @property
    def from_shared(self) -> float:
        """Clocks of shared memory: a product's step reads three slices of 16 receivers and eight steps' spikes."""
        return (WIDTH // 16) * (WIDTH // 32) * (SLICES * 16 * 32 + TIMESTEPS * TILE_ROWS * 32) / L1_BYTES

    def busy(self, tiles: int) -> tuple[float, float]:
        """Clocks of a multiprocessor for so many tiles at the same time, at best and at worst.

        At best, all overlaps but what a tile alone does one after the other; at worst, the products of one do not.
        """
        together, alone = ((sum(self) / rate for rate in rates) for rates in (TOGETHER, ALONE))
        products = [TILE_ROWS * TIMESTEPS * WIDTH * WIDTH * SLICES / (PEAK * rate) for rate in MULTIPLIES]
        most, least = zip(*zip(together, products, strict=True), strict=True)
        single = [issue + product for issue, product in zip(alone, products, strict=True)]
        best = max(tiles * most[0], tiles * least[0], tiles * self.from_l2, single[0])
        return best, max(tiles * most[1] + least[1], single[1])

    def seconds(self, batch: int) -> tuple[float, float]:
        """Of a decision; the weights come from L2 while the first layer runs, or before."""
        tiles = math.ceil(batch / TILE_ROWS / MULTIPROCESSORS)
        groups = min(tiles, GROUPS)
        whole, left = divmod(tiles, groups)
        weights = WIDTH * WIDTH * SLICES / L2_SHARED
        start = weights - self.first, weights
        launch, rest = (BEST.launch, WORST.launch), self.busy(left) if left else (0, 0)
        rounds = zip(launch, start, self.busy(groups), rest, strict=True)
        best, worst = (first + (begin + whole * full + last) / CLOCK for first, begin, full, last in rounds)
        return best, worst


def tiles_table(tiles: dict[str, Tile]) -> str:
    """Instructions of a warp, and clocks of each part of a multiprocessor."""
    rows = []
    for kind, tile in tiles.items():
        products = (TILE_ROWS * TIMESTEPS * WIDTH * WIDTH * SLICES / (PEAK * rate) for rate in MULTIPLIES)
        memory = tile.moved / (MEMORY / CLOCK / MULTIPROCESSORS)
        clocks = [f"{number:,.0f}" for number in (tile.from_shared, tile.from_l2, memory)]
        rows.append([kind, *(f"{n:,}" for n in (*tile, sum(tile))), _range(*products), *clocks])
    heading = ["a tile of 8 rows", "first layer", "products", "neurons", "output layer", "the rest", "instructions"]
    return table([*heading, "clocks of tensor cores", "of shared memory", "of L2", "of memory"], rows)


def predicted_table(tiles: dict[str, Tile]) -> str:
    rows, measured = [], Measured()
    for kind, tile in tiles.items():
        rows.append([kind, *(_range(*(seconds * 1e6 for seconds in tile.seconds(batch))) for batch in BATCHES)])
        found = [measured.actor("cuda integers", kind, batch) for batch in BATCHES]
        rows += [[f"{kind}, measured", *found]] if any(found) else []
    return table(["µs", *(f"{batch:,} rows" for batch in BATCHES)], rows)


def _range(least: float, most: float) -> str:
    """With two digits each."""
    shown = (f"{round(number, 1 - math.floor(math.log10(number))):,.0f}" for number in (least, most))
    return " to ".join(shown)


class Errors(NamedTuple):
    """What rounding costs in the second layer of an actor, on what it sees.

    Attributes:
        bound: the most that rounding weights can change a current by, as a share of the sizes of all these.
        current: what rounding weights and sums changes at most, likewise.
        float32: what the CPU's engine changes at most, which sums float32 numbers in the order of senders.
        trains: spike trains that are not the float64 reference's.
        in_float32: the same of the CPU's engine.
    """

    bound: float
    current: float
    float32: float
    trains: int
    in_float32: int


@torch.no_grad()
def errors(name: str, kind: str) -> Errors:
    """Of one decision for what HalfCheetah shows to `td3-halfcheetah`."""
    actor = snnkern.load_actor(name)
    observations = torch.from_numpy(np.load(OBSERVATIONS).astype(np.float32))
    snn = snnkern.convert(actor, observations, neuron=kind.lower(), timesteps=TIMESTEPS, alpha=0.0, calibration="max")
    observations = observations[:: len(observations) // OBSERVED]
    snn._notice_changes()
    assert snn._packed is not None
    parts = snn._packed.parts
    first, second = parts.hidden
    weight, exact = integers.folded(parts, 1), reference_parts(snn, torch.float64)["hidden"]
    added = integers.added(parts, 1)
    carries = [torch.zeros(len(observations), len(layer.bias)).double() for layer in parts.hidden]
    differential = parts.dynamics.neuron.differential
    biases = [layer.bias.double() if differential else None for layer in exact]
    current = observations.double() @ first.weight.double() + (0 if differential else exact[0].bias)
    sent = reference.neuron(current, exact[0].threshold, carries[0], parts.dynamics, biases[0]).spikes
    units = torch.where(exact[0].threshold > 0, sent / exact[0].threshold, 0.0)
    start = torch.zeros_like(second.bias) if differential else second.bias
    wanted = units @ weight + start.double()
    ours = integers._current(parts, 1, sent.float())
    engines = start.expand_as(ours)
    for k in range(0, len(weight), 2):  # pairs of senders, in their order
        pair = units[..., k : k + 2].float()[..., None] * weight[k : k + 2].float()
        engines = engines + pair.sum(dim=-2)
    size = weight.abs().sum(dim=0) + added.abs()

    def trains(currents: Tensor) -> Tensor:
        return reference.neuron(currents, exact[1].threshold, carries[1], parts.dynamics, biases[1]).spikes

    def differ(currents: Tensor) -> int:
        return int((trains(currents.double()) != trains(wanted)).any(dim=0).sum())

    return Errors(
        integers.rounding(weight, added, integers.split(weight, added, parts.dynamics.neuron.levels)),
        ((ours.double() - wanted).abs() / size).max().item(),
        ((engines.double() - wanted).abs() / size).max().item(),
        differ(ours),
        differ(engines),
    )


def errors_table() -> str:
    rows = []
    for name, kind in itertools.product(ERRORS_OF, KINDS):
        found = errors(name, kind)
        shares = [f"2^{math.log2(share):.1f}" for share in (found.bound, found.current, found.float32)]
        rows.append([f"{name}, {kind}", *shares, found.trains, found.in_float32])
    heading = ["second layer", "bound of rounding weights", "a current's error", "in float32"]
    return table([*heading, f"of {OBSERVED * WIDTH:,} spike trains differ", "in float32"], rows)


def main() -> None:
    fill(PAGE, "integer-errors", errors_table())
    tiles = {kind: Tile.of(code) for kind, code in specialised().items()}
    fill(PAGE, "integer-tiles", tiles_table(tiles))
    fill(PAGE, "integer-predicted", predicted_table(tiles))


if __name__ == "__main__":
    main()
