"""The tables of docs/gpu.md about the CUDA kernels: what nvcc makes of them, and what an H100 should take for them.

    python bench/cuda_page.py            # compiles for every target, counts spikes, draws the tables; 30 seconds

Nothing here runs on a GPU. The flags and the targets are those of CMakeLists.txt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from cuda_compiled import KINDS, ROOT, Compiled, compile_all, compiled_table, disassembler, line, missing

import snnkern
from snnkern.calibration import collect
from snnkern.files import write_atomically

PAGE = ROOT / "docs" / "gpu.md"

# An H100 SXM: its data sheet, and assumed latencies in clocks, see the page.
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
IN_FLIGHT = 8
FIRST_IN_FLIGHT = 16


@dataclass(frozen=True)
class Load:
    """What `td3-halfcheetah`'s first hidden layer sends in one decision: means over decisions.

    Attributes:
        spikes: in all T steps.
        most: in the step that sends most.
        senders: neurons that send at all.
    """

    spikes: float
    most: float
    senders: float


def measure(decisions: int = 1000) -> dict[str, Load]:
    """Counts spikes with the reference, on the actor's own rollout."""
    actor = snnkern.load_actor("td3-halfcheetah")
    observations = torch.from_numpy(collect(actor, "HalfCheetah-v5", decisions, 0)).float()
    loads = {}
    for kind in KINDS:
        snn = snnkern.convert(actor, observations, neuron=kind.lower(), timesteps=TIMESTEPS, alpha=0.0)
        layer = snn.hidden[0]
        bias = layer.bias if kind == "DC" else None
        current = observations @ layer.weight + (0 if kind == "DC" else layer.bias)
        decision = snnkern.reference.neuron(current, layer.threshold, torch.zeros_like(current), snn.dynamics, bias)
        sent = decision.spikes != 0
        loads[kind] = Load(
            spikes=sent.sum(dim=(0, 2)).double().mean().item(),
            most=sent.sum(dim=2).amax(dim=0).double().mean().item(),
            senders=sent.any(dim=0).sum(dim=1).double().mean().item(),
        )
    return loads


STEP = {"IF": 45, "SNM": 55, "MT": 130, "DC": 150}  # clocks of a neuron's update, which depend on each other; L = 4
WIDTH, INPUTS, ACTIONS, TIMESTEPS, BATCH = 256, 17, 6, 8, 1024
# Of the neuron kernels, with the numbers that a neuron's decision reads and writes.
ROWS, COLUMNS, NEURONS_PER_WARP = 4096, 1024, 4 * 32
NEURON_FORMS = {
    "a sequence in, spikes out": 2 * TIMESTEPS + 2,
    "a sequence in, mean out": TIMESTEPS + 3,
    "a constant current in, mean out": 4,
}
ONCE = 150  # instructions of a neuron kernel's thread beside its steps
ROW = WIDTH * 4  # bytes of a sender's weights


def one_row(load: Load, step: int) -> dict[str, float]:
    """Clocks of each part of one row's decision, alone on a multiprocessor."""
    rounds = math.ceil(load.most / IN_FLIGHT) * (L2 + (1 + IN_FLIGHT / 2) * ADD)  # in pairs
    return {
        "start of the kernel, observation": 600,
        "first layer: current": math.ceil(INPUTS / FIRST_IN_FLIGHT) * L2 + (INPUTS / 2 + 2) * ADD,
        "first layer: T steps": TIMESTEPS * step,
        "first layer: carry, barrier": L2 + SHARED + BARRIER,
        "second layer: lists from fire masks": WIDTH / 32 * 12 + 2 * SHARED,
        "second layer: adding rows": max(load.spikes * ROW / L1_BYTES, load.senders * ROW / L2_BYTES, rounds) + L2,
        "second layer: barrier, T steps": BARRIER + TIMESTEPS * (step + SHARED),
        "second layer: carry, barrier": L2 + SHARED + BARRIER,
        "output layer, tanh": L2 + WIDTH / 32 * ADD + 5 * SHUFFLE + 100,
        "end of the kernel": 400,
    }


def next_row(load: Load) -> tuple[float, float]:
    """Clocks that one more row takes of a multiprocessor that is busy: as expected, and if L1 never hit."""
    fetched = load.spikes * ROW + (INPUTS + ACTIONS) * ROW
    missed = max(0.0, 1 - L1_LEFT / ((INPUTS + WIDTH + ACTIONS) * ROW))
    return max(fetched / L1_BYTES, fetched * missed / L2_SHARED), fetched / L2_SHARED


def predicted_table(loads: dict[str, Load], kernels: Sequence[Compiled]) -> str:
    lines = [line(["what", "floor, µs", "predicted, µs", "measured, µs"]), line(["---"] * 4)]
    alone = {kind: LAUNCH + sum(one_row(load, STEP[kind]).values()) / CLOCK for kind, load in loads.items()}
    for kind, load in loads.items():
        floor = load.spikes * ROW / L1_BYTES / CLOCK
        lines.append(line([f"actor, {kind}, batch 1", f"{floor * 1e6:.1f}", f"{alone[kind] * 1e6:.1f}", ""]))
    others = math.ceil(BATCH / MULTIPROCESSORS) - 1
    for kind, load in loads.items():
        floor = load.spikes * ROW / L1_BYTES / CLOCK * BATCH / MULTIPROCESSORS
        expected, worst = ((alone[kind] + others * clocks / CLOCK) * 1e6 for clocks in next_row(load))
        cells = [
            f"actor, {kind}, batch {BATCH}",
            f"{floor * 1e6:.0f}",
            f"{expected:.0f} (L1 never hits: {worst:.0f})",
            "",
        ]
        lines.append(line(cells))
    loops = instructions(kernels)
    for kind in KINDS:
        for name, numbers in NEURON_FORMS.items():
            memory = ROWS * COLUMNS * numbers * 4 / MEMORY
            each = TIMESTEPS * loops[kind, name] + ONCE
            issue = ROWS * COLUMNS / NEURONS_PER_WARP * each / (ISSUED * MULTIPROCESSORS * CLOCK)
            limit = "" if memory > issue else ", by instructions"
            cells = [
                f"neurons, {kind}, {name}",
                f"{memory * 1e6:.0f}",
                f"{max(memory, issue) / REACHED * 1e6:.0f}{limit}",
            ]
            lines.append(line([*cells, ""]))
    return "\n".join(lines)


def instructions(kernels: Sequence[Compiled]) -> dict[tuple[str, str], int]:
    """Instructions of a thread in a step, for the kind and form of a float32 neuron kernel, on an H100."""
    loops = {(one.kind, one.flags): one.loop for one in kernels if one.target == "sm_90" and one.width == 4}
    found = {}
    for kind in KINDS:
        # Only DC has a form of its own for constant currents; the others read the same again.
        forms = ((False, True), (False, False), (kind == "DC", False))
        found |= {(kind, name): loops[kind, flags] or 0 for name, flags in zip(NEURON_FORMS, forms, strict=True)}
    return found


def instructions_table(kernels: Sequence[Compiled]) -> str:
    loops = instructions(kernels)
    lines = [line(["instructions of a step", *NEURON_FORMS]), line(["---"] * (1 + len(NEURON_FORMS)))]
    lines += [line([kind, *(loops[kind, name] for name in NEURON_FORMS)]) for kind in KINDS]
    return "\n".join(lines)


def parts_table(load: Load) -> str:
    lines = [line(["part of a row, IF", "clocks"]), line(["---"] * 2)]
    lines += [line([part, f"{clocks:,.0f}"]) for part, clocks in one_row(load, STEP["IF"]).items()]
    return "\n".join(lines)


def loads_table(loads: dict[str, Load]) -> str:
    lines = [line(["first layer, T = 8", *loads]), line(["---"] * (1 + len(loads)))]
    for name, field in (("spikes", "spikes"), ("in the busiest step", "most"), ("neurons that send", "senders")):
        lines.append(line([name, *(f"{getattr(load, field):.0f}" for load in loads.values())]))
    return "\n".join(lines)


def draw(marker: str, content: str) -> None:
    """Puts a table between its markers on the page."""
    text = PAGE.read_text()
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->"
    before, _, rest = text.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise RuntimeError(f"{PAGE} has no place for {marker}")
    write_atomically(PAGE, f"{before}{start}{content}\n{end}{after}".encode())


def main() -> None:
    if why := missing():
        raise SystemExit(why)
    if disassembler() is None:
        raise SystemExit("nvdisasm counts instructions, and comes with CUDA's toolkit or with triton: found neither")
    loads, kernels = measure(), compile_all()
    draw("cuda-compiled", compiled_table(kernels))
    draw("cuda-instructions", instructions_table(kernels))
    draw("cuda-loads", loads_table(loads))
    draw("cuda-parts", parts_table(loads["IF"]))
    draw("cuda-predicted", predicted_table(loads, kernels))


if __name__ == "__main__":
    main()
