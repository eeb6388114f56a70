"""The Triton kernels in Triton's interpreter, on CPU tensors: neurons bit for bit as the reference.

`test_triton.py` runs this file in a process of its own: TRITON_INTERPRET must be set before triton is first imported.
    TRITON_INTERPRET=1 python -m pytest python_tests/triton_interpreted.py            # -m long: the rest
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import (
    ALL_DTYPES,
    DEFAULT_NEURONS,
    INPUTS,
    NEURONS,
    SIZES,
    TIMESTEPS,
    Layer,
    Size,
    assert_same_bits,
    each,
    random_layer,
    run_layer,
)
from test_kernels import LAYOUTS, PARAMETERS, strided, transposed
from torch import Tensor

import snnkern
from snnkern import Dynamics
from snnkern._backends import triton

CARRYING = {"alpha": 0.7, "memory": 0.6}
HALVES = {name: ALL_DTYPES[name] for name in ("bfloat16", "float16")}


@pytest.fixture(autouse=True)
def _numpy_does_not_warn():
    """The interpreter computes with NumPy, which warns of the infinities and NaNs that some cases are about."""
    with np.errstate(all="ignore"):
        yield


def assert_triton_is_reference(layer: Layer) -> None:
    """Spikes, mean, carry and counts, for the sequence and for its first current as a constant one."""
    for form in (layer, layer.constant()):
        for actual, wanted in zip(run_layer(form, "triton"), run_layer(form, "reference"), strict=True):
            assert_same_bits(actual, wanted)


def test_runs_in_the_interpreter_and_only_by_name() -> None:
    status = {status.name: status for status in snnkern.backends()}["triton"]
    assert status.available
    assert "interpreter" in status.detail
    for dtype in (torch.float32, torch.bfloat16):
        assert triton.serves(torch.device("cpu"), dtype)
        assert snnkern._backends.choose("auto", torch.device("cpu"), dtype) is not triton
    with pytest.raises(snnkern.InputError, match=r"'triton' does not compute torch\.float64 tensors on cpu"):
        snnkern._backends.choose("triton", torch.device("cpu"), torch.float64)


@each("size", {name: SIZES[name] for name in ("B1-N1", "B1-N17", "B3-N257")})
@each("neuron", NEURONS)
def test_neurons_are_bit_identical(neuron, size) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, 3, **CARRYING), size))


@each("change", INPUTS)
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_for_hard_inputs(neuron, change) -> None:
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(3, 63))
    assert_triton_is_reference(change(layer))


@each("timesteps", {name: TIMESTEPS[name] for name in ("T1", "T16")})
@each("neuron", DEFAULT_NEURONS)
def test_neurons_are_bit_identical_for_other_numbers_of_timesteps(neuron, timesteps) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 17)))


def narrowed(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A float32 value as the interpreter stores it: it truncates to bfloat16, where a GPU rounds to the nearest."""
    if dtype == torch.bfloat16:
        value = (value.view(torch.int32) & -0x10000).view(torch.float32)
    return value.to(dtype)


@each("dtype", HALVES)
@each("neuron", DEFAULT_NEURONS)
def test_halves_are_stored_and_computed_in_float32(neuron, dtype) -> None:
    layer = random_layer(Dynamics(neuron, 4, **CARRYING), Size(3, 17), dtype)
    result, wanted = run_layer(layer, "triton"), run_layer(layer.to(torch.float32), "reference")
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
    triton_layer = expected_layer = random_layer(Dynamics(neuron, 3, alpha=1.0, memory=1.0), Size(3, 17))
    for decision in range(5):
        current = random_layer(triton_layer.dynamics, Size(3, 17), seed=decision).current
        triton_layer, expected_layer = (replace(one, current=current) for one in (triton_layer, expected_layer))
        result, expected = run_layer(triton_layer, "triton"), run_layer(expected_layer, "reference")
        for actual, wanted in zip(result, expected, strict=True):
            assert_same_bits(actual, wanted)
        triton_layer = replace(triton_layer, carry=result.carry)
        expected_layer = replace(expected_layer, carry=expected.carry)


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
