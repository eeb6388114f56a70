"""The tables of docs/gpu.md about gradients: what is made of the kernels, and what an H100 should take for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from h100 import BEST, CLOCK, MEMORY, MULTIPROCESSORS, WORST, Assumed, Measured, Span
from machine_code import COMPILED_KINDS, KINDS, TARGETS, Mix, table
from triton_compiled import GRADIENT_FORMS, TIMESTEPS, WIDTHS, Case, Compiled

from snnkern.kernels.backends.triton import launch
from snnkern.kernels.neurons import parse_neuron
from snnkern.kernels.surrogates import Surrogate

BATCHES = (256, 65536)
NEURONS = WIDTHS[1]
LAUNCHES = 2  # of a layer: the kernel, and the sum of what its programs have summed
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
        span = Span(*(_seconds(kernels, kind, batch, assumed) for assumed in (BEST, WORST)))
        floor = f"{moved / MEMORY * 1e6:,.1f}"
        rows.append([f"{kind}, batch {batch:,}", f"{moved / 1e6:,.0f}", floor, span, measured.gradients(kind, batch)])
    return table(["gradients of both hidden layers", "bytes, MB", "floor, µs", "predicted, µs", "measured, µs"], rows)


def _seconds(kernels: Sequence[Compiled], kind: str, batch: int, assumed: Assumed) -> float:
    """Both layers, each of which waits for its bytes or for its instructions."""
    seconds = 0.0
    for form, numbers in LAYERS.items():
        sums = 2 * 4 * NEURONS * (1 + _is_differential(kind)) * _strips(batch)  # written, and read again
        memory = (batch * NEURONS * 4 * numbers + sums) / MEMORY / assumed.bandwidth
        issued = _instructions(kernels, kind, form) * (batch * NEURONS / 32 / MULTIPROCESSORS)
        seconds += LAUNCHES * assumed.launch + max(memory, assumed.clocks(issued) / CLOCK)
    return seconds


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
