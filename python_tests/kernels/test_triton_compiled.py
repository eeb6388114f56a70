"""The Triton kernels compiled for GPUs that are not here: no local memory, tensor cores, shared memory, the page."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

import gradient_tables
import triton_compiled
import triton_tables
import visual_tables
from h100 import PAGE
from machine_code import KINDS, ROOT, TARGETS
from support.builders import run_cases
from support.cases import actor_parts
from triton_compiled import GRADIENT_FORMS, SHARED, VISUAL, WIDTHS, Case

from snnkern import IF, Dynamics
from snnkern.kernels.backends import Problem
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.backends.triton.engine import TILES, Engine
from snnkern.kernels.surrogates import Surrogate

FORMS = tuple(GRADIENT_FORMS)
MOST_REGISTERS = {"IF": 40, "SNM": 40, "MT": 64, "DC": 64, "LIF": 40}
# Which instruction multiplies a tile of 64 rows; one of 16 rows is too small for the newer ones.
PRODUCTS = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "sm_100": "tcgen05.mma"}

IN_PARTS = "after = after + (sums[step] + added[step],)"  # a line of the actor's

pytestmark = pytest.mark.skipif(bool(triton_compiled.missing()), reason=triton_compiled.missing())


def check(kernel: triton_compiled.Compiled) -> None:
    case = kernel.case
    fused = set(kernel.fused) - {"result = tl.fma(a, b, c)"}
    if case.kernel == "gradient":  # of which the compiler merges some, which then belong to another line or to none
        fused = {line for line in fused - {"", "def gradient_kernel("} if "times_plus(" not in line}
    assert not fused, kernel
    assert kernel.local == 0, kernel
    of_all, of_one = SHARED[case.target]
    assert kernel.shared <= of_one, kernel
    if case.kernel == "gradient":
        crowded = case.form == FORMS[-1] or case.surrogate is Surrogate.SIGMOID
        crowded |= (case.kind, case.target) == ("DC", "sm_100")
        assert kernel.warps >= (8 if crowded else 12), kernel
        ordered = [line for line in kernel.barriers if line.startswith("tl.debug_barrier()")]
        assert bool(ordered) == case.form.startswith("16 steps"), kernel
        return
    if case.kernel == "neuron":
        assert kernel.registers <= MOST_REGISTERS[case.kind], kernel
        assert kernel.warps >= 32, kernel
        return
    tile = triton_compiled.tile_of(case)
    wanted = "mma.sync" if tile.rows == 16 else PRODUCTS[case.target]
    assert [name for name, count in kernel.products.items() if count] == [wanted], kernel
    assert kernel.threads == 32 * tile.warps
    assert kernel.warps >= tile.resident * tile.warps, kernel
    assert kernel.shared * tile.resident <= of_all, kernel
    # Tensor cores cut off what they add: in three passes, float32 additions take what they have added up in parts.
    assert bool(kernel.added[IN_PARTS]) == (case.kernel == "actor" and case.precision == "float32"), kernel
    if case.kernel in VISUAL:
        return
    # Behind each hidden layer, and where actions wait in memory for the next neurons of the last one.
    barriers = [line for line in kernel.barriers.elements() if line.startswith("tl.debug_barrier()")]
    assert len(barriers) == len(case.widths) - 2 + 1, kernel
    if case.widths == WIDTHS:  # of narrow layers, weights may come to registers instead
        assert kernel.strays == 0, kernel


@pytest.mark.costly
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", MOST_REGISTERS)
def test_default_neuron_kernels_fit_every_target(kind, target) -> None:
    check(triton_compiled.compile_one(Case("neuron", kind, target, "float32", "a sequence in, spikes out")))


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "target", "form", "surrogate"),
    [
        *((kind, "sm_90", FORMS[0], Surrogate.TRIANGLE) for kind in MOST_REGISTERS),
        pytest.param("DC", "sm_80", FORMS[0], Surrogate.SIGMOID, marks=pytest.mark.thorough),
        ("DC", "sm_100", FORMS[0], Surrogate.ATAN),
        pytest.param("DC", "sm_90", FORMS[-1], Surrogate.TRIANGLE, marks=pytest.mark.thorough),
    ],
)
def test_gradient_kernels_fit_their_targets(kind, target, form, surrogate) -> None:
    check(triton_compiled.compile_one(Case("gradient", kind, target, "float32", form, surrogate=surrogate)))


@pytest.mark.costly
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_takes_few_instructions(kind) -> None:
    """So few, in bfloat16 too, that an H100 waits for memory: 4 numbers of 2 bytes in and out."""
    case = Case("neuron", kind, "sm_90", "bfloat16", "a sequence in, spikes out")
    kernel = triton_compiled.compile_one(case)
    check(kernel)
    assert kernel.instructions is not None
    assert 0 < kernel.instructions.issued / triton_tables.width(case) <= 34.5


@pytest.mark.costly
@pytest.mark.parametrize(
    ("kind", "target"), [("IF", "sm_80"), ("LIF", "sm_80"), ("SNM", "sm_90"), ("DC", "sm_90"), ("MT", "sm_100")]
)
def test_default_actor_kernels_fit_their_targets(kind, target) -> None:
    check(triton_compiled.compile_one(Case("actor", kind, target, "float32", str(TILES[0].rows))))


@pytest.mark.costly
@pytest.mark.parametrize("kernel", VISUAL)
@pytest.mark.parametrize(
    ("kind", "target"), [*((kind, "sm_90") for kind in KINDS), ("SNM", "sm_80"), ("SNM", "sm_100")]
)
def test_kernels_of_visual_actors_fit_their_targets(kind, target, kernel) -> None:
    """DrQ-v2's. Neurons have no fused multiply-add, as those of the other kernels."""
    for tile in TILES[::2] if kind == "SNM" else TILES[:1]:
        compiled = triton_compiled.compile_one(Case(kernel, kind, target, "float32", str(tile.rows)))
        check(compiled)
        assert not compiled.fused


@pytest.mark.costly
@pytest.mark.parametrize("kernel", ["neuron", "gradient", "actor"])
def test_a_batch_of_one_compiles(kernel) -> None:
    """Triton takes the number 1 for a constant, which has no methods."""
    dynamics = Dynamics(IF(), 3)
    one, threshold = torch.zeros(1, 17), torch.ones(17)
    problem = Problem(torch.zeros(3, 1, 17), threshold, one, dynamics, None, None, wants_spikes=True)
    with triton_compiled.caught("sm_90") as kernels:
        if kernel == "neuron":
            launch.neuron(problem)
        elif kernel == "gradient":
            launch.neuron_gradients(problem, problem.current, Surrogate.TRIANGLE)
        else:
            engine = Engine(actor_parts((3, 17, 2), dynamics), "float32")
            engine.bind([one], torch.zeros(1, 1, dtype=torch.int64), None)
            engine.decide(torch.zeros(1, 3), False, 1)
    assert len(kernels) == 1


def pinned(name: str) -> str:
    """The release that a variable of the Makefile names."""
    return re.search(rf"^{name} := \w+==(\S+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]


@pytest.mark.thorough
def test_kernels_compile_with_the_oldest_release_that_is_promised() -> None:
    """`pyproject.toml` promises it, `make` installs it into a folder of its own."""
    oldest = pinned("OLDEST_TRITON")
    assert f"triton>={oldest.removesuffix('.0')};" in (ROOT / "pyproject.toml").read_text()
    folder = Path(sys.prefix) / "triton-oldest"
    if not folder.exists():
        pytest.skip(f"no {folder}, where make installs Triton {oldest}")
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    run_cases(["kernels/triton_release_cases.py"], "not long", {"PYTHONPATH": path, "SNNKERN_TRITON_RELEASE": oldest})


@pytest.mark.parametrize(
    ("release", "new_enough"), [("3.5.1", False), ("3.6.0", True), ("3.10.0+git1b2c", True), ("4.0", True)]
)
def test_a_release_older_than_promised_is_named(release, new_enough, monkeypatch) -> None:
    monkeypatch.setattr(launch, "release", lambda: release)
    wanted = "" if new_enough else f"Triton {release} is too old: 3.6 or newer is needed"
    assert launch.too_old() == wanted


@pytest.mark.long
def test_every_kernel_fits_every_target_and_the_page_shows_it() -> None:
    kernels = triton_compiled.compile_all([*triton_compiled.actors(), *triton_compiled.neurons()])
    for kernel in kernels:
        check(kernel)
    page = PAGE.read_text()
    if f"Triton {launch.release()}." not in page:
        pytest.skip(f"the page was drawn with another Triton than {launch.release()}")
    assert triton_tables.compiled_table(kernels) in page
    assert triton_tables.instructions_table(kernels) in page
    assert triton_tables.parts_table(kernels) in page


@pytest.mark.long
def test_every_gradient_kernel_fits_every_target_and_the_page_shows_it() -> None:
    kernels = triton_compiled.compile_all(triton_compiled.gradients())
    for kernel in kernels:
        check(kernel)
    page = PAGE.read_text()
    if f"Triton {launch.release()}." not in page:
        pytest.skip(f"the page was drawn with another Triton than {launch.release()}")
    assert gradient_tables.compiled_table(kernels) in page
    assert gradient_tables.predicted_table(kernels) in page


@pytest.mark.long
def test_every_kernel_of_a_visual_actor_fits_every_target_and_the_page_shows_it() -> None:
    kernels = triton_compiled.compile_all(triton_compiled.visual())
    for kernel in kernels:
        check(kernel)
    for kernel in triton_compiled.compile_all(triton_compiled.visual(precisions=("tf32", "bf16"))):
        check(kernel)
    page = PAGE.read_text()
    if f"Triton {launch.release()}." not in page:
        pytest.skip(f"the page was drawn with another Triton than {launch.release()}")
    assert visual_tables.compiled_table(kernels) in page
    assert visual_tables.predicted_table(kernels) in page


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
def test_actors_of_other_widths_fit_too(kind, target) -> None:
    for widths in ((376, 400, 300, 17), (17, 64, 64, 6)):
        for tile in TILES:
            check(triton_compiled.compile_one(Case("actor", kind, target, "float32", str(tile.rows), widths=widths)))


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("levels", [1, 7, 24])
@pytest.mark.parametrize("kind", ["MT", "DC"])
def test_other_numbers_of_levels_fit_too(kind, levels, target) -> None:
    for tile in TILES:
        check(triton_compiled.compile_one(Case("actor", kind, target, "float32", str(tile.rows), levels=levels)))
