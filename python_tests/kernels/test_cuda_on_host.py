"""The runtime that runs CUDA kernels on the host finds the faults that it is there for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from support import ROOT
from support.cases import DEFAULT_NEURONS, needs_cpu
from support.cuda_actors import decide, twins
from support.cuda_on_host import ORDERS, barriers, run_cluster_fault, run_fault, take_turns

INVALID = "cudaErrorInvalidConfiguration"


@pytest.fixture(params=ORDERS)
def module(request, cuda_on_host):
    """In each order of turns."""
    take_turns(cuda_on_host, request.param)
    yield cuda_on_host
    take_turns(cuda_on_host, "forward")


def test_a_kernel_without_fault_gives_its_sum(module) -> None:
    assert run_fault(module, "none") == (sum(range(64)), "")


def test_without_a_barrier_the_sum_depends_on_the_order(cuda_on_host) -> None:
    totals = set()
    for order in ORDERS:
        take_turns(cuda_on_host, order)
        total, message = run_fault(cuda_on_host, "no barrier")
        assert message == ""
        totals.add(total)
    take_turns(cuda_on_host, "forward")
    assert len(totals) >= 3


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a barrier in a branch", "threads wait for others that never come"),
        ("a part of a warp", "an operation of a warp that is not whole"),
        ("different operations", "lanes of a warp are at different operations"),
        ("outside shared memory", "a thread wrote outside of shared memory"),
        ("a copy that nobody waits for", "a thread ends before its copies"),
        ("different numbers at a barrier", "threads at a barrier wait for different numbers of others"),
        (
            "more shared memory than allowed",
            "the launch of the kernel with 1 blocks of 64 threads failed: on the host (cudaErrorInvalidValue)",
        ),
    ],
)
def test_faults_are_named(module, fault, message) -> None:
    if fault == "outside shared memory" and "address" in os.environ.get("SNNKERN_HOST_FLAGS", ""):
        pytest.skip("the address sanitizer would end the process")
    assert run_fault(module, fault)[1] == message


def test_a_misaligned_address_is_named(module) -> None:
    if "sanitize" in os.environ.get("SNNKERN_HOST_FLAGS", ""):
        pytest.skip("the sanitizer would end the process")
    assert re.fullmatch(r"misaligned address at faults.cpp:\d+", run_fault(module, "a misaligned address")[1])


def test_a_cluster_without_fault_gives_its_sum(module) -> None:
    assert run_cluster_fault(module, "none") == (sum(range(256)), "")


@pytest.mark.parametrize("fault", ["no wait for copies", "no wait for blocks", "the wrong parity"])
def test_without_a_wait_what_comes_late_is_missed(cuda_on_host, fault) -> None:
    """In some order of turns; where all comes at once, nobody notices."""
    found = set()
    for order in ORDERS:
        take_turns(cuda_on_host, order)
        found.add(run_cluster_fault(cuda_on_host, fault))
    take_turns(cuda_on_host, "forward")
    assert found - {(sum(range(256)), "")}


@pytest.mark.parametrize(
    ("fault", "messages"),
    [
        ("a barrier that is not made", {"a barrier that nobody has made"}),
        ("a barrier that is not published", {"a bulk copy does not see its barrier"}),
        ("fewer bytes announced", {"other bytes came than were announced", "threads wait for others that never come"}),
        ("more bytes announced", {"threads wait for others that never come"}),
        ("bytes announced twice", {"bytes are announced a second time"}),
        ("a misaligned copy", {"a bulk copy that is not aligned"}),
        ("a copy outside shared memory", {"a bulk copy outside of shared memory"}),
        ("an arrival without a wait", {"a thread arrives again and has not waited"}),
        ("a wait without an arrival", {"a thread waits and has not arrived"}),
        (
            "a grid of no whole clusters",
            {"the launch of the kernel with 5 blocks of 64 threads failed: on the host (" + INVALID + ")"},
        ),
    ],
)
def test_faults_of_clusters_are_named(module, fault, messages) -> None:
    assert run_cluster_fault(module, fault)[1] in messages


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("sent before all have begun", "the memory of a block that has not begun"),
        ("sent to a block that has ended", "the memory of a block that has ended"),
        ("an end before the copies come", "a block ended before all its copies had come"),
    ],
)
def test_faults_of_clusters_are_named_in_some_order(cuda_on_host, fault, message) -> None:
    messages = set()
    for order in ORDERS:
        take_turns(cuda_on_host, order)
        messages.add(run_cluster_fault(cuda_on_host, fault)[1])
    take_turns(cuda_on_host, "forward")
    assert message in messages


@needs_cpu
@pytest.mark.thorough
@pytest.mark.parametrize(("kernel", "barriers"), [("actor", 7), ("cluster", 14), ("integer", 5)])
def test_a_kernel_needs_each_of_its_barriers(cuda_on_host, kernel, barriers) -> None:
    """Without one of them, whichever it is, some order of threads gives other results."""
    program = ROOT / "python_tests" / "support" / "cuda_on_host" / "without_barriers.py"
    if "sanitize" in os.environ.get("SNNKERN_HOST_FLAGS", ""):
        pytest.skip("a sanitizer would report each of them")
    done = subprocess.run(
        [sys.executable, str(program), cuda_on_host.__file__, kernel], capture_output=True, text=True, check=True
    )
    everyone, *without = json.loads(done.stdout).values()
    assert everyone == "right"
    assert len(without) == barriers
    assert "right" not in without


@needs_cpu
@pytest.mark.parametrize("neuron", DEFAULT_NEURONS)
def test_two_barriers_per_layer_and_sixteen_steps_do(cuda_on_host, cuda_device, neuron) -> None:
    if cuda_device.type != "cpu":
        pytest.skip("barriers are counted on the host")
    for timesteps, tiles in ((8, 1), (16, 1), (17, 2), (32, 2)):
        actor, _ = twins((17, 256, 256, 6), neuron, cuda_device, timesteps)
        decide(actor, torch.zeros(1, 17))
        assert barriers(cuda_on_host) <= 2 * (1 + tiles)
