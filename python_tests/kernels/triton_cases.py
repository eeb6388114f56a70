"""The Triton kernels of neurons: bit for bit as the reference.

In Triton's interpreter, on CPU tensors; or, where TRITON_INTERPRET is not set, the same cases on a GPU.
`test_triton.py` runs this file in processes of its own: the variable must be set before triton is first imported.
    TRITON_INTERPRET=1 python -m pytest python_tests/kernels/triton_cases.py            # -m long: the rest
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.cases import (
    ALL_DTYPES,
    CARRYING,
    DEFAULT_NEURONS,
    INPUTS,
    NEURONS,
    PARAMETERS,
    SIZES,
    TIMESTEPS,
    Layer,
    Size,
    assert_decisions_are_the_reference,
    assert_is_reference,
    assert_same_bits,
    each,
    neighbours,
    random_layer,
    run_layer,
)
from support.layouts import LAYOUTS, strided, transposed
from support.triton_device import DEVICE, LastProgram, guarded, interpreted, untouched
from torch import Tensor

import snnkern
from snnkern import Dynamics
from snnkern.kernels.backends import Problem, choice
from snnkern.kernels.backends.triton import environment, launch
from snnkern.kernels.backends.triton.neurons import LEAST, MOST_STEPS, TALLY
from snnkern.kernels.neurons import Kind

pytest_plugins = ["support.triton_device"]  # for its fixtures
HALVES = {name: ALL_DTYPES[name] for name in ("bfloat16", "float16")}


def assert_triton_is_reference(layer: Layer) -> None:
    assert_is_reference(layer, "triton", DEVICE)


@interpreted
def test_runs_in_the_interpreter_and_only_by_name() -> None:
    status = {status.name: status for status in snnkern.backends()}["triton"]
    assert status.available
    assert "interpreter" in status.detail
    for dtype in (torch.float32, torch.bfloat16):
        assert launch.serves(torch.device("cpu"), dtype)
        assert choice.choose("auto", torch.device("cpu"), dtype) is not launch
    with pytest.raises(snnkern.InputError, match=r"'triton' does not compute torch\.float64 tensors on cpu"):
        choice.choose("triton", torch.device("cpu"), torch.float64)


@each("size", {name: SIZES[name] for name in ("B1-N1", "B1-N17", "B3-N257")})
@each("neuron", NEURONS)
def test_neurons_are_bit_identical(neuron, size) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, 3, **CARRYING), size))


@each("neuron", DEFAULT_NEURONS)
def test_rows_may_have_an_alpha_each(neuron) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, 3, **CARRYING), Size(5, 17)).with_row_alpha())


@each("change", INPUTS)
@each("neuron", {name: NEURONS[name] for name in ("if", "snm", "mt-L24", "dc-L4")})
def test_neurons_are_bit_identical_for_hard_inputs(neuron, change) -> None:
    layer = random_layer(Dynamics(neuron, 4, **CARRYING), Size(3, 63))  # a third of infinity counts in the fourth step
    assert_triton_is_reference(change(layer))


@each("change", INPUTS)
def test_a_leak_of_nothing_is_if(change) -> None:
    layer = change(random_layer(Dynamics(snnkern.IF(), 3, **CARRYING), Size(3, 17)))
    leakless = replace(layer, dynamics=replace(layer.dynamics, neuron=snnkern.LIF(leak=0)))
    for mine, other in zip(run_layer(leakless, "triton", DEVICE), run_layer(layer, "triton", DEVICE), strict=True):
        assert_same_bits(mine, other)


@each("timesteps", {name: TIMESTEPS[name] for name in ("T1", "T16")})
@each("neuron", DEFAULT_NEURONS)
def test_neurons_are_bit_identical_for_other_numbers_of_timesteps(neuron, timesteps) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 17)))


def below(value: float) -> float:
    return float(torch.nextafter(torch.tensor(value), torch.tensor(0.0)))


SMALLEST_THRESHOLD = LEAST.value * 2**24  # whose 24 levels may all be divided
# Currents, thresholds, and the paths on which DC's steps are taken; the fast path comes first where it may do.
WAYS = {
    "ordinary": ([1.0, -0.5, 0.0], [1.0, 2.0, 0.5], {"fast"}),
    "smallest-fast-current": ([LEAST.value, -LEAST.value, 0.0], [1.0, 2.0, 0.5], {"fast"}),
    "a-small-current": ([1.0, -below(LEAST.value), 0.0], [1.0, 2.0, 0.5], {"fast", "careful"}),
    "a-denormal-current": ([1e-42, 1.0, 0.0], [1.0, 2.0, 0.5], {"fast", "careful"}),
    "smallest-fast-threshold": ([0.0, 1.0, -1.0], [0.0, SMALLEST_THRESHOLD, 1.0], {"fast"}),
    "a-small-threshold": ([0.0, 1.0, -1.0], [1.0, below(SMALLEST_THRESHOLD), 1.0], {"careful"}),
}


@pytest.fixture
def paths(monkeypatch) -> set[str]:
    """The paths on which a kernel in the interpreter has taken steps."""
    from snnkern.kernels.backends.triton import neurons as triton_neurons

    taken = set()

    def spy(name, way_of):
        function = getattr(triton_neurons, name)

        def run(*args, **options):
            taken.add(way_of(args))
            return function(*args, **options)

        monkeypatch.setattr(triton_neurons, name, run)

    spy("fire_level_regular", lambda _: "fast")
    spy("fire_level", lambda _: "careful")
    spy("fire_single", lambda args: "fast" if args[-1] == TALLY.value else "careful")
    return taken


@interpreted
@each("case", WAYS)
def test_steps_are_taken_on_the_fast_path_as_far_as_it_is_exact(case, paths) -> None:
    """A small current is no matter to MT, which does not divide it."""
    currents, thresholds, wanted = case
    for neuron in (NEURONS["mt-L4"], NEURONS["dc-L24"]):
        paths.clear()
        layer = random_layer(Dynamics(neuron, 6, **CARRYING), Size(16, 3))
        layer.current[:, 0] = torch.tensor(currents)
        assert_triton_is_reference(replace(layer, threshold=torch.tensor(thresholds), carry=torch.zeros(16, 3)))
        assert paths == (wanted if neuron.kind is Kind.DC else {"fast"} & wanted or wanted)


@each("other", {"fast": 1.0, "careful": 2.0**-70})
def test_levels_are_found_at_their_bounds(other) -> None:
    """Of neurons of threshold 1, beside one whose threshold decides how levels are found."""
    levels = 2.0 ** -torch.arange(4)
    bounds = neighbours(0.75 * levels)
    potential = torch.cat([bounds, -bounds, levels, torch.zeros(1)])[:, None].expand(-1, 4)
    sent = torch.tensor([0.0, 1.0, 0.125, 0.0])  # before, and may be taken back
    current, threshold = torch.stack([sent.expand_as(potential), potential]), torch.tensor([1.0, 1.0, 1.0, other])
    for neuron in (snnkern.MT(initial_fraction=0.0), snnkern.DC(initial_fraction=0.0)):
        assert_triton_is_reference(Layer(current, threshold, torch.zeros_like(potential), Dynamics(neuron, 2)))


def test_as_many_steps_as_a_tally_counts_are_taken_on_the_fast_path() -> None:
    """A neuron that fires at each of them adds `TALLY` and 1."""
    most = (MOST_STEPS.value + 1) * TALLY.value
    assert MOST_STEPS.value * (TALLY.value + 1) < 2**31 <= most
    assert MOST_STEPS.value < TALLY.value


@interpreted
@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("snm", "mt", "dc")})
def test_so_many_timesteps_that_the_fast_path_ends(monkeypatch, neuron, paths) -> None:
    """The border is moved to where there are few."""
    import triton.language as tl

    from snnkern.kernels.backends.triton import neurons as triton_neurons

    monkeypatch.setattr(triton_neurons, "MOST_STEPS", tl.constexpr(4))
    for timesteps, wanted in ((4, {"fast"}), (5, {"careful"})):
        paths.clear()
        assert_triton_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 17)))
        assert paths == wanted


@interpreted
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_beyond_a_tensor(neuron) -> None:
    """The step behind the last one, rows and columns of a tile that are no neurons."""
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(3, 19)).with_row_alpha()
    for form in (layer, layer.constant()):
        run_layer(form.map(guarded), "triton", DEVICE)


FAR = {"rows": (2**25 + 4, None), "columns": (4, (64, 1, 2**26)), "steps": (4, (2**31, 64, 1))}


@interpreted
@each("far", FAR)
def test_offsets_are_of_more_than_32_bits(far, monkeypatch) -> None:
    """The last tile of a layer whose rows, columns or steps stand far apart; what lies between is never touched."""
    from snnkern.kernels.backends.triton import neurons as triton_neurons

    batch, strides = far
    small = random_layer(Dynamics(DEFAULT_NEURONS["if"], 3, **CARRYING), Size(4, 64), torch.bfloat16)
    wanted = run_layer(small, "triton", DEVICE)
    carry = untouched(batch, 64, dtype=torch.bfloat16)
    carry[-4:] = small.carry
    if strides is None:
        current = untouched(3, batch, 64, dtype=torch.bfloat16)
    else:
        reach = 1 + sum((size - 1) * stride for size, stride in zip((3, 4, 64), strides, strict=True))
        current = untouched(reach, dtype=torch.bfloat16).as_strided((3, 4, 64), strides)
    current[:, -4:] = small.current
    monkeypatch.setattr(triton_neurons, "neuron_kernel", LastProgram(triton_neurons.neuron_kernel, monkeypatch))
    for spikes in (True, False):
        output, after, counts = launch.neuron(
            Problem(current, small.threshold, carry, small.dynamics, None, None, spikes)
        )
        assert_same_bits(output[..., -4:, :], wanted.spikes if spikes else wanted.mean)
        assert_same_bits(after[-4:], wanted.carry)
        assert_same_bits(counts[-4:], wanted.counts)


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 value as it is stored: a GPU rounds to the nearest, the interpreter truncates to bfloat16."""
    if dtype == torch.bfloat16 and environment.INTERPRETED:
        value = (value.view(torch.int32) & -0x10000).view(torch.float32)
    return value.to(dtype)


@each("dtype", HALVES)
@each("neuron", DEFAULT_NEURONS)
def test_halves_are_stored_and_computed_in_float32(neuron, dtype) -> None:
    layer = random_layer(Dynamics(neuron, 4, **CARRYING), Size(3, 17), dtype)
    result, wanted = run_layer(layer, "triton", DEVICE), run_layer(layer.to(torch.float32), "reference")
    for actual, expected in zip(result, wanted, strict=True):
        assert_same_bits(actual, expected if actual.dtype == torch.int64 else narrowed(expected, dtype))


@each("layout", LAYOUTS)
@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("snm", "dc")})
def test_currents_may_have_any_strides(neuron, layout) -> None:
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(3, 19))
    assert_triton_is_reference(replace(layer, current=layout(layer.current)))


def test_strided_thresholds_carries_and_biases() -> None:
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 3, **CARRYING), Size(3, 19))
    assert_triton_is_reference(
        replace(
            layer,
            threshold=strided(layer.threshold, 0),
            bias=torch.tensor(0.1).expand(19),
            carry=transposed(layer.carry, 0, 1),
        )
    )


@pytest.mark.parametrize(("batch", "neurons"), [(0, 17), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
def test_empty_layers_give_empty_results(batch, neurons) -> None:
    assert_triton_is_reference(random_layer(Dynamics(DEFAULT_NEURONS["mt"], 3), Size(batch, neurons)))


@each("neuron", DEFAULT_NEURONS)
def test_the_carry_stays_that_of_the_reference_over_decisions(neuron) -> None:
    dynamics = Dynamics(neuron, 3, alpha=1.0, memory=1.0)
    assert_decisions_are_the_reference(dynamics, Size(3, 17), "triton", DEVICE, decisions=2)


@pytest.mark.long
@each("size", SIZES)
@each("timesteps", TIMESTEPS)
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_at_every_size_and_number_of_timesteps(neuron, timesteps, size) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), size))


@pytest.mark.long
@each("change", INPUTS)
@each("neuron", NEURONS)
@each("timesteps", {"T2": 2, "T9": 9})
@pytest.mark.parametrize("seed", range(3))
def test_neurons_are_bit_identical_for_more_hard_inputs(neuron, change, timesteps, seed) -> None:
    assert_triton_is_reference(change(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 300), seed=seed)))


@pytest.mark.long
@each("parameters", PARAMETERS)
@each("neuron", NEURONS)
def test_carry_is_bit_identical_for_every_parameter(neuron, parameters) -> None:
    layer = random_layer(Dynamics(neuron, 3, **parameters), Size(3, 17))
    for shift in (0.0, 3.0, -3.0):
        assert_triton_is_reference(replace(layer, current=layer.current + shift))
