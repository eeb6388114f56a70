"""What compiled kernels say of themselves: registers, local memory and instructions, by the tools that read a cubin.

nvdisasm and cuobjdump come with CUDA's toolkit, and inside the triton package.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("IF", "SNM", "MT", "DC")  # that are predicted and measured
COMPILED_KINDS = (*KINDS, "LIF")  # in the order of `Kind`
TARGETS = ("sm_80", "sm_90", "sm_100")


class Usage(NamedTuple):
    """What a kernel takes: registers and bytes of local memory per thread."""

    registers: int
    local: int


class Loop(NamedTuple):
    """The places of a loop's first instruction and of the one behind its last."""

    start: int
    end: int


def tool(name: str) -> str | None:
    """A tool's path: where the system has it, or where the triton package does."""
    found = shutil.which(name)
    spec = importlib.util.find_spec("triton")
    if found is None and spec is not None and spec.origin is not None:
        inside = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
        found = str(inside) if inside.exists() else None
    return found


def resources(cubin: Path) -> dict[str, Usage]:
    """What each kernel of a cubin takes, by its symbol.

    Raises:
        RuntimeError: there is no cuobjdump, or it says something else than expected.
    """
    said = _ask("cuobjdump", "--dump-resource-usage", cubin)
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said)
    if not found:
        raise RuntimeError(f"cuobjdump said something else than expected: {said}")
    return {symbol: Usage(int(registers), int(stack) + int(local)) for symbol, registers, stack, local in found}


def disassembled(cubin: Path) -> dict[str, Code]:
    """The instructions of each kernel of a cubin, by its symbol.

    Raises:
        RuntimeError: there is no nvdisasm.
    """
    parts = re.split(r"\n//-+ \.text\.", _ask("nvdisasm", "-c", cubin))[1:]
    return {part.split(maxsplit=1)[0]: Code.parse(part) for part in parts}


def _ask(name: str, option: str, cubin: Path) -> str:
    path = tool(name)
    if path is None:
        raise RuntimeError(f"{name} comes with CUDA's toolkit or with triton: found neither")
    return subprocess.run([path, option, str(cubin)], capture_output=True, text=True, check=True).stdout


# What executes an instruction, by its name: Nsight Compute's documentation of the pipelines.
_INTEGERS = re.compile(
    r"IADD3|VIADD|VIADDMNMX|[VIF]+MNMX3?|IABS|P?LOP3|[IF]SETP|FSET|F?SEL|SHF|LEA|PRMT|MOV|P2R|R2P|VOTE|I2FP|F2FP|BMSK|"
    r"SGXT|CS2R"
)
_MULTIPLIES = re.compile("IMAD|H(FMA|ADD|MUL)2")
_SPECIAL = re.compile("MUFU|POPC|FLO|BREV|I2F|F2I|F2F|FRND")
_MEMORY = re.compile("(LD|ST)[GSL]?M?|LDGSTS|ATOM[GS]?|RED|SHFL")


@dataclass(frozen=True)
class Mix:
    """Instructions of a warp: all that are issued, and those that a pipeline executes more slowly than it is issued.

    Attributes:
        issued: all of them.
        integers: additions, logic, shifts, comparisons, choices, also of float32 numbers.
        multiplies: of integers, and of pairs of float16 numbers.
        special: reciprocals, exponentials, counts of bits, conversions.
        memory: reads, writes, shuffles.
    """

    issued: float = 0
    integers: float = 0
    multiplies: float = 0
    special: float = 0
    memory: float = 0

    @classmethod
    def of(cls, instruction: str) -> Mix:
        name = re.sub(r"^@!?U?P\w+\s+", "", instruction).split(maxsplit=1)[0].split(".")[0]
        pipelines = (_INTEGERS, _MULTIPLIES, _SPECIAL, _MEMORY)
        return cls(1, *(pipeline.fullmatch(name) is not None for pipeline in pipelines))

    def __add__(self, other: Mix) -> Mix:
        return Mix(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Mix:
        return Mix(*(times * mine for mine in astuple(self)))


@dataclass(frozen=True)
class Code:
    """A kernel's instructions, and where its branches lead: `[place, target]`."""

    instructions: list[str]
    branches: list[tuple[int, int]]

    @classmethod
    def parse(cls, text: str) -> Code:
        """Reads what nvdisasm writes."""
        places: dict[str, int] = {}
        instructions: list[str] = []
        for line in text.splitlines():
            if label := re.match(r"\s*(\.L_\S+):", line):
                places[label[1]] = len(instructions)
            elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
                instructions.append(found[1].rstrip())
        branches = [
            (index, places[target[1]])
            for index, instruction in enumerate(instructions)
            if (target := re.search(r"\bBRA\b.*`\((\.L_\S+)\)", instruction))
        ]
        return cls(instructions, branches)

    def count(self, what: str, loop: Loop | None = None) -> int:
        """Instructions that contain a word, in a loop or in all."""
        start, end = loop or (0, len(self.instructions))
        return sum(what in instruction for instruction in self.instructions[start:end])

    def loops(self) -> list[Loop]:
        """All loops, in the order of their places, nested ones behind the loop that they are in."""
        found = {Loop(target, place + 1) for place, target in self.branches if target < place}
        return sorted(found, key=lambda loop: (loop.start, -loop.end))

    def mix(self, places: Iterable[int]) -> Mix:
        """The instructions of some places."""
        return sum((Mix.of(self.instructions[place]) for place in places), Mix())

    def way(self, loop: Loop) -> list[int]:
        """The places of a way around a loop on which no number is rare; none where there is none.

        It takes no call, which divides where the quotient is not normal, nor what the branch around a call leaves out,
        and enters no loop, which is over levels that underflow. Of such ways it is the longest.
        """
        left_out = {place for other in self.within(loop) for place in range(*other)} | self._rare(loop)
        targets = dict(self.branches)
        longest = {loop.start: (1, loop.start)}  # to every place: how long, and from where
        for place in range(*loop):
            if place not in longest or place in left_out:
                continue
            following = {place + 1, targets.get(place, place + 1)}
            if self.instructions[place].startswith("BRA `"):  # always
                following.remove(place + 1)
            for after in following:
                if place < after < loop.end:
                    longest[after] = max(longest.get(after, (0, 0)), (longest[place][0] + 1, place))
        last = loop.end - 1
        places = [last] if last in longest else []
        while places and places[-1] != loop.start:
            places.append(longest[places[-1]][1])
        return places[::-1]

    def round(self, loop: Loop) -> int:
        """Instructions of that way."""
        return len(self.way(loop))

    def within(self, loop: Loop) -> list[Loop]:
        """The loops in a loop, nested ones too."""
        return [one for one in self.loops() if loop.start <= one.start < one.end <= loop.end and one != loop]

    def own(self, loop: Loop) -> set[int]:
        """The places of a loop that are in none of those within it, without what is done for rare numbers."""
        within = {place for other in self.within(loop) for place in range(*other)}
        return set(range(*loop)) - within - self._rare(loop)

    def until_exit(self) -> Code:
        """Without what stands behind the end of a kernel's main part: functions, and what warps do that diverge."""
        end = self.instructions.index("EXIT") + 1
        return Code(self.instructions[:end], [branch for branch in self.branches if max(branch) < end])

    def _rare(self, loop: Loop) -> set[int]:
        """The places that the branch around a call leaves out."""
        return {
            place
            for branch, target in self.branches
            if loop.start <= branch < target <= loop.end and self.count("CALL", Loop(branch, target))
            for place in range(branch + 1, target)
        }

    def step(self) -> Mix:
        """Instructions of a thread in a simulation step of a neuron kernel, without rare cases.

        Its loop over steps is an outermost one, without a loop over levels. What rare cases take in its place stands
        behind it.
        """
        loops = self.loops()
        outermost = [loop for loop in loops if not any(loop in self.within(other) for other in loops)]
        plain = [loop for loop in outermost if not self.within(loop)]
        ways = [self.way(loop) for loop in plain or outermost]
        return self.mix(ways[0] if plain else max(ways, key=len))


def resident_warps(registers: int, threads: int) -> int:
    """Warps that the registers of a multiprocessor hold at the same time; they are given out in eights."""
    block = -(-registers // 8) * 8 * threads
    return min(65536 // block * threads // 32, 64)


def line(cells: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(heading: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    return "\n".join([line(heading), line(["---"] * len(heading)), *map(line, rows)])
