"""The comparison of training steps: all contenders have the same gradients, and the table can be drawn."""

from __future__ import annotations

import json

import comparison
import pytest
import torch
import training
from support import ROOT
from support.cases import needs_cpu

import snnkern
from snnkern.control import timing

pytestmark = needs_cpu


@pytest.fixture(scope="module")
def task() -> comparison.Task:
    """The comparison's actor and thresholds, on fewer observations."""
    try:
        return comparison.record(steps=400)
    except snnkern.errors.Error as error:
        pytest.skip(f"no HalfCheetah to record: {error}")


@pytest.mark.parametrize("timesteps", [2, 4])
def test_contenders_have_the_same_gradients(task, timesteps):
    steps = training.contenders(task, timesteps)
    training.check(steps, torch.from_numpy(timing.rows(task.observations, 64, 1)[0]))


def test_the_check_refuses_other_gradients(task):
    steps = training.contenders(task, 4)
    steps["loop"] = training.contenders(task, 3)["loop"]
    with pytest.raises(AssertionError, match="loop: gradient 0 differs by"):
        training.check(steps, torch.from_numpy(timing.rows(task.observations, 64, 1)[0]))


def test_the_table_is_that_of_the_data():
    results = json.loads((ROOT / "bench" / "results" / "training.json").read_text())
    table = training.training_table(results)
    assert table in (ROOT / "docs" / "performance.md").read_text()
    assert all(name in table for name in training.NAMES.values())
