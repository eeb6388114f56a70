"""The native CPU kernels: neurons bit for bit as the reference, products batch-invariant."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.cases import (
    CARRYING,
    DEFAULT_NEURONS,
    INPUTS,
    LAYER_BACKENDS,
    NATIVE_DTYPES,
    NEURONS,
    PARAMETERS,
    SIZES,
    TIMESTEPS,
    Layer,
    Size,
    assert_is_reference,
    assert_same_bits,
    each,
    needs_cpu,
    neighbours,
    random_layer,
    run_layer,
)
from support.layouts import LAYOUTS, strided, transposed

from snnkern import IF, LIF, Dynamics
from snnkern.kernels import ops
from snnkern.kernels.backends import cpu
from snnkern.kernels.neurons import Kind

pytestmark = [needs_cpu, pytest.mark.usefixtures("_each_isa")]


@pytest.fixture(params=[] if cpu._cpu is None else cpu._cpu.isas(), scope="module")
def _each_isa(request):
    """Every build of the kernels that this machine runs."""
    before = cpu._cpu.isa()
    assert cpu._cpu.use_isa(request.param)
    yield
    cpu._cpu.use_isa(before)


@each("dtype", NATIVE_DTYPES)
@each("size", {name: size for name, size in SIZES.items() if size.neurons})
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_at_every_size(neuron, size, dtype):
    assert_is_reference(random_layer(Dynamics(neuron, 5, **CARRYING), size, dtype), "cpu")


@each("dtype", NATIVE_DTYPES)
@each("timesteps", TIMESTEPS)
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_for_every_number_of_timesteps(neuron, timesteps, dtype):
    assert_is_reference(random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 23), dtype), "cpu")


@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@each("neuron", NEURONS)
def test_neurons_are_bit_identical_for_hard_inputs(neuron, change, dtype):
    for timesteps in (2, 5):
        layer = random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 63), dtype, seed=timesteps)
        assert_is_reference(change(layer), "cpu")


@each("dtype", NATIVE_DTYPES)
@pytest.mark.parametrize(
    "neuron",
    [  # the more levels, the longer
        pytest.param(neuron, id=name, marks=[pytest.mark.thorough] if neuron.levels > 7 else [])
        for name, neuron in NEURONS.items()
        if neuron.kind in (Kind.MT, Kind.DC)
    ],
)
def test_levels_are_found_at_their_bounds_whatever_the_threshold(neuron, dtype):
    """Kernels search the levels in two ways. The way is chosen by the smallest threshold, here around the choice."""
    info = torch.finfo(dtype)
    normal = info.smallest_normal * 2 ** (neuron.levels - 1)  # where the smallest level is the smallest normal number
    choice = normal * torch.tensor([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], dtype=dtype)
    others = torch.tensor([1.0, 1 / 3, info.max / 4, info.smallest_normal], dtype=dtype)
    still = replace(neuron, initial_fraction=0.0)
    for threshold in torch.cat([neighbours(choice), others]):
        levels = threshold / 2.0 ** torch.arange(neuron.levels, dtype=dtype)
        bounds = neighbours(0.75 * levels)
        potentials = torch.cat([bounds, -bounds, levels, torch.zeros(1, dtype=dtype)])
        sent = torch.stack([torch.zeros_like(threshold), threshold, levels[-1]])  # before, and may be taken back
        current = torch.stack(torch.broadcast_tensors(sent[:, None], potentials)).flatten(1)[:, :, None]
        carry = torch.zeros(current.shape[1], 17, dtype=dtype)
        assert_is_reference(Layer(current.expand(-1, -1, 17), threshold.expand(17), carry, Dynamics(still, 2)), "cpu")


@each("dtype", NATIVE_DTYPES)
@each("parameters", PARAMETERS)
@each("neuron", NEURONS)
def test_carry_is_bit_identical_for_every_parameter(neuron, parameters, dtype):
    layer = random_layer(Dynamics(neuron, 3, **parameters), Size(3, 17), dtype)
    for shift in (0.0, 3.0, -3.0):  # residuals of both signs, clamped ones too
        assert_is_reference(replace(layer, current=layer.current + shift), "cpu")


@each("dtype", NATIVE_DTYPES)
@each("neuron", DEFAULT_NEURONS)
def test_carry_is_bit_identical_with_an_alpha_for_every_row(neuron, dtype):
    layer = random_layer(Dynamics(neuron, 3, **CARRYING), Size(5, 17), dtype).with_row_alpha()
    assert_is_reference(layer, "cpu")
    each_alone = [
        replace(layer.rows(slice(row, row + 1)), row_alpha=None, dynamics=replace(layer.dynamics, alpha=float(alpha)))
        for row, alpha in enumerate(layer.row_alpha)
    ]
    carries = [run_layer(alone, "cpu").carry for alone in each_alone]
    assert_same_bits(run_layer(layer, "cpu").carry, torch.cat(carries))
    assert not torch.equal(carries[0], torch.zeros_like(carries[0]))


@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@pytest.mark.parametrize("backend", LAYER_BACKENDS)
def test_a_leak_of_nothing_is_if(backend, change, dtype):
    layer = change(random_layer(Dynamics(IF(), 5, **CARRYING), Size(3, 63), dtype))
    leakless = replace(layer, dynamics=replace(layer.dynamics, neuron=LIF(leak=0)))
    for actual, wanted in zip(run_layer(leakless, backend), run_layer(layer, backend), strict=True):
        assert_same_bits(actual, wanted)


@each("dtype", NATIVE_DTYPES)
@each("neuron", NEURONS)
def test_other_fractions_than_the_default_are_bit_identical(neuron, dtype):
    changes = {"initial_fraction": 0.3}
    if neuron.kind is Kind.SNM:
        changes["negative_fraction"] = -0.7
    layer = random_layer(Dynamics(replace(neuron, **changes), 5, **CARRYING), Size(3, 17), dtype)
    assert_is_reference(layer, "cpu")


@pytest.mark.parametrize(("batch", "neurons"), [(0, 17), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
@each("dtype", NATIVE_DTYPES)
@each("neuron", DEFAULT_NEURONS)
def test_empty_layers_give_empty_results(neuron, dtype, batch, neurons):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(batch, neurons), dtype)
    for form in (layer, layer.constant()):
        result = run_layer(form, "cpu")
        assert result.spikes.shape == (5, batch, neurons)
        assert result.mean.shape == result.carry.shape == (batch, neurons)
        assert result.counts.tolist() == [0] * batch


@each("dtype", NATIVE_DTYPES)
@each("layout", LAYOUTS)
@each("neuron", DEFAULT_NEURONS)
def test_currents_may_have_any_strides(neuron, layout, dtype):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 19), dtype)
    viewed = replace(layer, current=layout(layer.current))
    packed = replace(layer, current=viewed.current.clone(memory_format=torch.contiguous_format))
    assert_is_reference(viewed, "cpu")
    for actual, expected in zip(run_layer(viewed, "cpu"), run_layer(packed, "cpu"), strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("neurons", [1, 19], ids=["N1", "N19"])
@each("neuron", DEFAULT_NEURONS)
def test_thresholds_carries_and_biases_may_have_any_strides(neuron, neurons):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, neurons))
    bias = None if layer.bias is None else strided(layer.bias, 0)
    views = replace(layer, threshold=strided(layer.threshold, 0), carry=transposed(layer.carry, 0, 1), bias=bias)
    for actual, expected in zip(run_layer(views, "cpu"), run_layer(layer, "cpu"), strict=True):
        assert_same_bits(actual, expected)


@each("neuron", DEFAULT_NEURONS)
def test_thresholds_carries_and_biases_may_be_expanded(neuron):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 19))
    bias = None if layer.bias is None else torch.tensor(0.1).expand(19)
    expanded = replace(layer, threshold=torch.tensor(0.8).expand(19), carry=torch.tensor(0.1).expand(3, 19), bias=bias)
    assert_is_reference(expanded, "cpu")


@each("neuron", DEFAULT_NEURONS)
def test_inputs_are_left_as_they_are(neuron):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 19))
    before = layer.map(torch.clone)
    run_layer(layer, "cpu")
    for name in ("current", "threshold", "carry"):
        assert_same_bits(getattr(layer, name), getattr(before, name))
    if layer.bias is not None:
        assert_same_bits(layer.bias, before.bias)


@each("dtype", NATIVE_DTYPES)
@each("neuron", NEURONS)
def test_mean_and_counts_are_those_of_the_spikes(neuron, dtype):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 63), dtype)
    result = run_layer(layer, "cpu")
    sent = result.spikes.double()
    weights = 1 / torch.arange(1, 6) if neuron.kind is Kind.DC else torch.full((5,), 1 / 5)
    mean = (sent * weights.reshape(-1, 1, 1)).sum(dim=0)
    torch.testing.assert_close(result.mean.double(), mean, rtol=0, atol=1e-6)
    assert result.counts.tolist() == (result.spikes != 0).sum(dim=(0, 2)).tolist()
    assert min(result.counts.tolist()) > 0


# Linear.

LINEAR_SIZES = {
    f"{rows}x{inputs}x{outputs}": (rows, inputs, outputs)
    for rows, inputs, outputs in ((1, 1, 1), (3, 5, 3), (2, 17, 7), (5, 3, 8), (3, 64, 33), (4, 63, 256), (3, 257, 17))
}


def random_product(rows: int, inputs: int, outputs: int, dtype=torch.float32, density: float = 0.5):
    """Rows of sparse spikes, weights and a bias."""
    generator = torch.Generator().manual_seed(rows * 1000 + inputs)
    spikes = torch.randn(rows, inputs, generator=generator, dtype=torch.float64)
    spikes = spikes * (torch.rand(rows, inputs, generator=generator) < density)
    weight = torch.randn(inputs, outputs, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return spikes.to(dtype), weight.to(dtype), bias.to(dtype)


@each("dtype", NATIVE_DTYPES)
@each("size", LINEAR_SIZES)
def test_linear_is_the_product_in_float64_up_to_rounding(size, dtype):
    spikes, weight, bias = random_product(*size, dtype)
    magnitude = spikes.double().abs() @ weight.double().abs() + bias.double().abs()
    tolerance = (size[1] + 1) * torch.finfo(dtype).eps * magnitude
    for addend in (bias, None):
        exact = spikes.double() @ weight.double() + (0 if addend is None else addend.double())
        error = (ops.linear(spikes, weight, addend, backend="cpu").double() - exact).abs()
        assert bool((error <= tolerance).all())


@each("dtype", NATIVE_DTYPES)
@each("size", LINEAR_SIZES)
def test_linear_sums_in_order_from_the_bias_on(size, dtype):
    spikes, weight, bias = random_product(*size, dtype)
    total = np.repeat(bias.numpy()[None], len(spikes), axis=0)
    for k in range(size[1]):
        total = total + spikes.numpy()[:, k : k + 1] * weight.numpy()[k]
    assert_same_bits(ops.linear(spikes, weight, bias, backend="cpu"), torch.from_numpy(total))


@each("dtype", NATIVE_DTYPES)
@each("size", LINEAR_SIZES)
def test_a_row_of_linear_depends_on_that_row_alone(size, dtype):
    spikes, weight, bias = random_product(*size, dtype)
    whole = ops.linear(spikes, weight, bias, backend="cpu")
    alone = torch.cat([ops.linear(row[None], weight, bias, backend="cpu") for row in spikes])
    assert_same_bits(alone, whole)
    assert_same_bits(ops.linear(spikes.flip(0), weight, bias, backend="cpu"), whole.flip(0))


@each("dtype", NATIVE_DTYPES)
def test_silent_rows_of_linear_are_the_bias_or_zero(dtype):
    spikes, weight, bias = random_product(3, 17, 9, dtype, density=0.0)
    spikes[1] = -0.0
    assert_same_bits(ops.linear(spikes, weight, bias, backend="cpu"), bias.expand(3, 9))
    assert_same_bits(ops.linear(spikes, weight, backend="cpu"), torch.zeros(3, 9, dtype=dtype))


def test_linear_takes_one_row_and_any_number_of_leading_dimensions():
    spikes, weight, bias = random_product(12, 17, 9)
    rows = ops.linear(spikes, weight, bias, backend="cpu")
    assert_same_bits(ops.linear(spikes[0], weight, bias, backend="cpu"), rows[0])
    stacked = ops.linear(spikes.reshape(2, 3, 2, 17), weight, bias, backend="cpu")
    assert_same_bits(stacked, rows.reshape(2, 3, 2, 9))


def test_linear_takes_any_strides():
    spikes, weight, bias = random_product(5, 17, 9)
    expected = ops.linear(spikes, weight, bias, backend="cpu")
    for one in (strided(spikes, 0), strided(spikes, 1), transposed(spikes, 0, 1)):
        assert_same_bits(ops.linear(one, weight, bias, backend="cpu"), expected)
    for one in (strided(weight, 0), strided(weight, 1), transposed(weight, 0, 1)):
        assert_same_bits(ops.linear(spikes, one, bias, backend="cpu"), expected)
    assert_same_bits(ops.linear(spikes, weight, strided(bias, 0), backend="cpu"), expected)
    repeated = ops.linear(spikes[:1].expand(5, 17), weight, bias, backend="cpu")
    assert_same_bits(repeated, expected[:1].expand(5, 9))


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)],
    ids=["rows", "inputs", "outputs", "all"],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_linear_of_nothing_is_the_bias_or_nothing(backend, rows, inputs, outputs):
    spikes, weight, bias = random_product(rows, inputs, outputs)
    result = ops.linear(spikes, weight, bias, backend=backend)
    assert result.shape == (rows, outputs)
    if inputs == 0:
        assert torch.equal(result, bias.expand(rows, outputs))
        assert not ops.linear(spikes, weight, backend=backend).any()


@pytest.mark.parametrize("place", [3, 16], ids=["in-a-vector", "behind-the-vectors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_and_infinity_reach_the_outputs_of_linear_in_their_row_alone(dtype, place):
    spikes, weight, bias = random_product(3, 17, 9, dtype=dtype)
    expected = ops.linear(spikes, weight, bias, backend="cpu")
    spikes[0, place], spikes[2, place] = float("nan"), float("inf")
    result = ops.linear(spikes, weight, bias, backend="cpu")
    assert result[0].isnan().all()
    assert_same_bits(result[1], expected[1])
    assert result[2].isinf().all()
