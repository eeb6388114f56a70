"""Whole decisions of the CPU engine: every neuron, T from 1 to 32, batches from 1 to 1024, from NumPy and from torch.

    python -m pytest bench/bench_decisions.py --benchmark-only

Actor, thresholds and observations are those of the comparison with others (`comparison.py`).
"""

from __future__ import annotations

import itertools

import comparison
import numpy as np
import pytest
import torch
from contenders import TIMESTEPS
from suite import Call, Suite, time_in_rounds
from support.cases import DEFAULT_NEURONS, needs_cpu

import snnkern
from snnkern.control import timing

pytestmark = [needs_cpu, pytest.mark.benchmark(disable_gc=True)]

BATCHES = (1, 16, 256, 1024)
OBSERVATIONS = 512  # decided on in turn, and at least FEWEST_DECISIONS of every row
FEWEST_DECISIONS = 4

TABLE = Suite(
    title="Whole decisions, td3-halfcheetah (17-256-256-6). µs: median time of a call. k/s: 1000 decisions of a row "
    "per second.\nspikes: sent per decision and row, both hidden layers.",
    setting=("call", "batch", "timesteps"),
    figures={
        "µs": lambda info: f"{info['seconds'] * 1e6:,.{1 if info['seconds'] >= 1e-4 else 2}f}",
        "k/s": lambda info: f"{info['decisions_per_second'] / 1e3:,.1f}",
        "spikes": lambda info: f"{info['spikes_per_decision']:,.0f}",
    },
)


@pytest.fixture(scope="module")
def task() -> comparison.Task:
    try:
        return comparison.record()
    except snnkern.errors.Error as error:
        pytest.skip(f"no HalfCheetah to record: {error}")


@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize("timesteps", TIMESTEPS, ids=lambda timesteps: f"T{timesteps}")
@pytest.mark.parametrize("batch", BATCHES, ids=lambda batch: f"B{batch}")
@pytest.mark.parametrize("call", ["act", "tensor"])
def test_decisions(benchmark, report, case_seconds, threads, task, call, batch, timesteps, neuron):
    inputs = task.observations.shape[1]
    observations = timing.rows(task.observations, batch, max(OBSERVATIONS // batch, FEWEST_DECISIONS))
    given = list(observations) if call == "act" else list(torch.from_numpy(observations).reshape(-1, batch, inputs))
    snn = task.convert(neuron, timesteps)
    decide = snn.act if call == "act" else snn
    spikes = []
    for observation in given:
        assert torch.as_tensor(decide(observation)).isfinite().all()
        spikes.append(snn.spikes.sum() / batch)

    benchmark.group = f"decisions, batch {batch}"
    # What is timed is the next decision, and nothing of Python but that call.
    timed = time_in_rounds(benchmark, Call(next, map(decide, itertools.cycle(given))), case_seconds)
    if timed is None:
        return
    seconds = float(np.median(timed.call))
    report(
        TABLE,
        {
            "neuron": neuron,
            "call": call,
            "batch": batch,
            "timesteps": timesteps,
            "threads": threads,
            "seconds": seconds,
            "decisions_per_second": batch / seconds,
            "spikes_per_decision": float(np.mean(spikes)),
        },
    )
