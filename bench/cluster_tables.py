"""The tables of docs/gpu.md about the cluster kernel: what an H100 should take for it, part by part.

    python bench/cluster_tables.py       # compiles the kernel, counts spikes, prints the tables; needs nvcc

Instructions are counted in the machine code. Latencies, and the best and the worst case, are those of h100.py and the
few that are named here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from cuda_compiled import compile_one
from cuda_tables import INPUTS, STEP, TIMESTEPS, WIDTH, Load, measure
from h100 import ADD, BARRIER, BEST, CLOCK, ISSUED, SHARED, SHUFFLE, WORST, Measured, Span
from machine_code import KINDS, ROOT, Code, table

SOURCE = ROOT / "csrc" / "cuda" / "cluster_kernel.cu"
EIGHT = 8  # senders whose weights are looked up together


# Clocks until the first number from global memory is there, with what launches a cluster; from the last one to the end.
START, END = Span(400, 700), Span(300, 500)
SENT = Span(180, 300)  # from a block to another: the network of the multiprocessors
TANH = 100


@dataclass(frozen=True)
class Instructions:
    """What a warp issues for a step of the second layer, in the machine code.

    Attributes:
        once: for the list of a step, and for the senders that fill no eight.
        row: for a sender in the loop over eights, which is unrolled.
    """

    once: int
    row: float

    @classmethod
    def of(cls, code: Code) -> Instructions:
        """Finds the innermost loop that looks up most entries of a list, four at once; around it is that over lists.

        Behind the unrolled loop stands the same again for one to three eights, which is counted with the senders.
        """
        innermost = [loop for loop in code.loops() if not code.within(loop) and not code.count("LDG", loop)]
        loop = max(innermost, key=lambda one: code.count("LDS.128", one))
        around = min((one for one in code.loops() if loop in code.within(one)), key=lambda one: one.end - one.start)
        senders = 4 * code.count("LDS.128", loop)
        row = (loop.end - loop.start) / senders
        return cls(round(len(code.own(around)) - (senders - EIGHT) * row), row)


def compile_kinds() -> dict[str, Code]:
    """The machine code of the kernel for each kind, for thresholds that are not tiny.

    Raises:
        RuntimeError: nvcc fails or warns, or there is no nvdisasm.
    """
    found = {one.kind: one.code for one in compile_one(SOURCE, "sm_90") if not any(one.flags)}
    if None in found.values():
        raise RuntimeError("no nvdisasm, which comes with nvcc or with triton")
    return {kind: code for kind, code in found.items() if code is not None}


def parts(kind: str, load: Load, instructions: Instructions) -> dict[str, Span]:
    """Clocks of each part of one row's decision, on eight multiprocessors; those that follow each other."""
    step = STEP[kind]
    issued = TIMESTEPS * instructions.once + load.spikes * instructions.row
    looked_up = load.spikes * 1.25 + TIMESTEPS * WIDTH / 32  # accesses to shared memory, one per clock
    chain = 5 * SHARED + WIDTH / 32 * 2 * ADD + load.most / 2 * ADD  # masks, list, weights; counts; sums in pairs
    sums = Span(
        max(issued / ISSUED / BEST.issue, looked_up, chain),
        issued / ISSUED / WORST.issue + chain / 2,
    )
    groups = math.ceil(INPUTS / EIGHT)  # of the observation
    return {
        "start of the kernel, first loads": START,
        "observation to shared memory, barrier": Span(SHARED + BARRIER, SHARED + BARRIER),
        "first layer: current": Span(SHARED + INPUTS / 2 * 2 * ADD, groups * (SHARED + 8 * ADD)),
        "first layer: T steps, barrier": Span(TIMESTEPS * step + BARRIER, TIMESTEPS * step + 2 * BARRIER),
        "second layer: lists, sums": sums,
        "second layer: barrier, T steps": Span(
            BARRIER + SHARED + TIMESTEPS * step, BARRIER + SHARED + TIMESTEPS * step
        ),
        "means to all blocks": Span(2 * SHARED + SENT.best, 2 * SHARED + BARRIER + SENT.worst),
        "output layer, tanh": Span(
            SHARED + WIDTH / 32 * ADD + 5 * SHUFFLE + TANH, SHARED + WIDTH / 32 * ADD + 5 * SHUFFLE + TANH
        ),
        "end of the kernel": END,
    }


def seconds(kind: str, load: Load, instructions: Instructions) -> Span:
    """A decision for one row, from the end of what stands before it in the stream.

    In the best case that launch overlaps with this one until its results are there: half of a launch is left.
    """
    found = parts(kind, load, instructions).values()
    return Span(
        BEST.launch / 2 + sum(part.best for part in found) / CLOCK,
        WORST.launch + sum(part.worst for part in found) / CLOCK,
    )


def parts_table(load: Load, codes: dict[str, Code]) -> str:
    found = parts("IF", load, Instructions.of(codes["IF"])).items()
    return table(["part of a row in a cluster, IF", "clocks"], [[part, span.clocks] for part, span in found])


def predicted_table(loads: dict[str, Load], codes: dict[str, Code]) -> str:
    rows, measured = [], Measured()
    for kind in KINDS:
        instructions = Instructions.of(codes[kind])
        time = seconds(kind, loads[kind], instructions)
        predicted = f"{time.best * 1e6:.1f} to {time.worst * 1e6:.1f}"
        counted = [instructions.once, f"{instructions.row:.1f}"]
        rows.append([kind, *counted, predicted, measured.actor("cuda clusters", kind, 1)])
    return table(
        ["cluster, batch 1", "instructions of a step's lists", "of a sender", "predicted, µs", "measured, µs"], rows
    )


def main() -> None:
    loads, codes = measure(), compile_kinds()
    print(parts_table(loads["IF"], codes), predicted_table(loads, codes), sep="\n\n")


if __name__ == "__main__":
    main()
