"""The tables of docs/gpu.md about gradients: what is made of the kernels, and what an H100 should take for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import cuda_compiled
from h100 import BEST, CLOCK, MEMORY, MULTIPROCESSORS, WORST, Measured, Span
from machine_code import COMPILED_KINDS, KINDS, TARGETS, Code, Loop, Mix, table
from triton_compiled import GRADIENT_FORMS, TIMESTEPS, WIDTHS, Case, Compiled

from snnkern.kernels.backends import cuda
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.neurons import parse_neuron
from snnkern.kernels.surrogates import Surrogate

BATCHES = (256, 65536)
NEURONS = WIDTHS[1]
LAUNCHES = 2  # of a layer: the kernel, and the sum of what its programs have summed
CUDA_THREAD, CUDA_ONCE = 2, 200  # float32 neurons of CUDA's thread, and its instructions beside steps
SHARED_BY_A_THREAD = launch.TILE_ELEMENTS // (32 * launch.TILE_WARPS)
EIGHT, OF_MEAN, CONSTANT, SIXTEEN = GRADIENT_FORMS
# The hidden layers of an actor: a constant current and spikes on, a sequence and the mean out. Numbers that a neuron
# reads and writes: currents and the gradients that come, those that go, and the carry's.
LAYERS = {CONSTANT: 1 + TIMESTEPS + 1 + 2, OF_MEAN: TIMESTEPS + 1 + TIMESTEPS + 2}


def compiled_table(kernels: Sequence[Compiled]) -> str:
    """Registers of the hungriest form and surrogate, the warps that follow, and instructions on an H100."""
    rows = []
    for kind, forms in itertools.product(COMPILED_KINDS, ((EIGHT, OF_MEAN, CONSTANT), (SIXTEEN,))):
        group = [one for one in kernels if one.case.kind == kind and one.case.form in forms]
        most = [max(one.registers for one in group if one.case.target == target) for target in TARGETS]
        steps = "up to 8 steps" if EIGHT in forms else "more steps"
        each = [f"{_instructions(kernels, kind, EIGHT, surrogate).issued / TIMESTEPS:.0f}" for surrogate in Surrogate]
        cells = each if EIGHT in forms else [""] * len(each)
        rows.append([f"gradients, {kind}, {steps}", *most, min(one.warps for one in group), *cells])
    names = [f"instructions of a step, {surrogate.name.lower()}" for surrogate in Surrogate]
    heading = ["kernel", *TARGETS, "warps per multiprocessor", *names]
    local = sum(one.local for one in kernels)
    return (
        table(heading, rows) + f"\n\nRegisters per thread, of the hungriest form and surrogate; instructions for a "
        f"neuron, there and back, on an H100. Local memory of all {len(kernels)} compiled kernels together: {local} "
        f"bytes. Triton {launch.release()}."
    )


def predicted_table(kernels: Sequence[Compiled]) -> str:
    """Bytes, floor and prediction of both hidden layers of the actor, by batch."""
    measured = Measured()
    rows = []
    for kind, batch in itertools.product(KINDS, BATCHES):
        moved = batch * NEURONS * 4 * sum(LAYERS.values())
        each = {form: _instructions(kernels, kind, form) for form in LAYERS}
        span = _predicted(kind, batch, each, _strips(batch))
        found = measured.gradients("triton", kind, batch)
        rows.append([f"{kind}, batch {batch:,}", f"{moved / 1e6:,.0f}", f"{moved / MEMORY * 1e6:,.1f}", span, found])
    return table(["gradients of both hidden layers", "bytes, MB", "floor, µs", "predicted, µs", "measured, µs"], rows)


def cuda_table(kernels: Sequence[cuda_compiled.Compiled]) -> str:
    """The same of CUDA's kernel, in float32 on an H100: instructions by surrogate, and with the triangle the times."""
    measured = Measured()
    found = {
        (one.kind, one.surrogate): step_of(one.code, parse_neuron(one.kind.lower()).levels) * (1 / CUDA_THREAD)
        for one in kernels
        if one.kernel == "gradient" and one.target == "sm_90" and one.width == CUDA_THREAD and one.code is not None
    }
    rows = []
    for kind in COMPILED_KINDS:
        steps = [found[kind, surrogate.name.lower()] for surrogate in Surrogate]
        each = dict.fromkeys(LAYERS, steps[0] * TIMESTEPS + Mix(CUDA_ONCE / CUDA_THREAD))
        times: list[object] = []
        for batch in BATCHES:
            strips = math.ceil(batch / cuda.strip_length(batch, NEURONS))
            times += [_predicted(kind, batch, each, strips), measured.gradients("cuda", kind, batch)]
        rows.append([kind, *(f"{step.issued:.0f}" for step in steps), *times])
    names = [surrogate.name.lower() for surrogate in Surrogate]
    headings = [f"batch {batch:,}, {what}, µs" for batch in BATCHES for what in ("predicted", "measured")]
    return table(["instructions of a step", *names, *headings], rows)


def step_of(code: Code, levels: int) -> Mix:
    """Instructions of a thread of CUDA's kernel for a step, there and back, without rare cases.

    Shared memory is written on the way there and read on the way back; of two paths, that for ordinary thresholds
    stands last.
    """

    def along(loop: Loop) -> Mix:
        return sum((code.mix(code.way(level)) * levels for level in code.within(loop)), code.mix(code.way(loop)))

    loops = [(loop, code.count("STS", loop), code.count("LDS", loop)) for loop in code.loops()]
    there = [loop for loop, written, read in loops if written and not read]
    back = [loop for loop, written, read in loops if read and not written]
    return along(there[-1]) + along(back[-1])


def _predicted(kind: str, batch: int, issued: Mapping[str, Mix], strips: int) -> Span:
    """Both layers, each of which waits for its bytes or for its instructions.

    Args:
        kind: of neuron.
        batch: rows.
        issued: instructions of a thread for a neuron, by form.
        strips: sums over the batch that the kernel writes for each neuron.
    """
    times = []
    for assumed in (BEST, WORST):
        seconds = 0.0
        for form, numbers in LAYERS.items():
            sums = 2 * 4 * NEURONS * (1 + _is_differential(kind)) * strips  # written, and read again
            memory = (batch * NEURONS * 4 * numbers + sums) / MEMORY / assumed.bandwidth
            warps = issued[form] * (batch * NEURONS / 32 / MULTIPROCESSORS)
            seconds += LAUNCHES * assumed.launch + max(memory, assumed.clocks(warps) / CLOCK)
        times.append(seconds)
    return Span(*times)


def _strips(batch: int) -> int:
    """Programs that stand below each other, of which each writes its sums."""
    rows, _ = launch.tile_shape(NEURONS, launch.TILE_ELEMENTS)
    return math.ceil(math.ceil(batch / rows) / launch.strip_length(batch, NEURONS))


def _is_differential(kind: str) -> bool:
    return parse_neuron(kind.lower()).differential


def _instructions(kernels: Sequence[Compiled], kind: str, form: str, surrogate: Surrogate = Surrogate.TRIANGLE) -> Mix:
    """Those of a thread for a neuron. MT and DC have two paths, of which the one that is not taken is no shorter."""
    case = Case("gradient", kind, "sm_90", "float32", form, surrogate=surrogate)
    found = next(one for one in kernels if one.case == case)
    paths = 2 if parse_neuron(kind.lower()).multilevel else 1
    return (found.instructions or Mix()) * (1 / paths / SHARED_BY_A_THREAD)
