"""The CUDA kernels of neurons, bit for bit as the reference: on the host from the same source, and on a GPU."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.cases import (
    CARRYING,
    DEFAULT_NEURONS,
    INPUTS,
    NATIVE_DTYPES,
    NEURONS,
    SIZES,
    TIMESTEPS,
    Layer,
    Size,
    assert_decisions_are_the_reference,
    assert_is_reference,
    assert_same_bits,
    each,
    needs_cpu,
    random_layer,
    run_layer,
)
from support.cuda_on_host import ORDERS, divide, take_turns
from support.layouts import CUDA_LAYOUTS, unaligned

from snnkern import IF, LIF, Dynamics
from snnkern.kernels import ops
from snnkern.kernels.backends import cuda
from snnkern.kernels.neurons import Kind

MOST_STEPS = 2**16  # of what `divide_normal` is for


def least(dtype: torch.dtype) -> float:
    """What is smaller, and not 0, is small for `divide_normal`."""
    return torch.finfo(dtype).smallest_normal * 8 / torch.finfo(dtype).eps * MOST_STEPS


# No multiple of anything, of what a thread holds, of a warp's reach; several warps, several blocks, more rows than one.
WIDE = {"B2-N1028": Size(2, 1028), "B1-N2049": Size(1, 2049), "B9-N132": Size(9, 132)}


@each("dtype", NATIVE_DTYPES)
@each("size", SIZES | WIDE)
@each("neuron", DEFAULT_NEURONS)
def test_neurons_are_bit_identical_at_every_size(cuda_device, neuron, size, dtype):
    assert_is_reference(random_layer(Dynamics(neuron, 5, **CARRYING), size, dtype), "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("timesteps", TIMESTEPS)
@each("neuron", DEFAULT_NEURONS)
def test_neurons_are_bit_identical_for_every_number_of_timesteps(cuda_device, neuron, timesteps, dtype):
    layer = random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 20), dtype)
    assert_is_reference(layer, "cuda", cuda_device)


MANY_STEPS = [("snm", 2**15 - 1), ("snm", 2**15), ("snm", 2**16), ("mt", MOST_STEPS + 1), ("dc", MOST_STEPS + 1)]


@needs_cpu
@pytest.mark.parametrize(("kind", "timesteps"), MANY_STEPS)
def test_so_many_timesteps_that_the_fast_path_ends(cuda_device, kind, timesteps):
    """Some neurons fire at every step; compared with the CPU's kernels, which are quick enough."""
    layer = random_layer(Dynamics(DEFAULT_NEURONS[kind], timesteps, **CARRYING), Size(1, 5))
    layer = replace(layer, current=layer.current + torch.tensor([0.0, 0.0, 3.0, 0.0, 3.0]))
    for form in (layer, layer.constant()):
        for actual, wanted in zip(run_layer(form, "cuda", cuda_device), run_layer(form, "cpu"), strict=True):
            assert_same_bits(actual, wanted)


@pytest.mark.parametrize("levels", [1, 7])
def test_what_is_tiny_for_the_fast_path(cuda_on_host, levels):
    """A threshold whose smallest level is too small to be divided quickly, or too many steps."""

    def tiny(threshold: float, timesteps: int) -> bool:
        one = torch.tensor([1.0, threshold])
        return cuda_on_host.has_tiny_threshold(one.data_ptr(), 2, levels, timesteps)

    border = least(torch.float32) * 2 ** (levels - 1)
    assert [tiny(border, steps) for steps in (1, MOST_STEPS, MOST_STEPS + 1)] == [False, False, True]
    assert tiny(float(np.nextafter(np.float32(border), np.float32(0))), 1)
    assert not tiny(0.0, 1)


@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_for_hard_inputs(cuda_device, neuron, change, dtype):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 64), dtype, seed=5)
    assert_is_reference(change(layer), "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
def test_a_leak_of_nothing_is_if(cuda_device, change, dtype):
    layer = change(random_layer(Dynamics(IF(), 5, **CARRYING), Size(3, 64), dtype))
    leakless = replace(layer, dynamics=replace(layer.dynamics, neuron=LIF(leak=0)))
    for form, wanted in ((leakless, layer), (leakless.constant(), layer.constant())):
        for mine, other in zip(
            run_layer(form, "cuda", cuda_device), run_layer(wanted, "cuda", cuda_device), strict=True
        ):
            assert_same_bits(mine, other)


@pytest.mark.parametrize("parameters", [{}, {"alpha": 1.0, "memory": 1.0, "clip": 0.0}, {"alpha": 1 / 3, "clip": 0.7}])
@each("neuron", NEURONS)
def test_other_parameters_are_bit_identical(cuda_device, neuron, parameters):
    changes = {"initial_fraction": 0.3} | ({"negative_fraction": -0.7} if neuron.kind is Kind.SNM else {})
    layer = random_layer(Dynamics(replace(neuron, **changes), 3, **parameters), Size(3, 17))
    for shift in (0.0, 3.0, -3.0):  # residuals of both signs, clamped ones too
        assert_is_reference(replace(layer, current=layer.current + shift), "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("neuron", DEFAULT_NEURONS)
def test_rows_may_have_an_alpha_each(cuda_device, neuron, dtype):
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(9, 20), dtype).with_row_alpha()
    assert_is_reference(layer, "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("layout", CUDA_LAYOUTS)
@each("neuron", DEFAULT_NEURONS)
def test_currents_may_have_any_strides(cuda_device, neuron, layout, dtype):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 20), dtype)
    assert_is_reference(replace(layer, current=layout(layer.current)), "cuda", cuda_device)


@each("neuron", DEFAULT_NEURONS)
def test_other_tensors_need_no_alignment(cuda_device, neuron):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 20))
    for name in ("threshold", "carry", "bias"):
        if getattr(layer, name) is not None:
            assert_is_reference(replace(layer, **{name: unaligned(getattr(layer, name))}), "cuda", cuda_device)


@each("neuron", DEFAULT_NEURONS)
def test_many_decisions_carry_on(cuda_device, neuron):
    assert_decisions_are_the_reference(Dynamics(neuron, 4, **CARRYING), Size(5, 36), "cuda", cuda_device)


@each("order", {name: name for name in ORDERS})
@each("neuron", DEFAULT_NEURONS)
def test_the_order_of_threads_does_not_matter(cuda_on_host, cuda_device, neuron, order):
    """On the host, where it can be chosen."""
    if cuda_device.type != "cpu":
        pytest.skip("a GPU chooses for itself")
    take_turns(cuda_on_host, order)
    try:
        assert_is_reference(random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 260)), "cuda", cuda_device)
    finally:
        take_turns(cuda_on_host, "forward")


class Guarded:
    """The module, but every output goes to memory with guards around it, and from there to where it should go."""

    def __init__(self, module) -> None:
        self.module = module
        self.calls = 0

    def neuron_float32(self, dynamics, layer, **place) -> None:
        size = layer.batch * layer.neurons
        sizes = {"spikes": dynamics.timesteps * size, "mean": size, "next_carry": size}
        buffers = {name: torch.full((size + 64,), 1e30) for name, size in sizes.items() if getattr(layer, name)}
        buffers["counts"] = torch.full((layer.batch + 64,), -1, dtype=torch.int64)
        inner = {name: buffer[32:-32] for name, buffer in buffers.items()}
        guarded = layer._replace(**{name: one.data_ptr() for name, one in inner.items()})
        self.module.neuron_float32(dynamics, guarded, **place)
        self.calls += 1
        for name, buffer in buffers.items():
            outside = torch.cat([buffer[:32], buffer[-32:]])
            assert bool((outside == outside[0]).all()), f"{name} was written outside"
            ctypes.memmove(getattr(layer, name), inner[name].data_ptr(), inner[name].nbytes)


@each("size", {"B3-N20": Size(3, 20), "B5-N33": Size(5, 33), "B2-N1028": Size(2, 1028)})
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_written_outside_of_the_outputs(cuda_on_host, cuda_device, monkeypatch, neuron, size):
    if cuda_device.type != "cpu":
        pytest.skip("guards are watched on the host")
    guarded = Guarded(cuda_on_host)
    monkeypatch.setattr(cuda, "_cuda", guarded)
    monkeypatch.setattr(cuda, "_layer_call", lambda: None)  # whose outputs are tensors of its own
    assert_is_reference(random_layer(Dynamics(neuron, 5, **CARRYING), size), "cuda", cuda_device)
    assert guarded.calls > 0


def numbers_of_every_size(dtype: torch.dtype) -> torch.Tensor:
    """Random mantissas, and those next to powers of two, at every exponent; both signs, zeros, infinities, NaN."""
    numbers = torch.finfo(dtype)
    lowest, highest = math.frexp(numbers.smallest_normal * numbers.eps)[1], math.frexp(numbers.max)[1]
    near = torch.tensor([1.0, 1 + numbers.eps, 2 - numbers.eps, 2 - 2 * numbers.eps], dtype=dtype)
    random = 1 + torch.rand(60, dtype=dtype, generator=torch.Generator().manual_seed(0))
    mantissas = torch.cat([near, random]).numpy()
    positive = torch.from_numpy(np.ldexp(mantissas[:, None], np.arange(lowest - 1, highest - 1))).flatten()
    special = torch.tensor([0.0, math.inf, math.nan, numbers.max], dtype=dtype)
    positive = torch.cat([positive, special])
    return torch.cat([positive, -positive])


@each("dtype", NATIVE_DTYPES)
def test_division_by_steps_is_exact(cuda_on_host, dtype):
    x = numbers_of_every_size(dtype)
    ordinary = x[~(x.abs() < least(dtype)) | (x == 0)]
    for steps in [*range(1, 258), 1023, 1025, 2**16 - 1, 2**16, 2**16 + 1, 2**20 + 1, 2**24 + 2, 2**29 - 1]:
        number = torch.tensor(steps, dtype=dtype)
        assert_same_bits(divide(cuda_on_host, x, steps), x / number)
        if steps <= MOST_STEPS:
            for off in (-2, 0, 2):
                assert_same_bits(divide(cuda_on_host, ordinary, steps, normal=True, off=off), ordinary / number)


def between_two_numbers(steps: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers that are hard to divide by so many steps, which are odd.

    Nowhere does x / n come closer to the middle of two neighbours q and q + 1 than where 2x = (2q + 1)n ± 1.
    """
    digits = 1 - math.frexp(torch.finfo(dtype).eps)[1] + 1
    numbers = []
    for sign in (1, -1):
        # Of these, those that fit x: whose last bits are 0.
        beyond = 2 ** (steps.bit_length() + 1)
        middle = 2**digits + (-sign * pow(steps, -1, beyond) - 2**digits) % beyond
        numbers += [((middle + place * beyond) * steps + sign) // 2 for place in range(50)]
    x = torch.tensor(numbers, dtype=torch.int64 if dtype == torch.float32 else torch.float64).to(dtype)
    assert [int(one) for one in x.tolist()] == numbers
    return x


@each("dtype", NATIVE_DTYPES)
def test_division_is_exact_where_quotients_lie_between_two_numbers(cuda_on_host, dtype):
    for steps in [*range(3, 300, 2), 1001, 4095, 32767, 65533, 65535]:
        x = between_two_numbers(steps, dtype)
        for off in range(-2, 3):
            assert_same_bits(divide(cuda_on_host, x, steps, normal=True, off=off), x / torch.tensor(steps, dtype=dtype))
        # The same numbers, but small: some of them too small for `divide_normal`, which it must notice.
        exponents = np.arange(-40, 3) + math.frexp(least(dtype))[1] - math.frexp(x.max().item())[1]
        small = torch.from_numpy(np.ldexp(x.numpy()[:, None], exponents))
        assert_same_bits(divide(cuda_on_host, small, steps), small / torch.tensor(steps, dtype=dtype))


def test_small_quotients_of_dc_are_exact(cuda_device):
    """A current that is hard to divide comes at a step and is taken back at the next: what is left is the quotient."""
    step = 255
    x = between_two_numbers(step, torch.float32) * 2.0**-142  # about 2^-111, and its quotient 2^-119
    current = torch.zeros(step + 1, 1, len(x))
    current[step - 1], current[step] = x, -x
    dynamics = Dynamics(replace(DEFAULT_NEURONS["dc"], initial_fraction=0.0), step + 1, alpha=1.0)
    layer = Layer(current, torch.ones(len(x)), torch.zeros(1, len(x)), dynamics)
    assert_is_reference(layer, "cuda", cuda_device)
    assert torch.equal(run_layer(layer, "cuda", cuda_device).carry, (x / step)[None])


def needs_memory(size: int) -> None:
    free, _ = torch.cuda.mem_get_info()
    if free < size:
        pytest.skip(f"this takes {size >> 30} GiB of the GPU's memory, {free >> 30} are free")


# What a kernel is launched for in one piece: T, B, N. Mean out, a batch of more than 2^32 neurons; spikes out, fewer
# neurons, but more than 2^32 spikes.
BEYOND_32_BITS = {"neurons": (1, 2**32 // 1024 + 8, 1024), "spikes": (3, 2**31 // 1024 + 8, 1024)}


@pytest.mark.gpu
@each("shape", BEYOND_32_BITS)
@each("neuron", {"if": DEFAULT_NEURONS["if"], "dc": DEFAULT_NEURONS["dc"]})
def test_more_than_two_to_the_32_elements(gpu, neuron, shape):
    """Rows that are alike must come out alike, the last ones, too. All have one current, which takes no memory."""
    timesteps, rows, width = shape
    spikes = timesteps > 1
    assert timesteps * rows * width > 2**32
    needs_memory(4 * rows * width * ((2 + timesteps) if spikes else 3) + 2**30)
    small = random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(8, width))
    small = replace(small, current=small.current[:, :1].expand(-1, 8, -1))
    wanted = run_layer(small, "reference")
    one = small.map(lambda tensor: tensor.to(gpu))
    carry = one.carry.repeat(rows // 8, 1)
    run = ops.neuron_spikes if spikes else ops.neuron_mean
    output, after, counts = run(
        one.current[:, :1].expand(-1, rows, -1), one.threshold, carry, one.dynamics, bias=one.bias, backend="cuda"
    )
    outputs = zip(output, wanted.spikes, strict=True) if spikes else [(output, wanted.mean)]
    for result, expected in [*outputs, (after, wanted.carry), (counts, wanted.counts)]:
        for part in result.reshape(-1, *expected.shape).split(2**16):
            assert bool((part == expected.to(gpu)).all())


@pytest.mark.gpu
@each("far", {"steps": True, "rows": False})
def test_currents_more_than_two_to_the_32_elements_apart(gpu, far):
    """Steps or rows stand so far from each other; what is between them is never looked at."""
    distance = 2**32 + 4
    needs_memory(4 * distance + 2**30)
    layer = random_layer(Dynamics(DEFAULT_NEURONS["if"], 2, **CARRYING), Size(2, 64))
    memory = torch.empty(distance + 256, device=gpu)
    current = memory.as_strided((2, 2, 64), (distance, 64, 1) if far else (64, distance, 1))
    current.copy_(layer.current)
    found = ops.neuron_spikes(current, layer.threshold.to(gpu), layer.carry.to(gpu), layer.dynamics, backend="cuda")
    wanted = run_layer(layer, "reference")
    for result, expected in zip(found, (wanted.spikes, wanted.carry, wanted.counts), strict=True):
        assert_same_bits(result.cpu(), expected)
