"""What nvcc makes of the CUDA kernels for every target: registers, local memory, and the page that says so."""

from __future__ import annotations

import cuda_compiled
import cuda_tables
import pytest
from h100 import PAGE
from machine_code import tool

MOST_REGISTERS = {"IF": 40, "SNM": 40, "MT": 64, "DC": 64, "LIF": 40}

needs_disassembler = pytest.mark.skipif(
    tool("nvdisasm") is None, reason="nvdisasm is neither on the path nor in a triton package"
)


@pytest.fixture(scope="module")
def kernels():
    """All of them, compiled with the build's flags for the build's targets."""
    if why := cuda_compiled.missing():
        pytest.skip(why)
    return cuda_compiled.compile_all()


def test_every_kernel_is_compiled_for_every_target(kernels) -> None:
    by_target = {target: [one for one in kernels if one.target == target] for target in ("sm_80", "sm_90", "sm_100")}
    assert sum(map(len, by_target.values())) == len(kernels)
    for compiled in by_target.values():
        assert {one.kind for one in compiled if one.kernel == "actor"} == set(MOST_REGISTERS)
        neurons = {(one.kind, one.dtype) for one in compiled if one.kernel == "neuron"}
        assert neurons == {(kind, dtype) for kind in MOST_REGISTERS for dtype in ("float32", "float64")}


def test_nothing_is_spilled_and_nothing_lies_in_local_memory(kernels) -> None:
    assert [one for one in kernels if one.stack or one.spills] == []


def test_registers_leave_room_for_the_warps_that_are_planned(kernels) -> None:
    for one in kernels:
        most = MOST_REGISTERS[one.kind] if one.kernel == "neuron" else 128
        assert one.registers <= most, one
        planned = {40: 48, 64: 32, 128: 16}[most]
        assert one.warps >= planned, one


@needs_disassembler
def test_memory_is_read_by_sixteen_bytes(kernels) -> None:
    for one in kernels:
        assert one.wide_loads or (one.kernel == "neuron" and one.width == 1), one


@needs_disassembler
def test_no_multiplication_is_fused_with_an_addition(kernels) -> None:
    """But for those that are asked for, in divisions: kernels without a division have none."""
    plain = [one for one in kernels if one.kind in ("IF", "SNM", "LIF") and one.kernel == "neuron" and one.flags[-1]]
    assert len(plain) == 3 * 3 * 3  # kinds, targets, and one of float64 beside two widths of float32
    assert [one for one in plain if one.fused] == []


@needs_disassembler
def test_a_step_takes_few_instructions(kernels) -> None:
    """So few that memory is what an H100 waits for: 4 numbers of 4 bytes in and out, or in alone."""
    for (kind, form), count in cuda_tables.instructions(kernels).items():
        if "constant" not in form:
            assert 0 < count <= {"IF": 45, "SNM": 60, "MT": 105, "DC": 140}[kind], (kind, form)


def test_the_page_shows_these_figures(kernels) -> None:
    page = PAGE.read_text()
    if f"nvcc {cuda_compiled.version()} " not in page:
        pytest.skip(f"the page was drawn with another nvcc than {cuda_compiled.version()}")
    assert cuda_compiled.compiled_table(kernels) in page
    if tool("nvdisasm"):
        assert cuda_tables.instructions_table(kernels) in page


def test_output_that_says_something_else_is_refused() -> None:
    said = """ptxas info    : Compiling entry function '_ZN1k12actor_kernelILNS_4KindE2ELb0EEEv' for 'sm_90'
ptxas info    : Function properties for _ZN1k
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 116 registers, used 1 barriers"""
    (kernel,) = cuda_compiled.parse(said, "sm_90")
    assert (kernel.kernel, kernel.kind, kernel.registers, kernel.stack, kernel.spills) == ("actor", "MT", 116, 8, 16)
    with pytest.raises(RuntimeError, match="something else"):
        cuda_compiled.parse(said.replace("Used", "Uses"), "sm_90")
