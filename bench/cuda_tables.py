"""The tables of docs/gpu.md about the CUDA kernels: what nvcc makes of them, and what an H100 should take for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from actor_loops import ActorLoops, Shape
from cuda_compiled import Compiled
from h100 import (
    ADD,
    BARRIER,
    BEST,
    CLOCK,
    L1_BYTES,
    L1_LEFT,
    L2_BYTES,
    L2_SHARED,
    MEMORY,
    MULTIPROCESSORS,
    SHARED,
    SHUFFLE,
    WORST,
    Assumed,
    Measured,
    Span,
)
from machine_code import KINDS, ROOT, Mix, table

import snnkern

OBSERVATIONS = ROOT / "bench" / "results" / "halfcheetah.npy"
IN_FLIGHT = 8
FIRST_IN_FLIGHT = 16


@dataclass(frozen=True)
class Load:
    """What `td3-halfcheetah`'s first hidden layer sends in one decision: means over decisions.

    Attributes:
        spikes: in all T steps.
        most: in the step that sends most.
        senders: neurons that send at all.
        rounds: of `IN_FLIGHT` senders' rows, the last one of a step partly empty, in all T steps.
    """

    spikes: float
    most: float
    senders: float
    rounds: float


def measure() -> dict[str, Load]:
    """Counts spikes with the reference, on the actor's own rollout."""
    actor = snnkern.load_actor("td3-halfcheetah")
    observations = torch.from_numpy(np.load(OBSERVATIONS)).float()
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
            rounds=(sent.sum(dim=2) / IN_FLIGHT).ceil().sum(dim=0).double().mean().item(),
        )
    return loads


STEP = {"IF": 45, "SNM": 55, "MT": 130, "DC": 150}  # clocks of a neuron's update, which depend on each other; L = 4
WIDTH, INPUTS, ACTIONS, TIMESTEPS = 256, 17, 6, 8
BATCHES = (1, 1024, 4096)
WARPS = 16  # of a block; of each of two where there are more rows than multiprocessors
# Of the neuron kernels, with the numbers that a neuron's decision reads and writes.
ROWS, COLUMNS, NEURONS_PER_WARP = 4096, 1024, 4 * 32
NEURON_FORMS = {
    "a sequence in, spikes out": 2 * TIMESTEPS + 2,
    "a sequence in, mean out": TIMESTEPS + 3,
    "a constant current in, mean out": 4,
}
ONCE = 150  # instructions of a neuron kernel's warp beside its steps
ROW = WIDTH * 4  # bytes of a sender's weights


@dataclass(frozen=True)
class Row:
    """One row's decision.

    Attributes:
        kind: of neuron.
        load: what its first layer sends.
        loops: the compiled kernel's.
    """

    kind: str
    load: Load
    loops: ActorLoops

    def latencies(self, assumed: Assumed) -> dict[str, float]:
        """Clocks of each part, alone on a multiprocessor, by chains of dependent instructions and by loads."""
        load, step, far = self.load, STEP[self.kind], assumed.l2
        rounds = math.ceil(load.most / IN_FLIGHT) * (far + (1 + IN_FLIGHT / 2) * ADD)  # in pairs
        adding = max(load.spikes * ROW / L1_BYTES, load.senders * ROW / L2_BYTES, rounds)
        return {
            "start": 600,
            "first layer: current": math.ceil(INPUTS / FIRST_IN_FLIGHT) * far + (INPUTS / 2 + 2) * ADD,
            "first layer: T steps": TIMESTEPS * step,
            "first layer: carry, barrier": far + SHARED + BARRIER,
            "second layer: lists from fire masks": WIDTH / 32 * 12 + 2 * SHARED,
            "second layer: adding rows": adding + far,
            "second layer: barrier, T steps": BARRIER + TIMESTEPS * (step + SHARED),
            "second layer: carry, barrier": far + SHARED + BARRIER,
            "output layer, tanh": far + WIDTH / 32 * ADD + 5 * SHUFFLE + 100,
            "end": 400,
        }

    def instructions(self, assumed: Assumed, warps: int) -> dict[str, Mix]:
        """Those of all warps of a block, by parts."""
        shape = Shape(INPUTS, WIDTH, ACTIONS, TIMESTEPS)
        inputs = INPUTS / self.loops.inputs_at_once
        if assumed.whole:
            return self.loops.parts(shape, warps, self.load.rounds, math.ceil(inputs))
        return self.loops.parts(shape, warps, self.load.spikes / self.loops.rows_at_once, inputs)

    def parts(self, assumed: Assumed, warps: int = WARPS) -> dict[str, float]:
        """Clocks of each part, alone on a multiprocessor: until its chains have ended, and all its instructions."""
        issued = self.instructions(assumed, warps)
        chains = self.latencies(assumed)
        return {part: max(chains[part], assumed.clocks(issued.get(part, Mix()))) for part in chains}

    def next(self, assumed: Assumed) -> float:
        """Clocks that one more row takes of a multiprocessor that is busy."""
        beside = (INPUTS + ACTIONS) * ROW  # read once
        fetched = self.load.spikes * ROW + beside
        missed = max(0.0, 1 - L1_LEFT / ((INPUTS + WIDTH + ACTIONS) * ROW))
        from_l2 = fetched * missed if assumed.keeps else self.load.senders * ROW + beside
        issued = sum(self.instructions(assumed, WARPS // 2).values(), Mix())
        return max(assumed.clocks(issued), fetched / L1_BYTES, from_l2 / L2_SHARED / assumed.bandwidth)

    def seconds(self, batch: int, assumed: Assumed) -> float:
        """A decision for a batch, from the end of what stands before it in the stream."""
        others = math.ceil(batch / MULTIPROCESSORS) - 1
        alone = sum(self.parts(assumed, WARPS // 2 if others else WARPS).values())
        return assumed.launch + (alone + others * self.next(assumed)) / CLOCK

    def span(self, batch: int) -> Span:
        return Span(self.seconds(batch, BEST), self.seconds(batch, WORST))

    def floor(self, batch: int) -> float:
        """Seconds that its spikes' rows take through L1."""
        return self.load.spikes * ROW / L1_BYTES / CLOCK * max(batch / MULTIPROCESSORS, 1)


def loops_of(kernels: Sequence[Compiled]) -> dict[str, ActorLoops]:
    """The loops of the actor's kernel for every kind, on an H100; of MT and DC, those for ordinary thresholds.

    Raises:
        RuntimeError: they are not nested as in the source.
    """
    actors = [one for one in kernels if one.kernel == "actor" and one.target == "sm_90"]
    ordinary = [one for one in actors if one.code is not None and not one.flags[0]]
    return {one.kind: ActorLoops.of(one.code) for one in ordinary if one.code is not None}


def rows_of(loads: dict[str, Load], kernels: Sequence[Compiled]) -> dict[str, Row]:
    """A row's decision for every kind, on an H100."""
    loops = loops_of(kernels)
    return {kind: Row(kind, load, loops[kind]) for kind, load in loads.items()}


def predicted_table(actors: dict[str, Row], kernels: Sequence[Compiled]) -> str:
    measured = Measured()
    rows = []
    for batch, (kind, row) in itertools.product(BATCHES, actors.items()):
        floor = f"{row.floor(batch) * 1e6:.{0 if batch > 1 else 1}f}"
        found = measured.actor("cuda blocks", kind, batch)
        rows.append([f"actor, {kind}, batch {batch:,}", floor, row.span(batch), found])
    loops = instructions(kernels)
    for kind, form in itertools.product(KINDS, NEURON_FORMS):
        found = neuron_times(NEURON_FORMS[form] * 4, loops[kind, form], NEURONS_PER_WARP, ONCE)
        rows.append([f"neurons, {kind}, {form}", *found, measured.neurons("cuda", kind, form)])
    return table(["what", "floor, µs", "predicted, µs", "measured, µs"], rows)


def neuron_times(moved: int, step: Mix, together: int, once: int) -> tuple[str, str]:
    """The floor and the prediction of a neuron kernel, in µs, for `ROWS` × `COLUMNS` neurons.

    Args:
        moved: bytes of a neuron's decision.
        step: instructions of a warp for a step of its neurons.
        together: neurons of a warp.
        once: a warp's instructions beside its steps.
    """
    memory = ROWS * COLUMNS * moved / MEMORY
    issued = (step * TIMESTEPS + Mix(once)) * (ROWS * COLUMNS / together / MULTIPROCESSORS)
    limits = [(memory / one.bandwidth, one.clocks(issued) / CLOCK) for one in (BEST, WORST)]
    span = Span(*(one.launch + max(limit) for one, limit in zip((BEST, WORST), limits, strict=True)))
    by_instructions = [issue > bytes for bytes, issue in limits]
    said = ", by instructions" if all(by_instructions) else ", at worst by instructions" if any(by_instructions) else ""
    return f"{memory * 1e6:.0f}", f"{span}{said}"


def instructions(kernels: Sequence[Compiled]) -> dict[tuple[str, str], Mix]:
    """Instructions of a thread in a step, for the kind and form of a float32 neuron kernel, on an H100."""
    loops = {(one.kind, one.flags): one.loop for one in kernels if one.target == "sm_90" and one.width == 4}
    found = {}
    for kind in KINDS:
        # Only DC has a form of its own for constant currents; the others read the same again.
        forms = ((False, True), (False, False), (kind == "DC", False))
        found |= {(kind, name): loops[kind, flags] or Mix() for name, flags in zip(NEURON_FORMS, forms, strict=True)}
    return found


def instructions_table(kernels: Sequence[Compiled]) -> str:
    loops = instructions(kernels)
    rows = [[kind, *(f"{loops[kind, name].issued:.0f}" for name in NEURON_FORMS)] for kind in KINDS]
    return table(["instructions of a step", *NEURON_FORMS], rows)


def parts_table(row: Row) -> str:
    """Instructions of a row alone on a multiprocessor, and clocks of each part."""
    issued, best, worst = row.instructions(BEST, WARPS), row.parts(BEST), row.parts(WORST)
    chains = row.latencies(BEST)
    cells = [
        [
            part,
            f"{issued[part].issued:,.0f}" if part in issued else "",
            *(f"{one[part]:,.0f}" for one in (chains, best, worst)),
        ]
        for part in chains
    ]
    total = sum(issued.values(), Mix()).issued
    cells.append(["all", f"{total:,.0f}", *(f"{sum(one.values()):,.0f}" for one in (chains, best, worst))])
    heading = [f"part of a row, {row.kind}", "instructions of warps", "clocks of chains and loads, best case"]
    return table([*heading, "clocks, best case", "clocks, worst case"], cells)


def loads_table(loads: dict[str, Load]) -> str:
    fields = {"spikes": "spikes", "in the busiest step": "most", "neurons that send": "senders"}
    rows = [[name, *(f"{getattr(load, field):.0f}" for load in loads.values())] for name, field in fields.items()]
    return table(["first layer, T = 8", *loads], rows)
