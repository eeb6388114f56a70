"""The microbenchmarks run: a few cases of each suite, timed for a moment, and what they write down."""

import json
import os
import subprocess
import sys

import pytest
from support import ROOT
from support.cases import needs_cpu

pytestmark = needs_cpu

pytest.importorskip("mujoco")  # decisions are made on observations of HalfCheetah


def run(*arguments: str) -> str:
    """What pytest prints."""
    command = [sys.executable, "-m", "pytest", "bench", "-p", "no:cacheprovider", *arguments]
    # Nothing is timed in a worker, and a test run's variables say that this process is one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
def test_cases_are_timed_and_written_down(tmp_path):
    found = tmp_path / "found.json"
    cases = "B1-N256-dc or B1-T2-mt or B16-T2-if"
    printed = run("--benchmark-only", "--case-seconds=0", f"--benchmark-json={found}", "-k", cases)
    assert "8 passed" in printed
    assert "B1-N256  sequence  neuron_mean" in printed
    assert "tensor  16     2" in printed

    results = json.loads(found.read_text())
    assert results["machine_info"]["snnkern"]["threads"] == 1
    infos = {case["name"]: case["extra_info"] for case in results["benchmarks"]}
    assert len(infos) == 8
    assert {info["threads"] for info in infos.values()} == {1}

    kernel = infos["test_neurons[B1-N256-dc-sequence-neuron_mean]"]
    # 8 steps of current, and once θ, bias, carry, mean and next carry; an int64 of counts.
    assert kernel["bytes"] == 256 * 4 * (8 + 5) + 8
    assert kernel["elements_per_second"] == pytest.approx(8 * 256 / kernel["seconds"])
    lower, median, upper = kernel["share_of_copy"]
    assert 0 < lower <= median <= upper < 10
    spikes = infos["test_neurons[B1-N256-dc-constant-neuron_spikes]"]
    assert spikes["bytes"] == 256 * 4 * (1 + 3 + 8 + 1) + 8

    one, many = infos["test_decisions[act-B1-T2-mt]"], infos["test_decisions[tensor-B16-T2-if]"]
    assert one["decisions_per_second"] == pytest.approx(1 / one["seconds"])
    assert many["decisions_per_second"] == pytest.approx(16 / many["seconds"])
    assert 0 < many["spikes_per_decision"] < one["spikes_per_decision"] < 2 * 2 * 256


@pytest.mark.thorough
def test_cases_run_where_nothing_is_timed():
    printed = run("--benchmark-disable", "-k", "B1024-N256-if or B1024-T1-if")
    assert "6 passed" in printed
