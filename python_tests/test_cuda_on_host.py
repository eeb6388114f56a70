"""The runtime that runs CUDA kernels on the host finds the faults that it is there for."""

import pytest
from cuda_on_host import ORDERS, run_fault, take_turns


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
    assert len(totals) == len(ORDERS)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("a barrier in a branch", "the kernel: threads wait for others that never come"),
        ("a part of a warp", "an operation of a warp that is not whole"),
        ("different operations", "lanes of a warp are at different operations"),
    ],
)
def test_faults_are_named(module, fault, message) -> None:
    assert run_fault(module, fault)[1] == message
