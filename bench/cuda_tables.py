"""The tables of docs/gpu.md about the CUDA kernels: what nvcc makes of them, and what an H100 should take for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from cuda_compiled import Compiled
from h100 import (
    ADD,
    BARRIER,
    CLOCK,
    ISSUED,
    L1_BYTES,
    L1_LEFT,
    L2,
    L2_BYTES,
    L2_SHARED,
    LAUNCH,
    MEMORY,
    MULTIPROCESSORS,
    REACHED,
    SHARED,
    SHUFFLE,
    Measured,
)
from machine_code import KINDS, table

import snnkern
from snnkern.control.collect import collect

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
ONCE = 150  # instructions of a neuron kernel's warp beside its steps
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


class NextRow(NamedTuple):
    """Clocks that one more row takes of a multiprocessor that is busy.

    Attributes:
        expected: L1 holds as much of the weights as fits.
        forgetting: L1 is empty at the start of each row, so that the rows of neurons that send come from L2 once.
        missing: L1 never hits.
    """

    expected: float
    forgetting: float
    missing: float


def next_row(load: Load) -> NextRow:
    beside = (INPUTS + ACTIONS) * ROW  # read once
    fetched = load.spikes * ROW + beside
    missed = max(0.0, 1 - L1_LEFT / ((INPUTS + WIDTH + ACTIONS) * ROW))
    from_l1 = fetched / L1_BYTES
    return NextRow(
        expected=max(from_l1, fetched * missed / L2_SHARED),
        forgetting=max(from_l1, (load.senders * ROW + beside) / L2_SHARED),
        missing=fetched / L2_SHARED,
    )


def alone(kind: str, load: Load) -> float:
    """Seconds of a decision for one row, from the end of what stands before it in the stream."""
    return LAUNCH + sum(one_row(load, STEP[kind]).values()) / CLOCK


def batched(kind: str, load: Load, batch: int) -> NextRow:
    """Seconds of a decision for a batch."""
    others = math.ceil(batch / MULTIPROCESSORS) - 1
    return NextRow(*(alone(kind, load) + others * clocks / CLOCK for clocks in next_row(load)))


def predicted_table(loads: dict[str, Load], kernels: Sequence[Compiled]) -> str:
    measured = Measured()
    rows = []
    for kind, load in loads.items():
        floor = load.spikes * ROW / L1_BYTES / CLOCK
        predicted = f"{alone(kind, load) * 1e6:.1f}"
        rows.append([f"actor, {kind}, batch 1", f"{floor * 1e6:.1f}", predicted, measured.actor("cuda", kind, 1)])
    for kind, load in loads.items():
        floor = load.spikes * ROW / L1_BYTES / CLOCK * BATCH / MULTIPROCESSORS
        time = NextRow(*(seconds * 1e6 for seconds in batched(kind, load, BATCH)))
        predicted = f"{time.expected:.0f} (L1 empty at each row: {time.forgetting:.0f}; never hits: {time.missing:.0f})"
        rows.append(
            [f"actor, {kind}, batch {BATCH}", f"{floor * 1e6:.0f}", predicted, measured.actor("cuda", kind, BATCH)]
        )
    loops = instructions(kernels)
    for kind, form in itertools.product(KINDS, NEURON_FORMS):
        floor, predicted = neuron_times(
            NEURON_FORMS[form] * 4, loops[kind, form] / NEURONS_PER_WARP, ONCE / NEURONS_PER_WARP
        )
        rows.append([f"neurons, {kind}, {form}", floor, predicted, measured.neurons("cuda", kind, form)])
    return table(["what", "floor, µs", "predicted, µs", "measured, µs"], rows)


def neuron_times(moved: int, step: float, once: float) -> tuple[str, str]:
    """The floor and the prediction of a neuron kernel, in µs, for `ROWS` × `COLUMNS` neurons.

    Args:
        moved: bytes of a neuron's decision.
        step: instructions of warps for a neuron's step.
        once: those for a neuron beside its steps.
    """
    memory = ROWS * COLUMNS * moved / MEMORY
    issue = ROWS * COLUMNS * (TIMESTEPS * step + once) / (ISSUED * MULTIPROCESSORS * CLOCK)
    limit = "" if memory > issue else ", by instructions"
    return f"{memory * 1e6:.0f}", f"{max(memory, issue) / REACHED * 1e6:.0f}{limit}"


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
    rows = [[kind, *(loops[kind, name] for name in NEURON_FORMS)] for kind in KINDS]
    return table(["instructions of a step", *NEURON_FORMS], rows)


def parts_table(load: Load) -> str:
    parts = one_row(load, STEP["IF"]).items()
    return table(["part of a row, IF", "clocks"], [[part, f"{clocks:,.0f}"] for part, clocks in parts])


def loads_table(loads: dict[str, Load]) -> str:
    fields = {"spikes": "spikes", "in the busiest step": "most", "neurons that send": "senders"}
    rows = [[name, *(f"{getattr(load, field):.0f}" for load in loads.values())] for name, field in fields.items()]
    return table(["first layer, T = 8", *loads], rows)
