"""What nvcc makes of the CUDA kernels for every target: registers, local memory, and the page that says so."""

from __future__ import annotations

import re

import cluster_tables
import cuda_compiled
import cuda_tables
import gradient_tables
import pytest
from h100 import PAGE, assumptions_table
from machine_code import TARGETS, tool

from snnkern.kernels.surrogates import SURROGATES

MOST_REGISTERS = {"IF": 40, "SNM": 40, "MT": 64, "DC": 64, "LIF": 40}
DTYPES = ("float32", "float64")  # of the kernels of layers
# Of gradients: of neurons without levels, and with them.
PLAIN_GRADIENT_REGISTERS, GRADIENT_REGISTERS = {"float32": 72, "float64": 80}, {"float32": 96, "float64": 128}
# The most instructions of a thread in a step of a neuron kernel.
MOST_INSTRUCTIONS = {"IF": 45, "SNM": 60, "MT": 105, "DC": 140}

disassembles = tool("nvdisasm") is not None  # on the path or in a triton package
# The H100's, and in a run of all cases the others.
each_target = pytest.mark.parametrize(
    "target", [target if target == "sm_90" else pytest.param(target, marks=pytest.mark.thorough) for target in TARGETS]
)


def compiled(source: str, target: str) -> list[cuda_compiled.Compiled]:
    """What nvcc makes of a source with the build's flags: for this target alone, and nothing is spilled."""
    if why := cuda_compiled.missing():
        pytest.skip(why)
    (file,) = (file for file in cuda_compiled.SOURCES if file.stem == source)
    kernels = cuda_compiled.compile_one(file, target)
    assert {one.target for one in kernels} == {target}
    assert [one for one in kernels if one.stack or one.spills] == []
    return kernels


def is_of_the_page() -> bool:
    """Whether the compiler is the one that docs/gpu.md was drawn with."""
    return f"nvcc {cuda_compiled.version()} " in PAGE.read_text()


def assert_registers_leave_room(kernels: list[cuda_compiled.Compiled]) -> None:
    """For the warps that are planned."""
    for one in kernels:
        if one.kernel == "gradient":
            most = (GRADIENT_REGISTERS if one.kind in ("MT", "DC") else PLAIN_GRADIENT_REGISTERS)[one.dtype]
        else:
            most = MOST_REGISTERS[one.kind] if one.kernel == "neuron" else {"integer": 168}.get(one.kernel, 128)
        assert one.registers <= most, one
        planned = {40: 48, 64: 32, 72: 28, 80: 24, 96: 20, 128: 16, 168: 12}[most]
        assert one.warps >= planned, one


def test_all_sources_and_targets_are_here() -> None:
    kernels = ["actor_kernel", "cluster_kernel", "gradient_kernel", "integer_kernel", "neuron_kernel"]
    assert [file.stem for file in cuda_compiled.SOURCES] == kernels
    assert cuda_compiled.build_settings()[1] == list(TARGETS)


@each_target
def test_the_kernel_that_looks_for_nan_is_small(target, tmp_path) -> None:
    if why := cuda_compiled.missing():
        pytest.skip(why)
    said = cuda_compiled.said_of(cuda_compiled.FINITE, target, tmp_path / "finite.cubin")
    assert re.findall(r"(\d+) bytes (?:stack|spill)", said) == ["0"] * 3
    assert int(re.findall(r"Used (\d+) registers", said)[0]) <= 32


@each_target
def test_actor_kernels_fit(target) -> None:
    kernels = compiled("actor_kernel", target)
    assert {(one.kernel, one.kind) for one in kernels} == {("actor", kind) for kind in MOST_REGISTERS}
    assert_registers_leave_room(kernels)
    if not disassembles:
        return
    assert [one for one in kernels if not one.wide_loads] == []  # memory is read by sixteen bytes
    if target == "sm_90" and is_of_the_page():  # another compiler may nest loops in another way
        assert_loops_are_found(kernels)


def assert_loops_are_found(kernels: list[cuda_compiled.Compiled]) -> None:
    """Of every kernel that docs/gpu.md predicts; what is counted by hand is found."""
    loops = cuda_tables.loops_of(kernels)
    assert set(loops) == set(MOST_REGISTERS)
    for kind, found in loops.items():
        most = {"IF": 140, "LIF": 140}.get(kind, 185)  # of eight loads and 32 additions, which may multiply first
        assert (found.rows_at_once, found.inputs_at_once) == (cuda_tables.IN_FLIGHT, cuda_tables.FIRST_IN_FLIGHT)
        assert 8 + 32 < found.rows.issued <= most, kind
        assert found.rows.memory == 8 + 2  # and two reads of the list
        assert 0 < found.first_step.issued <= found.step.issued <= 75, kind


@pytest.mark.thorough
@each_target
def test_integer_kernels_fit(target) -> None:
    kernels = compiled("integer_kernel", target)
    assert {(one.kernel, one.kind) for one in kernels} == {("integer", kind) for kind in MOST_REGISTERS}
    assert_registers_leave_room(kernels)
    if disassembles:
        assert [one for one in kernels if not one.wide_loads] == []


@pytest.mark.thorough
@each_target
def test_cluster_kernels_fit(target) -> None:
    kernels = compiled("cluster_kernel", target) if target != "sm_80" else []
    assert {(one.kernel, one.kind) for one in kernels} == (
        {("cluster", kind) for kind in MOST_REGISTERS} if target != "sm_80" else set()
    )
    assert_registers_leave_room(kernels)


def test_without_clusters_the_cluster_kernel_is_empty() -> None:
    if why := cuda_compiled.missing():
        pytest.skip(why)
    assert cuda_compiled.compile_one(cluster_tables.SOURCE, "sm_80") == []


def test_clusters_send_and_wait_as_is_planned() -> None:
    """In machine code: bulk copies, numbers and pieces of 16 bytes for others, and no wait for all that was written."""
    if why := cuda_compiled.missing() or ("" if disassembles else "no nvdisasm"):
        pytest.skip(why)
    for kind, code in cluster_tables.compile_kinds().items():
        assert code.count("UBLKCP") == 3, kind  # weights, biases, thresholds
        assert code.count("STAS") > code.count("STAS.128") > 0, kind
        assert code.count("UCGABAR_ARV") == 1, kind
        assert code.count("MEMBAR.ALL.GPU") == 0, kind  # what a releasing arrival takes
        assert 0 < cluster_tables.Instructions.of(code).row < 8, kind


@each_target
def test_neuron_kernels_fit(target) -> None:
    kernels = compiled("neuron_kernel", target)
    assert {(one.kernel, one.kind, one.dtype) for one in kernels} == {
        ("neuron", kind, dtype) for kind in MOST_REGISTERS for dtype in DTYPES
    }
    assert_registers_leave_room(kernels)
    if not disassembles:
        return
    assert [one for one in kernels if one.width > 1 and not one.wide_loads] == []
    # No multiplication is fused with an addition, but for those that are asked for, in divisions: kernels without a
    # division have none.
    plain = [one for one in kernels if one.kind in ("IF", "SNM", "LIF") and one.flags[-1]]
    assert len(plain) == 3 * 3  # kinds, and one of float64 beside two widths of float32
    assert [one for one in plain if one.fused] == []
    if target == "sm_90":  # so few instructions that memory is what an H100 waits for: 4 numbers of 4 bytes, in and out
        for (kind, form), step in cuda_tables.instructions(kernels).items():
            if "constant" not in form:
                assert 0 < step.issued <= MOST_INSTRUCTIONS[kind], (kind, form)


@each_target
def test_gradient_kernels_fit(target) -> None:
    kernels = compiled("gradient_kernel", target)
    assert {(one.kernel, one.kind, one.surrogate, one.dtype, one.width) for one in kernels} == {
        ("gradient", kind, surrogate, *form)
        for kind in MOST_REGISTERS
        for surrogate in SURROGATES
        for form in (("float32", 2), ("float32", 1), ("float64", 1))
    }
    assert_registers_leave_room(kernels)
    if not disassembles:
        return
    for one in kernels:
        assert one.code is not None
        pairs = sum("LDG.E.64" in line for line in one.code.instructions)  # of two float32 numbers, or one of float64
        assert bool(pairs) == ((one.dtype, one.width) != ("float32", 1)), one
        assert one.code.count("LDS") > 0  # what waits for the way back
        assert one.code.count("STL") + one.code.count("LDL") == 0


@pytest.mark.thorough
def test_the_page_shows_these_figures() -> None:
    if why := cuda_compiled.missing():
        pytest.skip(why)
    if not is_of_the_page():
        pytest.skip(f"the page was drawn with another nvcc than {cuda_compiled.version()}")
    page = PAGE.read_text()
    kernels = cuda_compiled.compile_all()
    assert assumptions_table() in page
    assert cuda_compiled.compiled_table(kernels) in page
    if disassembles:
        assert cuda_tables.instructions_table(kernels) in page
        assert gradient_tables.cuda_table(kernels) in page


def test_output_that_says_something_else_is_refused() -> None:
    said = """ptxas info    : Compiling entry function '_ZN1k12actor_kernelILNS_4KindE2ELb0EEEv' for 'sm_90'
ptxas info    : Function properties for _ZN1k
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 116 registers, used 1 barriers"""
    (kernel,) = cuda_compiled.parse(said, "sm_90")
    assert (kernel.kernel, kernel.kind, kernel.registers, kernel.stack, kernel.spills) == ("actor", "MT", 116, 8, 16)
    with pytest.raises(RuntimeError, match="something else"):
        cuda_compiled.parse(said.replace("Used", "Uses"), "sm_90")
