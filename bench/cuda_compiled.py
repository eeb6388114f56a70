"""What nvcc makes of the CUDA kernels for every target: registers, local memory, loads, instructions per step."""

from __future__ import annotations

import importlib.util
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "csrc" / "cuda").glob("*.cu"))
KINDS = ("IF", "SNM", "MT", "DC")
_NAME = re.compile(r"(neuron|actor)_kernelILNS_4KindE(\d)E(?:([fd])Li(\d)E)?((?:Lb\dE)+)")


@dataclass(frozen=True)
class Compiled:
    """What ptxas says about one kernel for one target.

    Attributes:
        symbol: its name and form, as part of its symbol.
        target: such as "sm_90".
        kernel: "neuron" or "actor".
        kind: of neuron.
        dtype: "float32" or "float64".
        width: neurons per thread of a neuron kernel; 1 for the actor.
        registers: per thread.
        stack: bytes of local memory per thread.
        spills: bytes that are spilled and read again.
        threads: of the largest block.
        flags: what tells apart forms of one kernel: of a neuron kernel, whether the current comes once (DC), and
            whether spikes go out.
        wide_loads: whether it reads memory by 16 bytes; None where nothing disassembles it.
        loop: instructions of a thread in one simulation step of a neuron kernel; None likewise, and for the actor.
    """

    symbol: str
    target: str
    kernel: str
    kind: str
    dtype: str
    width: int
    registers: int
    stack: int
    spills: int
    threads: int
    flags: tuple[bool, ...]
    wide_loads: bool | None = None
    loop: int | None = None

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
        return _disassembled(parse(said, target), Path(output))

    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(one, source, target, folder) for target in targets for source in SOURCES]
        return [kernel for job in jobs for kernel in job.result()]


def parse(said: str, target: str) -> list[Compiled]:
    """Reads the output of `nvcc -Xptxas=-v`."""
    kernels = []
    for part in said.split("Compiling entry function ")[1:]:
        name = _NAME.search(part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or stack is None or registers is None:
            raise RuntimeError(f"ptxas said something else than expected: {part}")
        kernels.append(
            Compiled(
                symbol=name[0],
                target=target,
                kernel=name[1],
                kind=KINDS[int(name[2])],
                dtype="float64" if name[3] == "d" else "float32",
                width=int(name[4] or 1),
                registers=int(registers[1]),
                stack=int(stack[1]),
                spills=int(stack[2]) + int(stack[3]),
                threads=256 if name[1] == "neuron" else 512,
                flags=tuple(flag == "1" for flag in re.findall(r"Lb(\d)E", name[5])),
            )
        )
    return kernels


def disassembler() -> str | None:
    """nvdisasm: on the path, or where the triton package has it."""
    found = shutil.which("nvdisasm")
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        inside = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
        found = str(inside) if inside.exists() else None
    return found


def _disassembled(kernels: Sequence[Compiled], cubin: Path) -> list[Compiled]:
    """Adds what the machine code says."""
    tool = disassembler()
    if tool is None:
        return list(kernels)
    code = subprocess.run([tool, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    parts = {}
    for part in re.split(r"\n//-+ \.text\.", code)[1:]:
        name = _NAME.search(part)
        assert name is not None
        parts[name[0]] = part
    return [
        replace(
            kernel,
            wide_loads="LDG.E.128" in parts[kernel.symbol],
            loop=_instructions_per_step(parts[kernel.symbol]) if kernel.kernel == "neuron" else None,
        )
        for kernel in kernels
    ]


def _instructions_per_step(code: str) -> int:
    """Instructions of the loop over simulation steps, without what it does for numbers that are not normal.

    Of the loops that read memory it is the shortest: the other one is for tiny thresholds. What is done for a number
    that is not normal calls a function; the branch around it is taken.
    """
    places: dict[str, int] = {}
    instructions: list[str] = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\S+):", line):
            places[label[1]] = len(instructions)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(found[1])
    branches = [
        (index, places[target[1]])
        for index, instruction in enumerate(instructions)
        if (target := re.search(r"\bBRA\b.*`\((\.L_\S+)\)", instruction))
    ]

    def contains(first: int, last: int, what: str) -> bool:
        return any(what in instruction for instruction in instructions[first:last])

    loops = [(to, index + 1) for index, to in branches if to < index and contains(to, index, "LDG")]
    start, end = min(loops, key=lambda loop: loop[1] - loop[0])
    around = [(index + 1, to) for index, to in branches if start <= index < to <= end and contains(index, to, "CALL")]
    left_out = {index for first, last in around for index in range(first, last)}
    return end - start - len(left_out)


def compiled_table(kernels: list[Compiled]) -> str:
    """Registers of each kernel's hungriest form (constant or sequence in, spikes or mean out), and what follows."""
    targets = list(dict.fromkeys(kernel.target for kernel in kernels))
    columns = ["kernel", "neurons per thread", *targets, "warps per multiprocessor"]
    lines = [line(columns), line(["---"] * len(columns))]
    rows: dict[tuple[str, str, int, int], list[Compiled]] = {}
    for kernel in kernels:
        place = (kernel.kernel, kernel.dtype, -kernel.width, KINDS.index(kernel.kind))
        rows.setdefault(place, []).append(kernel)
    for _, group in sorted(rows.items()):
        first = group[0]
        most = [max(kernel.registers for kernel in group if kernel.target == target) for target in targets]
        name = f"{first.kernel}, {first.kind}, {first.dtype}"
        lines.append(line([name, first.width, *most, min(kernel.warps for kernel in group)]))
    stack, spills = sum(kernel.stack for kernel in kernels), sum(kernel.spills for kernel in kernels)
    lines += [
        "",
        f"Registers per thread, as ptxas of nvcc {version()} counts them. Local memory of all {len(kernels)} compiled "
        f"kernels together: {stack} bytes of stack, {spills} bytes spilled.",
    ]
    return "\n".join(lines)


def line(cells: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"
