"""The CPU engine against the float64 reference on random actors, one after the other, for as long as there is time.

A longer run: SNNKERN_FUZZ_SECONDS=3600 pytest python_tests/kernels/test_engine_fuzz.py
"""

from __future__ import annotations

import itertools
import os
import random
import time
from collections import Counter

import torch
from support.cases import needs_cpu
from support.engine_cases import ISAS, assert_agrees
from support.random_actors import random_episode, random_spiking_actor

from snnkern.kernels.backends import cpu
from snnkern.kernels.neurons import Kind

pytestmark = needs_cpu

WHOLE = "SNNKERN_ALL_CASES" in os.environ
SECONDS = float(os.environ.get("SNNKERN_FUZZ_SECONDS", "10" if WHOLE else "0"))
# Every kind of neuron on every build, with one and with two threads (with one of them, in turn, where not all cases are
# wanted): no run is shorter, whatever the time.
TURNS = list(itertools.product(ISAS, Kind, (1, 2)))
if not WHOLE:
    TURNS = [turn for number, turn in enumerate(TURNS) if number // 2 % 2 == number % 2]


def test_random_actors_agree_with_the_reference() -> None:
    before = cpu._cpu.isa()
    ends = time.monotonic() + SECONDS
    compared: Counter[str] = Counter()
    try:
        for seed in itertools.count():
            if time.monotonic() > ends and seed >= len(TURNS):
                break
            isa, kind, threads = TURNS[seed % len(TURNS)]
            choose = random.Random(seed)
            cpu._cpu.use_isa(isa)
            torch.set_num_threads(threads)
            actor = random_spiking_actor(kind, seed, choose)
            for number in range(2):  # two episodes, mostly of different batch sizes, on one packed engine
                episode = random_episode(actor.interface.observation_dim, seed + number, choose)
                actor.alpha, *rest = episode
                try:
                    share = assert_agrees(actor, *rest)
                except AssertionError as error:
                    raise AssertionError(f"seed {seed}, {isa}, {threads} threads, {episode.forms}: {actor}") from error
                for what in (isa, kind.name, f"{threads} threads"):
                    compared[what] += share
    finally:
        cpu._cpu.use_isa(before)
        torch.set_num_threads(1)
    assert len(compared) == len(ISAS) + len(Kind) + 2
    assert min(compared.values()) > 0
