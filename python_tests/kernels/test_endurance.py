"""Many decisions in a row: no drift beyond the reference's, no growth in memory.

Two hundred thousand where all cases are wanted (`--all-cases`), else a fifth of them.
A longer run: SNNKERN_DECISIONS=100000000 pytest python_tests/kernels/test_endurance.py
"""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from support.cases import DEFAULT_NEURONS, assert_same_bits, each, needs_cpu, random_actor, random_observations
from torch import Tensor

import snnkern
from snnkern import Actor, Interface, SpikingActor
from snnkern.kernels import reference
from snnkern.kernels.neurons import Kind

pytestmark = needs_cpu

DECISIONS = int(os.environ.get("SNNKERN_DECISIONS", 200_000 if "SNNKERN_ALL_CASES" in os.environ else 40_000))
MILESTONES = [*(number for number in (1_000, 10_000, 100_000) if number < DECISIONS), DECISIONS]


def carry_of(actor: SpikingActor) -> Tensor:
    """The carry of all hidden layers, `[B, neurons]`."""
    return torch.cat([layer.carry.value for layer in actor.hidden], dim=1)


# Bit for bit: what many decisions come to can be known without making them.


class Orbit:
    """What the reference does on observations `[P, B, I]` that repeat for ever.

    A decision is a function of observation and carry, for each row by itself. So once a row has a carry that it had
    before, at the same place in the observations, everything repeats from there.
    """

    def __init__(self, actor: SpikingActor, observations: Tensor, dtype: torch.dtype) -> None:
        batch = observations.shape[1]
        hidden = [(layer.weight.T.to(dtype), layer.bias.to(dtype), layer.threshold.to(dtype)) for layer in actor.hidden]
        output = (actor.output.weight.T.to(dtype), actor.output.bias.to(dtype))
        carries = [torch.zeros(batch, len(threshold), dtype=dtype) for _, _, threshold in hidden]
        self.carries = [torch.cat(carries, dim=1)]  # after 0, 1, 2, … decisions
        self.totals = [torch.zeros(batch, len(output[1]), dtype=torch.float64)]  # of the actions until then
        self.cycles: dict[int, tuple[int, int]] = {}  # of each row: after how many decisions it begins, its length
        known: list[dict[bytes, int]] = [{} for _ in range(batch)]
        while len(self.cycles) < batch:
            made = len(self.carries) - 1
            for row, carry in enumerate(self.carries[-1].numpy()):
                first = known[row].setdefault(carry.tobytes(), made)
                if first < made:
                    self.cycles.setdefault(row, (first, made - first))
            for observation in observations.to(dtype):
                decision = reference.actor(observation, hidden, output, carries, actor.dynamics)
                carries = [layer.carry for layer in decision.layers]
                self.carries.append(torch.cat(carries, dim=1))
                self.totals.append(self.totals[-1] + decision.output.double())

    def after(self, decisions: int) -> tuple[Tensor, Tensor]:
        """The carry `[B, neurons]` and the sum of all actions `[B, A]`."""
        carries, totals = [], []
        for row in range(len(self.cycles)):
            first, length = self.cycles[row]
            rounds = max(decisions - first, 0) // length
            place = decisions - rounds * length
            carries.append(self.carries[place][row])
            one_round = self.totals[first + length][row] - self.totals[first][row]
            totals.append(self.totals[place][row] + rounds * one_round)
        return torch.stack(carries), torch.stack(totals)


def snap(values: Tensor, parts: int) -> Tensor:
    """The nearest multiples of 1 / parts."""
    return (values * parts).round() / parts


def exact_actor(neuron, timesteps: int, **dynamics: float) -> SpikingActor:
    """Weights, biases and thresholds are small multiples of powers of two: float32 sums them exactly, in any order."""
    widths = (3, 8, 8, 2)
    actor, _ = random_actor(widths, seed=2)
    layers = [(snap(layer.weight, 8), snap(layer.bias, 16)) for layer in [*actor.hidden, actor.output]]
    exact = Actor(layers[:-1], layers[-1], Interface(widths[0], widths[-1], squash=False))
    thresholds = [torch.tensor([1.0, 2.0]).repeat(width // 2) for width in widths[1:-1]]
    return snnkern.convert(exact, thresholds=thresholds, neuron=neuron, timesteps=timesteps, **dynamics)


# How the carry goes on, the reference's dtype, and after how many observations they repeat. The whole residual is exact
# in float32, and its orbit is long. A part of it is rounded at every decision, as the reference rounds it in float32:
# the currents being exact, the engine's own order of sums cannot show. That orbit is as long as the observations.
CARRIES = {
    "whole": ({"alpha": 1.0, "memory": 1.0}, torch.float64, 7),
    "fading": ({"alpha": 0.2, "memory": 0.5}, torch.float32, 300),
}


# A leak multiplies the potential at every step: its bits grow until they are rounded, and what leaks away is not owed.
CONSERVING = {name: neuron for name, neuron in DEFAULT_NEURONS.items() if not neuron.leak}


@pytest.mark.costly
@each("carry", CARRIES)
@each("neuron", CONSERVING)
def test_the_last_of_many_decisions_is_the_references_bit_for_bit(neuron, carry) -> None:
    dynamics, dtype, period = carry
    timesteps = 2 if neuron.kind is Kind.DC else 4  # DC divides by t: exact for t = 1 and 2
    actor = exact_actor(neuron, timesteps, **dynamics)
    observations = snap(random_observations(period, 4, 3, seed=2), 8)
    orbit = Orbit(actor, observations, dtype)
    assert max(length for _, length in orbit.cycles.values()) >= 200
    endless = itertools.cycle(observations.numpy())
    total, made = np.zeros((4, 2)), 0
    for milestone in MILESTONES:
        for observation in itertools.islice(endless, milestone - made):
            total += actor.act(observation)
        made = milestone
        carries, totals = orbit.after(milestone)
        assert_same_bits(carry_of(actor), carries.float())
        assert_same_bits(torch.from_numpy(total), totals)


# Within a bound: μ = 1, α = 1 and no clamp make a sigma-delta modulator of every layer (check 4 of the semantics page).


def linear_actor(widths: tuple[int, ...], neuron) -> SpikingActor:
    """A random actor for observations in −1 … 1 that saturates nowhere, and whose later layers are never silent.

    So the first layer's mean outputs sum to those of its ReLU, less what its carry still owes, and so do those of a
    later one, whose ReLU does nothing.
    """
    generator = torch.Generator().manual_seed(0)
    layers, thresholds = [], []
    center, radius = torch.zeros(widths[0], dtype=torch.float64), torch.ones(widths[0], dtype=torch.float64)
    for narrow, wide in itertools.pairwise(widths):
        weight = torch.randn(wide, narrow, generator=generator, dtype=torch.float64) / narrow
        bias = 0.1 * torch.randn(wide, generator=generator, dtype=torch.float64)
        if layers:
            bias = 0.2 - (weight @ center - weight.abs() @ radius)  # the smallest current is 0.2
        layers.append((weight.float(), bias.float()))
        low, high = (weight @ center + bias + sign * (weight.abs() @ radius) for sign in (-1, 1))
        thresholds.append((1.1 * high.clamp(min=0) + 0.01).float())
        center, radius = (high.clamp(min=0) + low.clamp(min=0)) / 2, (high.clamp(min=0) - low.clamp(min=0)) / 2
    actor = Actor(layers[:-1], layers[-1], Interface(widths[0], widths[-1], squash=False))
    return snnkern.convert(
        actor, thresholds=thresholds[:-1], neuron=neuron, timesteps=5, alpha=1.0, memory=1.0, clip=1e6
    )


def dense_outputs(actor: SpikingActor, observations: Tensor) -> tuple[Tensor, Tensor]:
    """The dense network's outputs in float64; and the same with no negative term, which rounding is relative to."""
    signal = observations.double()
    for index, layer in enumerate(actor.hidden):
        current = signal @ layer.weight.double() + layer.bias.double()
        assert index == 0 or current.min() > 0
        signal = current.clamp(min=0)
    weight, bias = actor.output.weight.double(), actor.output.bias.double()
    return signal @ weight + bias, signal @ weight.abs() + bias.abs()


def through_later_layers(actor: SpikingActor, errors: list[Tensor], absolute: bool = False) -> Tensor:
    """What errors `[…, N]` of the hidden layers' mean outputs come to in the output, at most so where `absolute`."""
    weights = [layer.weight.double() for layer in [*actor.hidden[1:], actor.output]]
    passed = torch.zeros_like(errors[0])
    for error, weight in zip(errors, weights, strict=True):
        passed = (passed + error) @ (weight.abs() if absolute else weight)
    return passed


@pytest.mark.costly
@each("widths", {"one-layer": (5, 16, 2), "two-layers": (5, 16, 16, 2)})
@each("neuron", CONSERVING)
def test_the_summed_error_of_many_decisions_is_what_the_carry_owes(neuron, widths) -> None:
    actor = linear_actor(widths, neuron)
    timesteps = actor.dynamics.timesteps
    bound = through_later_layers(actor, [layer.threshold.double() / timesteps for layer in actor.hidden], absolute=True)
    generator = torch.Generator().manual_seed(1)
    total, dense, terms, made = np.zeros((2, widths[-1])), 0.0, 0.0, 0
    for milestone in MILESTONES:
        for _ in range((milestone - made) // 1000):
            observations = 2 * torch.rand(1000, 2, widths[0], generator=generator) - 1
            for observation in observations.numpy():
                total += actor.act(observation)
            outputs, positive = dense_outputs(actor, observations)
            dense, terms = dense + outputs.sum(dim=0), terms + positive.sum(dim=0)
        made = milestone
        error = dense - torch.from_numpy(total)
        owed = through_later_layers(actor, [layer.carry.value.double() / timesteps for layer in actor.hidden])
        assert bool((owed.abs() <= bound).all())
        assert bool(((error - owed).abs() <= 2.0**-23 * terms).all())


# Memory, threads, processes.


class Footprint(NamedTuple):
    """What a process holds: resident bytes, and Python's blocks of memory, objects, and references to a dtype."""

    resident: int
    blocks: int
    objects: int
    references: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        references = sys.getrefcount(np.dtype(np.float32)) + sys.getrefcount(np.dtype(np.float64))
        return cls(resident, sys.getallocatedblocks(), len(gc.get_objects()), references)


def small_actor(**dynamics: float) -> SpikingActor:
    actor, thresholds = random_actor((11, 33, 17, 3))
    return snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=2, **dynamics)


PARTS = 4

# How an episode of 1,000 decisions is decided: every decision gets an object of its own.
FORMS: dict[str, tuple[str, tuple[int, ...], type]] = {
    "act-row": ("act", (11,), np.float32),
    "act-batch-float64": ("act", (2, 11), np.float64),
    "call": ("__call__", (1, 11), np.float32),
    "call-batch": ("__call__", (4, 11), np.float32),  # enough rows to release the GIL
}


@pytest.mark.costly
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc here to read the resident memory from")
@each("form", FORMS)
def test_many_decisions_need_no_more_memory_than_ten_thousand(form) -> None:
    method, shape, dtype = form
    actor = small_actor()
    decide = getattr(actor, method)
    observations = np.random.default_rng(0).normal(size=(1000, *shape)).astype(dtype)
    episode = observations if method == "act" else torch.from_numpy(observations)

    def run(episodes: int) -> None:
        for _ in range(episodes):
            actor.reset()
            for observation in episode:
                decide(observation)

    run(10)
    Footprint.now()  # what taking it leaves behind
    after = [Footprint.now()]
    for _ in range(PARTS):
        run(DECISIONS // 1000 // PARTS)
        after.append(Footprint.now())
    assert actor._bound is not None
    # What leaks does so in every part; what others of this process hold, such as the allocator's pages, in one or two.
    grown = [min(b - a for a, b in itertools.pairwise(numbers)) for numbers in zip(*after, strict=True)]
    assert grown[0] <= DECISIONS // PARTS  # a byte a decision
    assert grown[1] <= 100 // PARTS
    assert max(grown[2:]) <= 10 // PARTS


def running_threads() -> int:
    return len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc here to count native threads in")
def test_threads_that_come_and_go_leave_none_behind() -> None:
    observations = random_observations(3, 64, 11)
    expected = [small_actor()(observation) for observation in observations[:1]]
    failures = []

    def work() -> None:
        torch.set_num_threads(2)  # so a decision for 64 rows takes two native threads
        actor = small_actor()
        decided = [actor(observation) for observation in observations]
        if actor._bound is None or not torch.equal(decided[0], expected[0]):
            failures.append(decided[0])

    def run(count: int) -> None:
        for _ in range(count):
            threads = [threading.Thread(target=work) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

    run(3)
    before = running_threads()
    run(100)
    deadline = time.monotonic() + 300  # a native thread ends a little after Python has joined it
    while running_threads() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert running_threads() <= before
    assert not failures


FORK = """
import os, sys
import torch
import snnkern
from support.cases import random_actor, random_observations

torch.set_num_threads(2)
actor, thresholds = random_actor((11, 33, 17, 3))
snn = snnkern.convert(actor, thresholds=thresholds, neuron="if", timesteps=4, alpha=0.0)
observation = random_observations(1, 64, 11)[0]
action = snn(observation)
child = os.fork()
same = torch.equal(snn(observation), action)
if child == 0:
    os._exit(0 if same else 1)
sys.exit(0 if same and os.waitpid(child, 0)[1] == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_decides_too() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
