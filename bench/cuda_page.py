"""The tables of docs/gpu.md about the CUDA kernels: what nvcc makes of them, and what an H100 should take for them.

    python bench/cuda_page.py            # compiles for every target, counts spikes, draws the tables; 30 seconds

Nothing here runs on a GPU. The flags and the targets are those of CMakeLists.txt.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

import snnkern
from snnkern.calibration import collect
from snnkern.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "gpu.md"
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
KINDS = ("IF", "SNM", "MT", "DC")


@dataclass(frozen=True)
class Compiled:
    """What ptxas says about one kernel for one target.

    Attributes:
        target: such as "sm_90".
        kernel: "neuron" or "actor".
        kind: of neuron.
        dtype: "float32" or "float64".
        width: neurons per thread of a neuron kernel; 1 for the actor.
        registers: per thread.
        stack: bytes of local memory per thread.
        spills: bytes that are spilled and read again.
        threads: of the largest block.
    """

    target: str
    kernel: str
    kind: str
    dtype: str
    width: int
    registers: int
    stack: int
    spills: int
    threads: int

    @property
    def warps(self) -> int:
        """Warps that the registers of a multiprocessor hold at the same time; they are given out in eights."""
        block = math.ceil(self.registers / 8) * 8 * self.threads
        return min(65536 // block * self.threads // 32, 64)


def missing() -> str:
    """Why the targets cannot be compiled for here; empty where they can."""
    if not shutil.which("nvcc"):
        return "no nvcc on the path"
    known = _ask("--list-gpu-code").split()
    _, targets = build_settings()
    unknown = [target for target in targets if target not in known]
    return f"nvcc {version()} does not know {', '.join(unknown)}" if unknown else ""


def version() -> str:
    """nvcc's release, such as "13.0.88"."""
    found = re.search(r"V(\d+\.\d+\.\d+)", _ask("--version"))
    assert found is not None
    return found[1]


def _ask(option: str) -> str:
    return subprocess.run(["nvcc", option], capture_output=True, text=True, check=True).stdout


def build_settings() -> tuple[list[str], list[str]]:
    """nvcc's flags and the targets, from CMakeLists.txt."""
    text = (ROOT / "CMakeLists.txt").read_text()
    flags = re.search(r"COMPILE_LANGUAGE:CUDA>:([^>]*)>", text)
    targets = re.search(r"CMAKE_CUDA_ARCHITECTURES ([\d-]+real .*)\)", text)
    assert flags is not None
    assert targets is not None
    return flags[1].split(), [f"sm_{number}" for number in re.findall(r"\d+", targets[1])]


def compile_all() -> list[Compiled]:
    """Every kernel for every target.

    Raises:
        RuntimeError: nvcc fails or warns.
    """
    flags, targets = build_settings()

    def one(source: Path, target: str, folder: str) -> list[Compiled]:
        arch = target.removeprefix("sm_")
        code = f"-gencode=arch=compute_{arch},code={target}"
        output = f"{folder}/{source.stem}-{target}.cubin"
        command = ["nvcc", "-std=c++17", "-O3", *flags, code, "-cubin", "-Xptxas=-v", str(source), "-o", output]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said = done.stderr + done.stdout
        if done.returncode or "warning" in said:
            raise RuntimeError(f"{' '.join(command)}\n{said}")
        return parse(said, target)

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(one, source, target, folder) for target in targets for source in SOURCES]
        return [kernel for job in jobs for kernel in job.result()]


def parse(said: str, target: str) -> list[Compiled]:
    """Reads the output of `nvcc -Xptxas=-v`."""
    kernels = []
    for part in said.split("Compiling entry function ")[1:]:
        name = re.search(r"(neuron|actor)_kernelILNS_4KindE(\d)E(?:([fd])Li(\d)E)?", part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or stack is None or registers is None:
            raise RuntimeError(f"ptxas said something else than expected: {part}")
        kernels.append(
            Compiled(
                target=target,
                kernel=name[1],
                kind=KINDS[int(name[2])],
                dtype="float64" if name[3] == "d" else "float32",
                width=int(name[4] or 1),
                registers=int(registers[1]),
                stack=int(stack[1]),
                spills=int(stack[2]) + int(stack[3]),
                threads=256 if name[1] == "neuron" else 512,
            )
        )
    return kernels


def compiled_table(kernels: list[Compiled]) -> str:
    """Registers of each kernel's hungriest form (constant or sequence in, spikes or mean out), and what follows."""
    targets = list(dict.fromkeys(kernel.target for kernel in kernels))
    columns = ["kernel", "neurons per thread", *targets, "warps per multiprocessor"]
    lines = [_line(columns), _line(["---"] * len(columns))]
    rows: dict[tuple[str, str, int, int], list[Compiled]] = {}
    for kernel in kernels:
        place = (kernel.kernel, kernel.dtype, -kernel.width, KINDS.index(kernel.kind))
        rows.setdefault(place, []).append(kernel)
    for _, group in sorted(rows.items()):
        first = group[0]
        most = [max(kernel.registers for kernel in group if kernel.target == target) for target in targets]
        name = f"{first.kernel}, {first.kind}, {first.dtype}"
        lines.append(_line([name, first.width, *most, min(kernel.warps for kernel in group)]))
    stack, spills = sum(kernel.stack for kernel in kernels), sum(kernel.spills for kernel in kernels)
    lines += [
        "",
        f"Registers per thread, as ptxas of nvcc {version()} counts them. Local memory of all {len(kernels)} compiled "
        f"kernels together: {stack} bytes of stack, {spills} bytes spilled.",
    ]
    return "\n".join(lines)


def _line(cells: list[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


# An H100 SXM: its data sheet, and assumed latencies in clocks, see the page.
CLOCK = 1.755e9
MULTIPROCESSORS = 132
MEMORY = 3.35e12
L1_LEFT = 192 * 1024  # of 256 KB, beside shared memory
L1_BYTES = 128  # per clock and multiprocessor
L2_BYTES = 64  # per clock, to one multiprocessor alone
L2_SHARED = 5.5e12 / CLOCK / MULTIPROCESSORS  # per clock and multiprocessor, when all of them read
L2, SHARED, BARRIER, SHUFFLE, ADD = 270, 30, 40, 25, 4
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


STEP = {"IF": 45, "SNM": 55, "MT": 145, "DC": 225}  # clocks of a neuron's update, which depend on each other; L = 4
WIDTH, INPUTS, ACTIONS, TIMESTEPS, BATCH = 256, 17, 6, 8, 1024
ROW = WIDTH * 4  # bytes of a sender's weights


def one_row(load: Load, step: int) -> dict[str, float]:
    """Clocks of each part of one row's decision, alone on a multiprocessor."""
    rounds = math.ceil(load.most / IN_FLIGHT) * (L2 + IN_FLIGHT * ADD)
    return {
        "start of the kernel, observation": 600,
        "first layer: current": math.ceil(INPUTS / FIRST_IN_FLIGHT) * L2 + INPUTS * 2 * ADD,
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


def predicted_table(loads: dict[str, Load]) -> str:
    lines = [_line(["what", "floor, µs", "predicted, µs", "measured, µs"]), _line(["---"] * 4)]
    alone = {kind: LAUNCH + sum(one_row(load, STEP[kind]).values()) / CLOCK for kind, load in loads.items()}
    for kind, load in loads.items():
        floor = load.spikes * ROW / L1_BYTES / CLOCK
        lines.append(_line([f"actor, {kind}, batch 1", f"{floor * 1e6:.1f}", f"{alone[kind] * 1e6:.1f}", ""]))
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
        lines.append(_line(cells))
    for name, numbers in (
        ("a sequence in, spikes out", 2 * TIMESTEPS + 2),
        ("a sequence in, mean out", TIMESTEPS + 3),
        ("a constant current in, mean out", 4),
    ):
        floor = 4096 * 1024 * numbers * 4 / MEMORY * 1e6
        lines.append(_line([f"neurons, 4096 × 1024 float32, {name}", f"{floor:.0f}", f"{floor / 0.9:.0f}", ""]))
    return "\n".join(lines)


def parts_table(load: Load) -> str:
    lines = [_line(["part of a row, IF", "clocks"]), _line(["---"] * 2)]
    lines += [_line([part, f"{clocks:,.0f}"]) for part, clocks in one_row(load, STEP["IF"]).items()]
    return "\n".join(lines)


def loads_table(loads: dict[str, Load]) -> str:
    lines = [_line(["first layer, T = 8", *loads]), _line(["---"] * (1 + len(loads)))]
    for name, field in (("spikes", "spikes"), ("in the busiest step", "most"), ("neurons that send", "senders")):
        lines.append(_line([name, *(f"{getattr(load, field):.0f}" for load in loads.values())]))
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
    loads = measure()
    draw("cuda-compiled", compiled_table(compile_all()))
    draw("cuda-loads", loads_table(loads))
    draw("cuda-parts", parts_table(loads["IF"]))
    draw("cuda-predicted", predicted_table(loads))


if __name__ == "__main__":
    main()
