"""What Triton makes of its kernels for every target, without a GPU: registers, shared memory, tensor-core instructions.

Kernels are compiled as a launch would: the backend is called on tensors of the CPU, and each launch is caught and
compiled for a target instead. So what is compiled has the constants, types and alignments that users get.
"""

from __future__ import annotations

import importlib.util
import itertools
import linecache
import math
import multiprocessing
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

import machine_code
import torch
from machine_code import COMPILED_KINDS, KINDS, TARGETS, Code, Loop, Mix, resident_warps

from snnkern import Dynamics, Interface
from snnkern.kernels.backends import ActorParts, HiddenPart, Problem
from snnkern.kernels.backends.triton import environment, launch
from snnkern.kernels.layers import Convolution
from snnkern.kernels.neurons import parse_neuron
from snnkern.kernels.surrogates import Surrogate

if TYPE_CHECKING:
    from snnkern.kernels.backends.triton.engine import Tile

WIDTHS = (17, 256, 256, 6)  # td3-halfcheetah's
TIMESTEPS = 8
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMS = {  # of a neuron kernel: whether the current is constant, and whether spikes go out
    "a sequence in, spikes out": (False, True),
    "a sequence in, mean out": (False, False),
    "a constant current in, mean out": (True, False),
}
GRADIENT_FORMS = {  # T, whether the current is constant, and whether the gradient is that of spikes
    "8 steps, a sequence in, of spikes": (8, False, True),
    "8 steps, a sequence in, of the mean": (8, False, False),
    "8 steps, a constant current in, of spikes": (8, True, True),
    "16 steps, a sequence in, of spikes": (16, False, True),
}
# A multiprocessor's shared memory, and what one program may have of it, in bytes (CUDA's programming guide).
SHARED = {"sm_80": (164 << 10, 163 << 10), "sm_90": (228 << 10, 227 << 10), "sm_100": (228 << 10, 227 << 10)}
# The kernels of a visual actor, here DrQ-v2's: its first convolution, the next one, and the Linear layer's currents.
VISUAL = ("first", "convolution", "projection")
FIRST_INPUTS, INPUTS = 96, 320  # of the two convolutions, padded
PRODUCTS = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")


class Case(NamedTuple):
    """A kernel to compile.

    Attributes:
        kernel: "neuron", "gradient", "actor" or one of `VISUAL`.
        kind: of neuron, as in `COMPILED_KINDS`.
        target: such as "sm_90".
        precision: a dtype of `DTYPES`, or one of `triton_engine.PRECISIONS`.
        form: one of `FORMS` or of `GRADIENT_FORMS`, or the rows (or positions) of a tile.
        levels: of MT and DC; 0 for the default.
        widths: of an actor.
        surrogate: of a gradient.
    """

    kernel: str
    kind: str
    target: str
    precision: str
    form: str
    levels: int = 0
    widths: tuple[int, ...] = WIDTHS
    surrogate: Surrogate = Surrogate.TRIANGLE

    def dynamics(self) -> Dynamics:
        neuron = parse_neuron(self.kind.lower())
        return Dynamics(replace(neuron, levels=self.levels) if self.levels else neuron, TIMESTEPS, 0.2)


@dataclass(frozen=True)
class Compiled:
    """What a compiled kernel says of itself.

    Attributes:
        case: what was compiled.
        registers: per thread.
        local: bytes of local memory per thread, plus the instructions that use it: 0 where nothing is spilled.
        shared: bytes of shared memory.
        threads: of a program.
        products: how many instructions of each of `PRODUCTS` its PTX has.
        instructions: of a warp, where it is known: in a step of a neuron kernel with a sequence in; for an H100, in the
            decision of a tile by the actor of `WIDTHS`, or by a kernel of `VISUAL`; all that a gradient kernel has.
        strays: reads and writes of memory among an actor's products, other than the weights' copies to shared memory.
        barriers: the lines of source that barriers of all threads in its PTX come from.
        fused: the same of fused multiply-adds.
        added: the same of additions.
    """

    case: Case
    registers: int
    local: int
    shared: int
    threads: int
    products: dict[str, int]
    instructions: Mix | None
    strays: int
    barriers: Counter[str]
    fused: Counter[str]
    added: Counter[str]

    @property
    def warps(self) -> int:
        """Warps that a multiprocessor holds at the same time, by its registers and its shared memory."""
        of_shared = SHARED[self.case.target][0] // max(self.shared, 1) * self.threads // 32
        return min(resident_warps(self.registers, self.threads), of_shared)


def missing() -> str:
    """Why nothing can be compiled here; empty where it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if environment.INTERPRETED:
        return "TRITON_INTERPRET is set: Triton interprets kernels"
    for name in ("nvdisasm", "cuobjdump"):
        if machine_code.tool(name) is None:
            return f"no {name}, neither on the path nor in the triton package"
    return ""


def neurons(targets: Sequence[str] = TARGETS, dtypes: Sequence[str] = tuple(DTYPES)) -> list[Case]:
    """Every neuron kernel: each kind and form."""
    return [
        Case("neuron", kind, target, dtype, form)
        for target, dtype, kind, form in itertools.product(targets, dtypes, COMPILED_KINDS, FORMS)
    ]


def gradients(targets: Sequence[str] = TARGETS) -> list[Case]:
    """Gradient kernels in float32: of spikes, from a sequence, with the triangle; on an H100 every other form too, and
    every surrogate."""
    first, *_, last = GRADIENT_FORMS
    found = [
        Case("gradient", kind, target, "float32", form)
        for target, kind, form in itertools.product(targets, COMPILED_KINDS, (first, last))
    ]
    more = [(form, Surrogate.TRIANGLE) for form in GRADIENT_FORMS] + [(first, surrogate) for surrogate in Surrogate]
    for kind, (form, surrogate) in itertools.product(COMPILED_KINDS, more):
        case = Case("gradient", kind, "sm_90", "float32", form, surrogate=surrogate)
        if "sm_90" in targets and case not in found:
            found.append(case)
    return found


def actors() -> list[Case]:
    """Every actor kernel that `warmup` may choose, in every precision."""
    from snnkern.kernels.backends.triton.engine import PRECISIONS, TILES

    return [
        Case("actor", kind, target, precision, str(tile.rows))
        for target, precision, tile, kind in itertools.product(TARGETS, PRECISIONS, TILES, COMPILED_KINDS)
    ]


def visual(targets: Sequence[str] = TARGETS, precisions: Sequence[str] = ("float32",)) -> list[Case]:
    """Every kernel of a visual actor, for either of its tiles."""
    from snnkern.kernels.backends.triton.visual import TILES as VISUAL_TILES

    return [
        Case(kernel, kind, target, precision, str(tile.rows))
        for kernel, target, precision, tile, kind in itertools.product(VISUAL, targets, precisions, VISUAL_TILES, KINDS)
    ]


def compile_all(cases: Sequence[Case]) -> list[Compiled]:
    """Compiles in as many processes as there are cores."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        return list(pool.map(compile_one, cases, chunksize=4))


def compile_one(case: Case) -> Compiled:
    """Compiles one kernel."""
    with caught(case.target) as kernels:
        launches = {"neuron": _launch_neuron, "gradient": _launch_gradient, "actor": _launch_actor}
        launches.get(case.kernel, _launch_visual)(case)
    (kernel,) = kernels
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        (usage,) = machine_code.resources(cubin).values()
        (code,) = machine_code.disassembled(cubin).values()
    ptx = kernel.asm["ptx"]
    return Compiled(
        case=case,
        registers=usage.registers,
        local=usage.local + code.count("LDL") + code.count("STL"),
        shared=kernel.metadata.shared,
        threads=kernel.metadata.num_warps * 32,
        products={name: sum(_lines(ptx, name).values()) for name in PRODUCTS},
        instructions=_instructions(code, case),
        strays=sum(code.count(name, _products(code)) for name in ("LDG.", "STG")) if case.kernel == "actor" else 0,
        barriers=_lines(ptx, "bar.sync"),
        fused=_lines(ptx, "fma"),
        added=_lines(ptx, "add"),
    )


def _lines(ptx: str, name: str) -> Counter[str]:
    """The lines of source that instructions of a name come from."""
    files = dict(re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', ptx, re.M))
    found: Counter[str] = Counter()
    source = ""
    for line in ptx.splitlines():
        if place := re.match(r"\s*\.loc\s+(\d+)\s+(\d+)", line):
            source = linecache.getline(files[place[1]], int(place[2])).strip()
        elif re.match(rf"\s*(?:@\S+ )?{re.escape(name)}\b", line):
            found[source] += 1
    return found


def _instructions(code: Code, case: Case) -> Mix | None:
    if case.kernel == "neuron":
        return code.step() if case.form.startswith("a sequence") else None
    if case.kernel == "gradient":
        return code.mix(range(len(code.instructions)))
    if case.kernel in VISUAL:
        return passage(code, case) if case.target == "sm_90" else None
    if case.target != "sm_90" or case.widths != WIDTHS:
        return None
    return decision(code, case)


def _products(code: Code) -> Loop:
    """The innermost loop over weights: the last one in the code that contains products and no loop."""
    return [loop for loop in code.loops() if code.count("MMA", loop) and not code.within(loop)][-1]


def decision(code: Code, case: Case) -> Mix:
    """Instructions of a warp in the decision of a tile: each loop's own, as often as it goes around.

    Raises:
        RuntimeError: the loops are not those of the source.
    """
    from snnkern.kernels.backends.triton.engine import block, planes

    dynamics = case.dynamics()
    columns, steps = block(dynamics.neuron, tile_of(case), case.precision, (9, 0))
    of_layer = [WIDTHS[1] // columns, planes(dynamics), *_chunks(case, steps)]
    whole, *loops = code.loops()
    inside = [loop for loop in loops if loop in code.within(whole)]
    return _turns(code, whole, inside, [of_layer, [*of_layer, 4]])


def passage(code: Code, case: Case) -> Mix:
    """Instructions of a warp in a program of one of the `VISUAL` kernels, likewise; a projection's for one piece.

    Raises:
        RuntimeError: the loops are not those of the source.
    """
    from snnkern.kernels.backends.triton import visual
    from snnkern.kernels.backends.triton.engine import planes

    dynamics = case.dynamics()
    steps = visual.shared_steps(dynamics, tile_of(case), (9, 0), projects=case.kernel == "projection")
    time = [planes(dynamics), *_chunks(case, steps)]
    chains = {
        "first": [[FIRST_INPUTS // 32], time],
        "convolution": [[*time, INPUTS // 64, 4]],
        "projection": [[*time, 1, 4]],
    }
    return _turns(code, Loop(0, len(code.instructions)), code.loops(), chains[case.kernel])


def _chunks(case: Case, steps: int) -> list[int]:
    """How often the loop over a byte's steps goes around; nothing where the compiler sees that it is once."""
    from snnkern.kernels.backends.triton.engine import spike_bits

    chunks = 8 // spike_bits(case.dynamics().neuron) // steps
    return [chunks] if chunks > 1 else []


def _turns(code: Code, whole: Loop, loops: list[Loop], chains: Sequence[Sequence[int]]) -> Mix:
    """Instructions of a part of the code that has these chains of nested loops, which go around so often."""
    total = code.mix(code.own(whole))
    for trips in chains:
        chain, loops = loops[: len(trips)], loops[len(trips) :]
        nested = itertools.pairwise([whole, *chain])
        if len(chain) < len(trips) or any(inner not in code.within(outer) for outer, inner in nested):
            raise RuntimeError(f"loops are not nested as in the source: {chain} should go around {trips} times")
        for loop, count in zip(chain, itertools.accumulate(trips, mul), strict=True):
            total += code.mix(code.own(loop)) * count
    if loops:
        raise RuntimeError(f"there are more loops than in the source: {loops}")
    return total


def tile_of(case: Case) -> Tile:
    """The tile of rows that an actor's kernel is for."""
    from snnkern.kernels.backends.triton.engine import TILES

    return next(tile for tile in TILES if str(tile.rows) == case.form)


class _Target:
    """As much of a driver of Triton's as compiling for a target takes. Each target is a device of its own."""

    def __init__(self, target: str) -> None:
        self.number = int(target.removeprefix("sm_"))

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.number, 32)

    def get_current_device(self) -> int:
        return 1000 + self.number

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def caught(target: str) -> Iterator[list[Any]]:
    """Compiles each launch for the target, and launches nothing: yields the list that the kernels go to.

    Triton's cache is left out: it knows a kernel by its text, so one that another checkout compiled names the lines
    of that checkout's files, and they may be gone.
    """
    from triton import knobs
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    from snnkern.kernels.backends.triton import engine as triton_engine

    kernels: list[Any] = []
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, **options: Any) -> None:
        kernels.append(run(self, *args, **options | {"warmup": True}))

    number = int(target.removeprefix("sm_"))
    described = triton_engine.Gpu(target, (number // 10, number % 10), 132)
    driver.set_active(_Target(target))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(knobs.compilation, "always_compile", True),
            mock.patch.object(triton_engine, "gpu", return_value=described),
        ):
            yield kernels
    finally:
        driver.set_active(None)


def _launch_neuron(case: Case) -> None:
    constant, spikes = FORMS[case.form]
    dynamics, dtype = case.dynamics(), DTYPES[case.precision]
    current = torch.zeros(32, 1024, dtype=dtype) if constant else torch.zeros(TIMESTEPS, 32, 1024, dtype=dtype)
    threshold = torch.ones(1024, dtype=dtype)
    bias = threshold if case.kind == "DC" else None
    launch.neuron(Problem(current, threshold, torch.zeros(32, 1024, dtype=dtype), dynamics, bias, None, spikes))


def _launch_gradient(case: Case) -> None:
    timesteps, constant, of_spikes = GRADIENT_FORMS[case.form]
    dynamics = replace(case.dynamics(), timesteps=timesteps)
    one, sequence = torch.zeros(32, 1024), torch.zeros(timesteps, 32, 1024)
    threshold = torch.ones(1024)
    bias = threshold if case.kind == "DC" else None
    problem = Problem(one if constant else sequence, threshold, one, dynamics, bias, None, of_spikes)
    launch.neuron_gradients(problem, sequence if of_spikes else one, case.surrogate)


def _launch_actor(case: Case) -> None:
    from snnkern.kernels.backends.triton.engine import Engine

    *hidden, output = [
        (torch.zeros(width, narrow), torch.zeros(narrow)) for width, narrow in itertools.pairwise(case.widths)
    ]
    parts = ActorParts(
        hidden=[HiddenPart(weight, bias, torch.ones_like(bias)) for weight, bias in hidden],
        output=output,
        interface=Interface(case.widths[0], case.widths[-1]).parts(),
        dynamics=case.dynamics(),
    )
    engine = Engine(parts, case.precision)
    rows = 64
    engine.bind([torch.zeros(rows, len(bias)) for _, bias in hidden], torch.zeros(len(hidden), rows).long(), None)
    engine._use(tile_of(case))
    engine.decide(torch.zeros(rows, case.widths[0]), False, 1)


def drqv2(dynamics: Dynamics) -> ActorParts:
    """DrQ-v2's actor with two of its four convolutions, which are alike but for the first one; all zeros."""
    hidden: list[HiddenPart] = []
    shape = (9, 84, 84)
    for stride in (2, 1):
        convolution = Convolution(shape, 32, (3, 3), (stride, stride))
        weight = torch.zeros(convolution.weight_shape)
        hidden.append(HiddenPart(weight, torch.zeros(32), torch.ones(32), convolution))
        shape = convolution.output_shape
    hidden.append(HiddenPart(torch.zeros(math.prod(shape), 50), torch.zeros(50), torch.ones(50)))
    seen = {"observation_dtype": torch.uint8, "observation_scale": 255, "observation_offset": -0.5}
    return ActorParts(hidden, (torch.zeros(50, 1), torch.zeros(1)), Interface((9, 84, 84), 1, **seen).parts(), dynamics)


def _launch_visual(case: Case) -> None:
    from snnkern.kernels.backends.triton import visual

    engine = visual.Engine(parts := drqv2(case.dynamics()), case.precision, launch.neuron)
    rows, index = 64, VISUAL.index(case.kernel)
    carries = [torch.zeros(rows, *layer.neuron_shape) for layer in parts.hidden]
    engine.bind(carries, torch.zeros(len(carries), rows, dtype=torch.int64), None)
    engine.kernels[index].use(tile_of(case))
    engine.launch(index, torch.zeros(rows, *parts.interface.observation_shape, dtype=torch.uint8))
