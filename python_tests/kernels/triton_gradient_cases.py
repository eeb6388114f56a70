"""The Triton kernel of a layer's gradients: as autograd through the reference.

In Triton's interpreter, on CPU tensors; or, where TRITON_INTERPRET is not set, the same cases on a GPU.
`test_triton.py` runs this file in processes of its own: the variable must be set before triton is first imported.
    TRITON_INTERPRET=1 python -m pytest python_tests/kernels/triton_gradient_cases.py            # -m long: the rest
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support.cases import (
    ALL_DTYPES,
    CARRYING,
    DEFAULT_NEURONS,
    INPUTS,
    NEURONS,
    SIZES,
    Layer,
    Size,
    assert_same_bits,
    each,
    random_layer,
)
from support.gradients import (
    assert_close,
    assert_gradient_is_the_references,
    assert_gradients_are_the_references,
    by_autograd,
    by_operator,
    random_gradient,
)
from support.layouts import LAYOUTS, strided, transposed
from support.triton_device import DEVICE, LastProgram, guarded, interpreted, untouched
from torch import Tensor

from snnkern import Dynamics
from snnkern.kernels.backends import Gradients, Problem
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.backends.triton.neurons import LEAST
from snnkern.kernels.neurons import Kind
from snnkern.kernels.surrogates import SURROGATES, Surrogate

pytest_plugins = ["support.triton_device"]  # for its fixtures

surrogates = pytest.mark.parametrize("surrogate", SURROGATES)
KINDS = {"if": "triangle", "lif": "sigmoid", "snm": "atan", "mt": "triangle", "dc": "sigmoid"}
# As many as registers hold, one more, and so many that the last segment is whole again.
SEGMENTS = {f"T{timesteps}": timesteps for timesteps in (1, launch.SEGMENT, launch.SEGMENT + 1, 2 * launch.SEGMENT)}


def assert_triton_is_reference(layer: Layer, surrogate: str) -> None:
    assert_gradients_are_the_references(layer, surrogate, "triton", DEVICE)


def found(layer: Layer, gradient: Tensor, surrogate: Surrogate = Surrogate.ATAN) -> Gradients:
    """By the kernel itself, for tensors that are where it runs."""
    problem = Problem(
        layer.current, layer.threshold, layer.carry, layer.dynamics, layer.bias, None, wants_spikes=gradient.dim() == 3
    )
    return launch.neuron_gradients(problem, gradient, surrogate)


def assert_same(actual: Gradients, wanted: Gradients) -> None:
    """Every bit of what a neuron has alone; sums over the batch to within rounding.

    The compiler lays a tile out by its strides, so that on a GPU sums of other strides have another order.
    """
    for name in ("current", "carry"):
        assert_same_bits(getattr(actual, name), getattr(wanted, name))
    for name in ("threshold", "bias"):
        assert_close(getattr(actual, name), getattr(wanted, name), name)


@surrogates
@each("neuron", NEURONS)
def test_gradients_are_the_references(neuron, surrogate) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, 3, **CARRYING), Size(3, 17)), surrogate)


@pytest.mark.costly
@each("size", {name: SIZES[name] for name in ("B1-N1", "B3-N257")})
@each("kind", {kind: kind for kind in KINDS})
def test_gradients_of_other_sizes_are_the_references(kind, size) -> None:
    assert_triton_is_reference(random_layer(Dynamics(DEFAULT_NEURONS[kind], 3), size), KINDS[kind])


@pytest.mark.costly
@each("timesteps", SEGMENTS)
@each("kind", {kind: kind for kind in KINDS})
def test_gradients_of_other_numbers_of_timesteps_are_the_references(kind, timesteps) -> None:
    assert_triton_is_reference(random_layer(Dynamics(DEFAULT_NEURONS[kind], timesteps), Size(2, 19)), KINDS[kind])


@each("change", INPUTS)
@each("kind", {"if": "if", "snm": "snm", "mt": "mt-L4", "dc": "dc-L4"})
def test_gradients_of_hard_inputs_are_the_references(kind, change) -> None:
    layer = change(random_layer(Dynamics(NEURONS[kind], 4), Size(3, 63)))
    for surrogate in SURROGATES:
        assert_gradient_is_the_references(layer, random_gradient(layer, False), surrogate, "triton", DEVICE)


# Currents that a thread of DC divides by steps in the quick way, or not; more steps than a segment has.
CURRENTS = {"ordinary": 1.0, "smallest-fast": LEAST.value, "small": LEAST.value / 2, "denormal": 1e-42}


@pytest.mark.costly
@interpreted
@each("current", CURRENTS)
@pytest.mark.parametrize("timesteps", [3, launch.SEGMENT + 2])
def test_small_currents_are_divided_with_care(current, timesteps, monkeypatch) -> None:
    """Which is where their rest would be lost."""
    from snnkern.kernels.backends.triton import gradients

    careful = []
    run = gradients.slope_of
    monkeypatch.setattr(
        gradients, "slope_of", lambda *arguments: (careful.append(not arguments[-1]), run(*arguments))[1]
    )
    layer = random_layer(Dynamics(NEURONS["dc-L4"], timesteps), Size(2, 3))
    layer.current[1, 0, 1] = current
    assert_triton_is_reference(replace(layer, threshold=torch.ones(3)), "triangle")
    assert any(careful) == (current < LEAST.value)


def test_a_threshold_of_zero_has_no_gradient() -> None:
    for neuron in NEURONS.values():
        layer = random_layer(Dynamics(neuron, 4), Size(3, 17), current_scale=9.0)
        silent = replace(layer, threshold=torch.zeros(17))
        for surrogate in SURROGATES:
            for one in by_operator(silent, random_gradient(silent, False), surrogate, "triton", DEVICE).values():
                assert not one.any()


@pytest.mark.costly
@each("neuron", DEFAULT_NEURONS)
def test_gradients_stop_at_a_nan_and_stay_finite(neuron) -> None:
    layer = random_layer(Dynamics(neuron, launch.SEGMENT + 1), Size(2, 5))
    layer.current[1, 0, 2] = math.nan
    for surrogate in SURROGATES:
        gradients = by_operator(layer, random_gradient(layer, False), surrogate, "triton", DEVICE)
        assert all(bool(one.isfinite().all()) for one in gradients.values())


@pytest.mark.costly
@each("neuron", DEFAULT_NEURONS)
def test_half_precision_is_computed_in_float32(neuron) -> None:
    for dtype in (ALL_DTYPES["bfloat16"], ALL_DTYPES["float16"]):
        layer = random_layer(Dynamics(neuron, 4), Size(3, 17), dtype)
        gradient = random_gradient(layer, False)
        actual = by_operator(layer, gradient, "atan", "triton", DEVICE)
        wanted = by_autograd(layer.to(torch.float32), gradient.float(), "atan")
        for name, expected in wanted.items():
            assert actual[name].dtype == dtype
            torch.testing.assert_close(actual[name].float(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


@pytest.mark.costly
@each("layout", LAYOUTS)
@each("neuron", {name: DEFAULT_NEURONS[name] for name in ("snm", "dc")})
def test_gradients_are_the_same_for_any_strides(neuron, layout) -> None:
    layer = random_layer(Dynamics(neuron, 3), Size(3, 19)).map(lambda tensor: tensor.to(DEVICE))
    viewed = replace(layer, current=layout(layer.current))
    packed = replace(layer, current=viewed.current.clone(memory_format=torch.contiguous_format))
    gradient = random_gradient(layer.map(lambda tensor: tensor.cpu()), False).to(DEVICE)
    wanted = found(packed, gradient)
    for given in (gradient, strided(gradient, 2), transposed(gradient, 0, 1)):
        assert_same(found(viewed, given), wanted)


def test_strided_thresholds_carries_and_biases() -> None:
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 3), Size(3, 19)).map(lambda tensor: tensor.to(DEVICE))
    gradient = torch.ones(()).expand(3, 3, 19).to(DEVICE)
    viewed = replace(
        layer,
        threshold=strided(layer.threshold, 0),
        bias=strided(layer.bias, 0),
        carry=transposed(layer.carry, 0, 1),
    )
    assert_same(found(viewed, gradient), found(layer, gradient.contiguous()))


@pytest.mark.costly
@each("neuron", DEFAULT_NEURONS)
def test_sums_over_the_batch_are_the_same_in_strips(neuron, monkeypatch) -> None:
    """A program that works off several tiles of rows, and the last one, which has fewer: each row's are to the bit."""
    layer = random_layer(Dynamics(neuron, 3), Size(7, 130))
    gradient = random_gradient(layer, False)
    alone = by_operator(layer, gradient, "atan", "triton", DEVICE)
    monkeypatch.setattr(launch, "MANY_PROGRAMS", 1)
    monkeypatch.setattr(launch, "LONGEST_STRIP", 3)
    for name, one in by_operator(layer, gradient, "atan", "triton", DEVICE).items():
        if name in ("current", "carry"):
            assert_same_bits(one, alone[name])
        else:
            assert_close(one, alone[name], name)


@pytest.mark.parametrize(("batch", "neurons"), [(0, 17), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
def test_empty_layers_have_empty_gradients(batch, neurons) -> None:
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 3), Size(batch, neurons))
    for of_mean in (False, True):
        gradients = by_operator(layer, random_gradient(layer, of_mean), "triangle", "triton", DEVICE)
        assert not any(bool(one.any()) for one in gradients.values())
        assert gradients["threshold"].shape == gradients["bias"].shape == (neurons,)


@pytest.mark.costly
@interpreted
@pytest.mark.parametrize("timesteps", [3, launch.SEGMENT + 3])
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_read_beyond_a_tensor(neuron, timesteps) -> None:
    """Steps behind the last one, rows and columns of a tile that are no neurons."""
    layer = random_layer(Dynamics(neuron, timesteps), Size(3, 19))
    for form in (layer, layer.constant()):
        for of_mean in (False, True):
            found(form.map(guarded), guarded(random_gradient(form, of_mean)))


class Fenced:
    """The kernel, writing to memory that must be as before on both sides."""

    def __init__(self, kernel) -> None:
        self.kernel, self.calls = kernel, 0

    def __getitem__(self, grid):
        def run(*arguments, **options):
            arguments, buffers = list(arguments), []
            for index in (5, 6, 7, 8):  # what is written
                buffer = torch.full((arguments[index].numel() + 128,), 1e30)
                buffers.append((arguments[index], buffer))
                arguments[index] = buffer[64:-64].view(arguments[index].shape)
            self.kernel[grid](*arguments, **options)
            self.calls += 1
            for tensor, buffer in buffers:
                assert bool((torch.cat([buffer[:64], buffer[-64:]]) == 1e30).all())
                tensor.copy_(buffer[64:-64].view(tensor.shape))

        return run


@pytest.mark.costly
@interpreted
@pytest.mark.parametrize("timesteps", [3, launch.SEGMENT + 3])
@each("kind", {"if": "if", "mt": "mt", "dc": "dc"})
def test_nothing_is_written_beyond_what_comes_out(kind, timesteps, monkeypatch) -> None:
    from snnkern.kernels.backends.triton import gradients

    fenced = Fenced(gradients.gradient_kernel)
    monkeypatch.setattr(gradients, "gradient_kernel", fenced)
    assert_triton_is_reference(random_layer(Dynamics(DEFAULT_NEURONS[kind], timesteps), Size(3, 19)), "triangle")
    assert fenced.calls == 4


# Steps, rows, and strides: of the segment behind the first one, too.
FAR = {
    "rows": (3, 2**25 + 4, None),
    "columns": (3, 4, (64, 1, 2**26)),
    "steps": (3, 4, (2**30, 64, 1)),
    "segments": (launch.SEGMENT + 1, 4, (2**28, 64, 1)),
}


@interpreted
@each("far", FAR)
def test_offsets_are_of_more_than_32_bits(far, monkeypatch) -> None:
    """The last tile of a layer whose rows, columns or steps stand far apart; what lies between is never touched."""
    from snnkern.kernels.backends.triton import gradients

    timesteps, batch, strides = far
    shape = (timesteps, 4, 64)
    small = random_layer(Dynamics(DEFAULT_NEURONS["if"], timesteps), Size(4, 64), torch.bfloat16)
    given = random_gradient(small, False)
    wanted = found(small, given)
    carry = untouched(batch, 64, dtype=torch.bfloat16)
    carry[-4:] = small.carry

    def spread(tensor: Tensor) -> Tensor:
        if strides is None:
            far_tensor = untouched(timesteps, batch, 64, dtype=torch.bfloat16)
        else:
            reach = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
            far_tensor = untouched(reach, dtype=torch.bfloat16).as_strided(shape, strides)
        far_tensor[:, -4:] = tensor
        return far_tensor

    monkeypatch.setattr(gradients, "gradient_kernel", LastProgram(gradients.gradient_kernel, monkeypatch))
    monkeypatch.setattr(launch, "LONGEST_STRIP", 1)
    actual = found(replace(small, current=spread(small.current), carry=carry), spread(given))
    assert_same_bits(actual.current[:, -4:], wanted.current)
    assert_same_bits(actual.carry[-4:], wanted.carry)


@pytest.mark.long
@surrogates
@each("timesteps", {**SEGMENTS, "T37": 37})
@each("neuron", NEURONS)
def test_gradients_of_every_number_of_timesteps_are_the_references(neuron, timesteps, surrogate) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 23)), surrogate)


@pytest.mark.long
@surrogates
@each("change", INPUTS)
@each("neuron", NEURONS)
@pytest.mark.parametrize("timesteps", [2, 9])
def test_gradients_of_more_hard_inputs_are_the_references(neuron, change, surrogate, timesteps) -> None:
    layer = change(random_layer(Dynamics(neuron, timesteps), Size(3, 300), seed=timesteps))
    assert_triton_is_reference(layer, surrogate)


@pytest.mark.long
@surrogates
@each("size", SIZES)
@each("neuron", NEURONS)
def test_gradients_of_every_size_are_the_references(neuron, size, surrogate) -> None:
    assert_triton_is_reference(random_layer(Dynamics(neuron, 5), size), surrogate)


@pytest.mark.long
@surrogates
@each("neuron", NEURONS)
def test_other_fractions_than_the_default_have_the_references_gradients(neuron, surrogate) -> None:
    changes = {"initial_fraction": 0.3} | ({"negative_fraction": -0.7} if neuron.kind is Kind.SNM else {})
    assert_triton_is_reference(random_layer(Dynamics(replace(neuron, **changes), 5), Size(3, 17)), surrogate)
