"""What CUDA's kernel that sums integers should take on an H100, from its machine code; draws its table on docs/gpu.md.

    python bench/integer_tables.py       # half a minute; needs nvcc, and nvdisasm, which comes with it or with triton

Instructions are counted in a copy of the kernel that is compiled for td3-halfcheetah's widths and T = 8 alone, so that
nothing stands in it that such a decision does not run.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cuda_compiled import build_settings
from gpu_page import draw
from h100 import CLOCK, L2_SHARED, LAUNCH, MEMORY, MULTIPROCESSORS
from machine_code import KINDS, ROOT, Code, Loop, disassembled, table

from snnkern.kernels.neurons import Kind

INPUTS, WIDTH, ACTIONS, TIMESTEPS = 17, 256, 6, 8
BATCHES = (1024, 4096, 16384, 65536)
TILE_ROWS, SLICES, GROUP_WARPS = 8, 3, 4
PRODUCT = 16 * 8 * 32  # of numbers, in an instruction
# int8 products of a clock and multiprocessor: 4,096 at the peak of wgmma (1,979 TOP/s), of which mma.sync reaches half
# (its rate on an A100) to 65 % (Luo et al., arXiv 2402.13499, of other types).
PEAK = 1979e12 / 2 / CLOCK / MULTIPROCESSORS
RATES = (0.65, 0.5)
# What the issue of instructions reaches: with three warps on each of the four schedulers, best and worst case.
ISSUED = (0.9, 0.65)
# Clocks before the first tile (launch of a block, weights from L2) and of a tile that nothing overlaps.
FIXED = {
    "const int timesteps = p.model.actor.timesteps;": f"constexpr int timesteps = {TIMESTEPS};",
    "tile < p.plan.resident[l]": "true",
    "p.model.actor.hidden": "2",
    "p.plan.warps": str(GROUP_WARPS),
    "(reinterpret_cast<uintptr_t>(p.rows.carry[0]) | 4 * outputs) % 16 == 0": "true",
}


def specialised(target: str = "sm_90") -> dict[str, Code]:
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
        arch = target.removeprefix("sm_")
        code = f"-gencode=arch=compute_{arch},code={target}"
        command = ["nvcc", "-std=c++17", "-O3", *flags, code, "-cubin", str(kernel), "-o", f"{folder}/cubin"]
        subprocess.run(command, check=True)
        found = disassembled(Path(folder) / "cubin")
    return {kind: next(code for symbol, code in found.items() if f"KindE{Kind[kind]:d}E" in symbol) for kind in KINDS}


@dataclass(frozen=True)
class Tile:
    """Instructions of a warp for a tile of eight rows, by what they do."""

    first: int
    products: int
    neurons: int
    output: int
    rest: int

    @classmethod
    def of(cls, code: Code) -> Tile:
        loops = code.loops()

        def one(wanted: Callable[[Loop], bool], among: list[Loop]) -> Loop:
            (found,) = [loop for loop in among if wanted(loop)]
            return found

        def innermost(loop: Loop) -> bool:
            return not code.within(loop)

        (products,) = [loop for loop in loops if code.count("IMMA", loop) == TIMESTEPS * SLICES and innermost(loop)]
        around = [loop for loop in loops if products in code.within(loop)]
        tile, task = around[0], around[-1]
        # The first layer's tasks are the loop with one of inputs and one of steps.
        inner = [loop for loop in code.within(tile) if loop not in around]
        first = next(loop for loop in inner if len(code.within(loop)) >= 2 and loop.end <= task.start)
        steps = one(lambda loop: code.count("STS", loop) == 1 and code.count("LDG", loop) == 0, code.within(first))
        by_input = [loop for loop in code.within(first) if loop != steps]
        eight = one(lambda loop: code.count("LDG", loop) == 8, by_input)
        two = one(lambda loop: code.count("LDG", loop) == 2, by_input)
        tasks = WIDTH // 16 // GROUP_WARPS
        padded = INPUTS + INPUTS % 2
        inputs = padded // 8 * code.own(eight) + padded % 8 // 2 * code.own(two)
        act = [loop for loop in inner if loop.start >= task.end and code.count("MUFU", loop)]
        return cls(
            first=tasks * (code.own(first) + inputs + TIMESTEPS * code.own(steps)),
            products=tasks * WIDTH // 32 * code.own(products),
            neurons=tasks * code.own(task),
            output=0,
            rest=code.own(tile),
        )


def main() -> None:
    for kind, code in specialised().items():
        print(kind, len(code.instructions))
        for l in code.loops():
            print('  loop',l, l.end-l.start,'own',code.own(l),*(f"{w} {code.count(w,l)}" for w in ('IMMA','LDS','STS','LDG','STG','BRA','CALL','I2F','F2I','MUFU','SHFL') if code.count(w,l)))
        print(Tile.of(code))


if __name__ == "__main__":
    main()
