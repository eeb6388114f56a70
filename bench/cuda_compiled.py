"""What nvcc makes of the CUDA kernels for every target: registers, local memory, loads, instructions per step."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from machine_code import ROOT, Code, Mix, disassembled, resident_warps, table, tool

from snnkern.kernels.neurons import Kind
from snnkern.kernels.surrogates import SURROGATES

FINITE = ROOT / "csrc" / "cuda" / "finite_kernel.cu"  # which has no neurons
SOURCES = sorted({*(ROOT / "csrc" / "cuda").glob("*.cu")} - {FINITE})
_NAME = re.compile(
    r"(neuron|gradient|actor|cluster|integer)_kernelILNS_4KindE(\d)E(?:([fd])Li(\d)E)?((?:Lb\dE)*)"
    r"(?:LNS_9SurrogateE(\d)E)?"
)
_THREADS = {"neuron": 256, "gradient": 128, "actor": 512, "cluster": 512, "integer": 384}  # of the largest block


@dataclass(frozen=True)
class Compiled:
    """What ptxas says about one kernel for one target.

    Attributes:
        symbol: its name and form, as part of its symbol.
        target: such as "sm_90".
        kernel: "neuron", "gradient", or of whole actors: "actor", "cluster", "integer".
        kind: of neuron.
        dtype: "float32" or "float64".
        width: neurons per thread of a layer's kernel; 1 for actors.
        registers: per thread.
        stack: bytes of local memory per thread.
        spills: bytes that are spilled and read again.
        threads: of the largest block.
        flags: what tells apart forms of one kernel: of a neuron kernel, whether the current comes once (DC), and
            whether spikes go out.
        wide_loads: whether it reads memory by 16 bytes; None where nothing disassembles it.
        fused: fused multiply-adds, of either precision; None likewise.
        loop: instructions of a thread in one simulation step of a neuron kernel; None likewise, and for actors.
        code: of whole actors and gradients; None likewise, and for neuron kernels.
        surrogate: of gradients alone.
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
    fused: int | None = None
    loop: Mix | None = None
    code: Code | None = field(default=None, repr=False)
    surrogate: str | None = None

    @property
    def warps(self) -> int:
        """Warps that the registers of a multiprocessor hold at the same time."""
        return resident_warps(self.registers, self.threads)


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
    _, targets = build_settings()
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(compile_one, source, target) for target in targets for source in SOURCES]
        return [kernel for job in jobs for kernel in job.result()]


@functools.cache
def compile_one(source: Path, target: str) -> list[Compiled]:
    """The kernels of one source for one target, compiled with the build's flags.

    Raises:
        RuntimeError: nvcc fails or warns.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{source.stem}.cubin"
        return _disassembled(parse(said_of(source, target, output), target), output)


def said_of(source: Path, target: str, output: Path) -> str:
    """What ptxas says of a source, compiled into a file with the build's flags.

    Raises:
        RuntimeError: nvcc fails or warns.
    """
    flags, _ = build_settings()
    arch = target.removeprefix("sm_")
    code = f"-gencode=arch=compute_{arch},code={target}"
    command = ["nvcc", "-std=c++17", "-O3", *flags, code, "-cubin", "-Xptxas=-v", str(source), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = done.stderr + done.stdout
    if done.returncode or "warning" in said:
        raise RuntimeError(f"{' '.join(command)}\n{said}")
    return said


def parse(said: str, target: str) -> list[Compiled]:
    """Reads the output of `nvcc -Xptxas=-v`."""
    kernels = []
    for part in said.split("Compiling entry function ")[1:]:
        name = _NAME.search(part)
        stack = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        registers = re.search(r"Used (\d+) registers", part)
        if name is None or stack is None or registers is None:
            raise RuntimeError(f"ptxas said something else than expected: {part}")
        if name[1] == "cluster" and int(target.removeprefix("sm_")) < 90:
            continue  # it is empty there
        kernels.append(
            Compiled(
                symbol=name[0],
                target=target,
                kernel=name[1],
                kind=Kind(int(name[2])).name,
                dtype="float64" if name[3] == "d" else "float32",
                width=int(name[4] or 1),
                registers=int(registers[1]),
                stack=int(stack[1]),
                spills=int(stack[2]) + int(stack[3]),
                threads=_THREADS[name[1]],
                flags=tuple(flag == "1" for flag in re.findall(r"Lb(\d)E", name[5])),
                surrogate=SURROGATES[int(name[6])] if name[6] else None,
            )
        )
    return kernels


def _disassembled(kernels: Sequence[Compiled], cubin: Path) -> list[Compiled]:
    """Adds what the machine code says."""
    if tool("nvdisasm") is None:
        return list(kernels)
    parts = {}
    for symbol, code in disassembled(cubin).items():
        name = _NAME.search(symbol)
        assert name is not None
        parts[name[0]] = code
    return [
        replace(
            kernel,
            wide_loads=parts[kernel.symbol].count("LDG.E.128") > 0,
            fused=parts[kernel.symbol].count("FFMA") + parts[kernel.symbol].count("DFMA"),
            loop=parts[kernel.symbol].step() if kernel.kernel == "neuron" else None,
            code=parts[kernel.symbol] if kernel.kernel != "neuron" else None,
        )
        for kernel in kernels
    ]


def compiled_table(kernels: list[Compiled]) -> str:
    """Registers of each kernel's hungriest form (constant or sequence in, spikes or mean out), and what follows."""
    targets = list(dict.fromkeys(kernel.target for kernel in kernels))
    lines = []
    rows: dict[tuple[str, str, int, int], list[Compiled]] = {}
    for kernel in kernels:
        place = (kernel.kernel, kernel.dtype, -kernel.width, Kind[kernel.kind])
        rows.setdefault(place, []).append(kernel)
    for _, group in sorted(rows.items()):
        first = group[0]
        most = [
            max((kernel.registers for kernel in group if kernel.target == target), default="") for target in targets
        ]
        name = f"{first.kernel}, {first.kind}, {first.dtype}"
        lines.append([name, first.width, *most, min(kernel.warps for kernel in group)])
    stack, spills = sum(kernel.stack for kernel in kernels), sum(kernel.spills for kernel in kernels)
    return (
        table(["kernel", "neurons per thread", *targets, "warps per multiprocessor"], lines)
        + f"\n\nRegisters per thread, as ptxas of nvcc {version()} counts them. Local memory of all {len(kernels)} "
        f"compiled kernels together: {stack} bytes of stack, {spills} bytes spilled."
    )
