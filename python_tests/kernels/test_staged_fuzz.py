"""The CPU engine of actors that see on random ones, one after the other, for as long as there is time: bit for bit.

A longer run: SNNKERN_FUZZ_SECONDS=3600 pytest python_tests/kernels/test_staged_fuzz.py
"""

from __future__ import annotations

import itertools
import os
import random
import time

import torch
from support.cases import needs_cpu
from support.engine_cases import ISAS
from support.exact_actors import assert_decides, exact_actor
from support.visual import Form, random_form

from snnkern import SpikingActor
from snnkern.kernels.backends import cpu
from snnkern.kernels.neurons import Kind, neuron_from

pytestmark = needs_cpu

SECONDS = float(os.environ.get("SNNKERN_FUZZ_SECONDS", "10" if "SNNKERN_ALL_CASES" in os.environ else "3"))
# Every kind of neuron on every build, one and three threads: no run is shorter, whatever the time.
TURNS = list(itertools.product(ISAS, Kind, (1, 3)))


def random_exact_form(choose: random.Random) -> Form:
    """Narrow layers and wide ones, kernels as large as their image. No bridge: its numbers would be rounded."""
    while True:
        form = random_form(
            choose, channels=choose.choice([3, 20, 70]), side=choose.choice([5, 11, 20]), kernel=9, stride=4
        )
        if form.convolutions:
            break
    widths = tuple(choose.choice([1, 7, 16, 33, 70]) for _ in form.widths)
    return form._replace(widths=widths, bridge=None)


def random_exact_actor(kind: Kind, form: Form, seed: int, choose: random.Random) -> SpikingActor:
    """Parameters by which numbers that are exact stay so: DC divides by its steps, and halves are halves."""
    parameters = {
        "initial_fraction": choose.choice([0.0, 0.5, 1.0]),
        "negative_fraction": choose.choice([-1.0, -0.5, 0.0]),
        "leak": 0.5,
        "levels": choose.choice([1, 2, 3]),
    }
    steps = {Kind.DC: [1, 2], Kind.LIF: [1, 2, 3]}.get(kind, [1, 2, 3, 5, 8])
    return exact_actor(
        form,
        neuron_from(kind, parameters),
        size=choose.choice([0.02, 0.3, 1.0, 1.0]),
        per_neuron=choose.random() < 0.5,
        seed=seed,
        timesteps=choose.choice(steps),
        alpha=choose.choice([0.0, 0.5, 1.0]),
        memory=choose.choice([0.0, 0.5]),
        clip=choose.choice([0.5, 2.0]),
    )


def test_random_actors_decide_bit_for_bit_as_the_reference() -> None:
    before = cpu._cpu.isa()
    ends = time.monotonic() + SECONDS
    try:
        for seed in itertools.count():
            if time.monotonic() > ends and seed >= len(TURNS):
                break
            isa, kind, threads = TURNS[seed % len(TURNS)]
            choose = random.Random(seed)
            cpu._cpu.use_isa(isa)
            torch.set_num_threads(threads)
            form = random_exact_form(choose)
            snn = random_exact_actor(kind, form, seed, choose)
            rows = choose.choice([1, 1, 2, 5])
            try:
                assert_decides(snn, form, rows, 2)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, {isa}, {threads} threads, {rows} rows, {form}: {snn}") from error
    finally:
        cpu._cpu.use_isa(before)
        torch.set_num_threads(1)
