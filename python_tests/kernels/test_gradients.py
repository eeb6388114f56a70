"""Gradients by surrogates: worked out by hand, through the reference, and by the operators on every backend."""

import math
from dataclasses import replace

import pytest
import torch
from support.cases import (
    CARRYING,
    DEFAULT_NEURONS,
    INPUTS,
    LAYER_BACKENDS,
    NATIVE_DTYPES,
    NEURONS,
    SIZES,
    TIMESTEPS,
    Size,
    assert_same_bits,
    each,
    needs_compiler,
    needs_cpu,
    random_layer,
)
from support.gradients import (
    assert_close,
    assert_gradients_are_the_references,
    by_autograd,
    by_operator,
    one_for,
    random_gradient,
)
from support.layouts import LAYOUTS, strided, transposed
from torch import nn

from snnkern import DC, IF, LIF, MT, SNM, Dynamics, InputError, SpikingActivation
from snnkern.kernels import ops, reference
from snnkern.kernels.backends import cpu
from snnkern.kernels.neurons import Kind
from snnkern.kernels.surrogates import SURROGATES, parse_surrogate

backend = pytest.mark.parametrize("backend", LAYER_BACKENDS)
surrogates = pytest.mark.parametrize("surrogate", SURROGATES)


@pytest.fixture
def surrogate(request):
    return one_for(request, SURROGATES)


@pytest.fixture
def build(request):
    """A build of the kernels that this machine runs."""
    before = cpu._cpu.isa()
    assert cpu._cpu.use_isa(one_for(request, cpu._cpu.isas()))
    yield
    cpu._cpu.use_isa(before)


one_build = pytest.mark.usefixtures("build")


def of_one(neuron, currents, gradient, surrogate="triangle", *, threshold=1.0, carry=0.0, bias=None):
    """Gradients of one neuron in float64, through the reference: current [T], threshold, carry, bias."""
    tensors = [
        torch.tensor(value, dtype=torch.float64).reshape(shape).requires_grad_()
        for value, shape in ((currents, (-1, 1, 1)), (threshold, (1,)), (carry, (1, 1)), (bias or 0.0, (1,)))
    ]
    dynamics = Dynamics(neuron, len(currents))
    decision = reference.neuron(*tensors[:3], dynamics, tensors[3] if bias is not None else None, surrogate=surrogate)
    output = decision.spikes if isinstance(gradient, list) else decision.mean
    given = torch.tensor(gradient, dtype=torch.float64).reshape(output.shape)
    found = torch.autograd.grad(output, tensors, given, allow_unused=True)
    return [None if one is None else one.flatten().tolist() for one in found]


# Neuron, currents, ∂L/∂s of every step or ∂L/∂mean, and what follows from the semantics page for θ = 1: ∂x, ∂θ, ∂c.
WORKED = {
    # v = 0.75: f' = 0.75, f = 0; the start is θ/2.
    "if-below-the-threshold": (IF(), [0.25], [1.0], [0.75], -0.75 * 0.75 + 0.5 * 0.75, 0.75),
    # v = 1.5: f' = 0.5, f = 1.
    "if-above-the-threshold": (IF(), [1.0], [1.0], [0.5], 1 - 1.5 * 0.5 + 0.5 * 0.5, 0.5),
    "if-beyond-the-triangle": (IF(), [2.0], [1.0], [0.0], 1.0, 0.0),
    # v = 1.5, then 0.75: λ = 0.75 after the second step; a = −0.75, so λ = 0.75 − 0.75/2.
    "if-through-the-reset": (
        IF(),
        [1.0, 0.25],
        [0.0, 1.0],
        [0.375, 0.75],
        -0.75 * 0.75 - 0.75 * (1 - 1.5 * 0.5) + 0.5 * 0.375,
        0.375,
    ),
    # v = 1.25, then 0.5·0.25 + 0.375 = 0.5: λ = 0.5, halved on the way; a = −0.25; f' = 0.75.
    "lif-loses-a-part": (
        LIF(leak=0.5),
        [1.0, 0.375],
        [0.0, 1.0],
        [0.25 - 0.25 * 0.75, 0.5],
        -0.5 * 0.5 - 0.25 * (1 - 1.25 * 0.75) + 0.5 * (0.5 * 0.0625),
        0.5 * 0.0625,
    ),
    # v = 1.5, then −0.25: f' = max(0, 1 − 1.25) + 0.75 of the way down.
    "snm-takes-back": (
        SNM(),
        [1.0, -0.75],
        [0.0, 1.0],
        [0.75 - 0.375, 0.75],
        (-1 + 0.25 * 0.75) - 0.75 * (1 - 1.5 * 0.5) + 0.5 * 0.375,
        0.375,
    ),
    # v = −0.25 and nothing to take back.
    "snm-does-not-take-back-what-it-has-not-sent": (SNM(), [-0.75], [1.0], [0.0], 0.0, 0.0),
    # v = 0.5: steps at 0.75 and 0.375, both 0.5 high: (1 − 0.5) + (1 − 0.25).
    "mt-two-levels": (MT(levels=2), [0.5], [1.0], [1.25], 0.5 - 0.5 * 1.25, 1.25),
    # v = 0.5 and 0.5: the second step is the first one again, since the first sent 0.5.
    "mean-is-shared-by-the-steps": (
        MT(levels=2),
        [0.5, 0.5],
        2.0,
        [1.25 + (1 - 1.25) * 1.25, 1.25],
        (0.5 - 0.5 * 1.25) * (1 + (1 - 1.25)),
        1.25 + (1 - 1.25) * 1.25,
    ),
    # One level: v = 0.5, f' = 1 − 0.25; ∂x_1 through u alone.
    "dc-one-step": (DC(levels=1), [0.5], 1.0, [0.75], 0 - 0.5 * 0.75, 0.75),
}


@each("case", WORKED)
def test_gradients_are_those_worked_out_by_hand(case):
    neuron, currents, gradient, of_current, of_threshold, of_carry = case
    found = of_one(neuron, currents, gradient)
    assert found[0] == pytest.approx(of_current, abs=1e-12)
    assert found[1] == pytest.approx([of_threshold], abs=1e-12)
    assert found[2] == pytest.approx([of_carry], abs=1e-12)


def test_dc_has_a_gradient_of_its_bias():
    """One level, mean of two steps: v = 0.5 + 0, then 0.5 + 0.5 + 0 with nothing sent before."""
    # Step 2: a = 1/2 of e's gradient, f' = 1 − 0.25; λu = 0.375, λx = 0.375, λe = 1 − 0.375.
    # Step 1: a = −0.375 + 0.625, f' = 0.75.
    of_potential = 0.375 + 0.25 * 0.75
    found = of_one(DC(levels=1), [0.5, 0.0], 1.0, bias=1e-9)
    assert found[0] == pytest.approx([of_potential + 0.375, 0.375 + 0 / 2], abs=1e-6)
    assert found[3] == pytest.approx([0.375 + of_potential], abs=1e-6)


# Surrogate, potential, and its slope for θ = 1.
SLOPES = {
    "triangle": [(0.75, 0.75), (1.0, 1.0), (1.5, 0.5), (2.0, 0.0), (-3.0, 0.0)],
    "sigmoid": [(1.0, 1.0), (1.25, 4 * math.exp(-1) / (1 + math.exp(-1)) ** 2)],
    "atan": [(1.0, 1.0), (2.0, 1 / (1 + math.pi**2))],
}


@surrogates
def test_surrogates_are_those_of_spikingjelly(surrogate):
    for potential, slope in SLOPES[surrogate]:
        found = of_one(IF(initial_fraction=0.0), [potential], [1.0], surrogate)
        assert found[0] == pytest.approx([slope], abs=1e-12)


@surrogates
@each("neuron", NEURONS)
def test_the_reference_computes_the_same_with_a_surrogate(neuron, surrogate):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 17))
    inputs = (layer.current, layer.threshold, layer.carry, layer.dynamics, layer.bias)
    for actual, wanted in zip(reference.neuron(*inputs, surrogate=surrogate), reference.neuron(*inputs), strict=True):
        assert_same_bits(actual, wanted)


@backend
@surrogates
@each("neuron", DEFAULT_NEURONS)
def test_operators_compute_the_same_with_a_surrogate(neuron, surrogate, backend):
    layer = random_layer(Dynamics(neuron, 5, **CARRYING), Size(3, 17)).with_row_alpha()
    inputs = (layer.current, layer.threshold, layer.carry, layer.dynamics)
    options = {"bias": layer.bias, "row_alpha": layer.row_alpha, "backend": backend}
    for operator in (ops.neuron_spikes, ops.neuron_mean):
        for actual, wanted in zip(
            operator(*inputs, **options, surrogate=surrogate), operator(*inputs, **options), strict=True
        ):
            assert_same_bits(actual, wanted)


FEW = {name: NEURONS[name] for name in ("if", "lif-half", "snm", "snm-original", "mt-L1", "mt-L24", "dc-L7", "dc-L24")}

# Every neuron, size and hard input, against autograd through the reference in the same precision.


@each("dtype", NATIVE_DTYPES)
@surrogates
@each("neuron", NEURONS)
def test_the_recursion_of_the_reference_is_its_autograd(neuron, surrogate, dtype):
    for timesteps in (1, 2, 5):
        layer = random_layer(Dynamics(neuron, timesteps, **CARRYING), Size(3, 17), dtype, seed=timesteps)
        assert_gradients_are_the_references(layer, surrogate, "reference")


@needs_cpu
@one_build
@each("dtype", NATIVE_DTYPES)
@each("size", {name: size for name, size in SIZES.items() if size.batch and size.neurons})
@each("neuron", NEURONS)
def test_gradients_of_every_size_are_the_references(neuron, size, surrogate, dtype):
    assert_gradients_are_the_references(random_layer(Dynamics(neuron, 5), size, dtype), surrogate, "cpu")


@needs_cpu
@one_build
@each("dtype", NATIVE_DTYPES)
@each("timesteps", {**TIMESTEPS, "T50": 50})
@each("neuron", FEW)
def test_gradients_of_every_number_of_timesteps_are_the_references(neuron, timesteps, surrogate, dtype):
    layer = random_layer(Dynamics(neuron, timesteps), Size(3, 23), dtype)
    assert_gradients_are_the_references(layer, surrogate, "cpu")


@needs_cpu
@one_build
@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@each("neuron", FEW)
def test_gradients_of_hard_inputs_are_the_references(neuron, change, surrogate, dtype):
    for timesteps in (2, 5):
        layer = change(random_layer(Dynamics(neuron, timesteps), Size(3, 63), dtype, seed=timesteps))
        assert_gradients_are_the_references(layer, surrogate, "cpu")


@needs_cpu
@surrogates
@each("neuron", NEURONS)
def test_other_fractions_than_the_default_have_the_references_gradients(neuron, surrogate):
    changes = {"initial_fraction": 0.3}
    if neuron.kind is Kind.SNM:
        changes["negative_fraction"] = -0.7
    layer = random_layer(Dynamics(replace(neuron, **changes), 5), Size(3, 17), torch.float64)
    assert_gradients_are_the_references(layer, surrogate, "cpu")


@backend
@surrogates
@each("neuron", NEURONS)
def test_a_threshold_of_zero_has_no_gradient(neuron, surrogate, backend):
    layer = random_layer(Dynamics(neuron, 4), Size(3, 17), current_scale=9.0)
    silent = replace(layer, threshold=torch.zeros(17))
    for of_mean in (False, True):
        for found in by_operator(silent, random_gradient(silent, of_mean), surrogate, backend).values():
            assert not found.any()


@backend
@each("neuron", DEFAULT_NEURONS)
def test_gradients_stop_at_a_nan_and_stay_finite(neuron, backend):
    layer = random_layer(Dynamics(neuron, 4), Size(2, 5))
    layer.current[1, 0, 2] = math.nan
    for surrogate in SURROGATES:
        found = by_operator(layer, random_gradient(layer, False), surrogate, backend)
        assert all(bool(one.isfinite().all()) for one in found.values())


@backend
@each("layout", LAYOUTS)
@each("neuron", DEFAULT_NEURONS)
def test_gradients_are_the_same_for_any_strides(neuron, layout, backend):
    layer = random_layer(Dynamics(neuron, 5), Size(3, 19))
    viewed = replace(layer, current=layout(layer.current))
    packed = replace(layer, current=viewed.current.clone(memory_format=torch.contiguous_format))
    gradient = random_gradient(layer, False)
    arguments = (viewed.threshold, viewed.carry, viewed.bias, viewed.dynamics.numbers, 0, backend)
    run = torch.ops.snnkern.neuron_gradients
    wanted = run(gradient, packed.current, *arguments)
    for given in (gradient, strided(gradient, 2), transposed(gradient, 0, 1)):
        for actual, expected in zip(run(given, viewed.current, *arguments), wanted, strict=True):
            assert_same_bits(actual, expected)


@backend
@each("neuron", DEFAULT_NEURONS)
def test_an_expanded_gradient_is_that_of_a_sum(neuron, backend):
    layer = random_layer(Dynamics(neuron, 5), Size(3, 19))
    tracked = layer.current.clone().requires_grad_()
    spikes, *_ = ops.neuron_spikes(
        tracked, layer.threshold, layer.carry, layer.dynamics, bias=layer.bias, surrogate="atan", backend=backend
    )
    spikes.sum().backward()
    wanted = by_operator(layer, torch.ones(5, 3, 19), "atan", backend)["current"]
    assert_same_bits(tracked.grad, wanted)


@needs_cpu
@each("neuron", DEFAULT_NEURONS)
def test_a_rows_gradients_depend_on_that_row_alone(neuron):
    layer = random_layer(Dynamics(neuron, 5), Size(4, 37))
    gradient = random_gradient(layer, False)
    whole = by_operator(layer, gradient, "sigmoid", "cpu")
    for row in range(4):
        alone = by_operator(layer.rows(slice(row, row + 1)), gradient[:, row : row + 1], "sigmoid", "cpu")
        assert_same_bits(alone["current"][:, 0], whole["current"][:, row])
        assert_same_bits(alone["carry"][0], whole["carry"][row])


@backend
@each("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize(("batch", "neurons"), [(0, 17), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
def test_empty_layers_have_empty_gradients(neuron, batch, neurons, backend):
    layer = random_layer(Dynamics(neuron, 3), Size(batch, neurons))
    for of_mean in (False, True):
        found = by_operator(layer, random_gradient(layer, of_mean), "triangle", backend)
        assert not any(bool(one.any()) for one in found.values())
        assert found["threshold"].shape == (neurons,)


@backend
def test_the_carry_that_comes_out_is_a_constant(backend):
    layer = random_layer(Dynamics(IF(), 3, **CARRYING), Size(2, 5)).map(lambda tensor: tensor.requires_grad_())
    spikes, carry, counts = ops.neuron_spikes(
        layer.current, layer.threshold, layer.carry, layer.dynamics, surrogate="triangle", backend=backend
    )
    assert spikes.requires_grad
    assert not carry.requires_grad
    assert not counts.requires_grad


@each("neuron", DEFAULT_NEURONS)
def test_the_reference_differentiates_the_carry_that_comes_out(neuron):
    """Where nothing fires and nothing is clamped, c = μ·c + α·Σx, whatever the surrogate makes of it at a distance."""
    dynamics = Dynamics(replace(neuron, initial_fraction=0.0), 2, **CARRYING)
    current = torch.full((2, 1, 1), -0.25, dtype=torch.float64).requires_grad_()
    carry = torch.full((1, 1), -0.125, dtype=torch.float64).requires_grad_()
    threshold = torch.ones(1, dtype=torch.float64)
    decision = reference.neuron(current, threshold, carry, dynamics, surrogate="triangle")
    assert decision.carry.requires_grad
    of_current, of_carry = torch.autograd.grad(decision.carry.sum(), (current, carry), allow_unused=True)
    assert of_carry.item() == pytest.approx(CARRYING["memory"])
    assert not of_current.any()  # r is the ReLU's: negative drive is no part of it


# As operators of PyTorch.


@backend
@each("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize("constant", [False, True], ids=["sequence", "constant"])
def test_opcheck_of_the_operators_with_gradients(constant, neuron, backend):
    layer = random_layer(Dynamics(neuron, 3), Size(2, 5))
    layer = layer.constant() if constant else layer
    tracked = layer.map(lambda tensor: tensor.requires_grad_())
    numbers = layer.dynamics.numbers
    for wants_spikes in (True, False):
        torch.library.opcheck(
            torch.ops.snnkern.neuron_for_training.default,
            (tracked.current, tracked.threshold, tracked.carry, tracked.bias, None, numbers, 0, wants_spikes, backend),
        )
    plain = layer.map(torch.Tensor.detach)
    for of_mean in (True, False):
        arguments = (plain.current, plain.threshold, plain.carry, plain.bias, numbers, 2, backend)
        torch.library.opcheck(torch.ops.snnkern.neuron_gradients.default, (random_gradient(plain, of_mean), *arguments))


@backend
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(3, 5), (5,), (2, 3, 5)], ids=str)
def test_opcheck_of_the_product_with_gradients(shape, has_bias, backend):
    tensors = (torch.rand(shape), torch.rand(5, 4), torch.rand(4) if has_bias else None)
    tracked = [None if tensor is None else tensor.requires_grad_() for tensor in tensors]
    torch.library.opcheck(torch.ops.snnkern.linear_for_training.default, (*tracked, backend))


@backend
@pytest.mark.parametrize("shape", [(3, 5), (5,), (2, 3, 5), (0, 5)], ids=str)
def test_a_products_gradients_are_those_of_torch(shape, backend):
    generator = torch.Generator().manual_seed(0)
    spikes = torch.rand(shape, generator=generator, dtype=torch.float64)
    spikes = spikes * (torch.rand(shape, generator=generator) < 0.4)
    weight, bias = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((5, 4), (4,)))
    tensors = [tensor.requires_grad_() for tensor in (spikes, weight, bias)]
    product = ops.linear(*tensors, backend=backend, trainable=True)
    gradient = torch.randn(product.shape, generator=generator, dtype=torch.float64)
    found = torch.autograd.grad(product, tensors, gradient)
    wanted = torch.autograd.grad(spikes @ weight + bias, tensors, gradient)
    for name, one, other in zip(("input", "weight", "bias"), found, wanted, strict=True):
        if other.numel():
            assert_close(one, other, name)


# Rows, inputs, outputs, the part of the input that is not 0, and of the gradient: what is added row by row, and dense.
PRODUCTS = {
    "sparse": (300, 70, 65, 0.2, 0.3),
    "sparse-input": (65, 33, 47, 0.2, 1.0),
    "sparse-gradient": (65, 47, 33, 1.0, 0.2),
    "dense": (9, 40, 40, 1.0, 1.0),
    "silent": (20, 40, 40, 0.0, 0.0),
    "long-rows": (3, 2100, 40, 0.2, 0.2),
    "long-columns": (1100, 40, 300, 0.1, 0.1),
    "one-row": (1, 64, 64, 0.3, 0.3),
    "no-rows": (0, 40, 40, 0.3, 0.3),
}


@needs_cpu
@one_build
@each("dtype", NATIVE_DTYPES)
@each("case", PRODUCTS)
def test_a_product_of_spikes_has_the_gradients_of_a_dense_one(case, dtype):
    spikes, weight, gradient = _product(*case, dtype)
    run = torch.ops.snnkern.linear_gradients
    found = run(gradient, spikes, weight, True, True, "cpu")
    exact = (gradient.double() @ weight.double().T, spikes.double().T @ gradient.double())
    for one, wanted in zip(found, exact, strict=True):
        assert one.shape == wanted.shape
        if wanted.numel():
            assert_close(one, wanted.to(dtype), "gradient")
    of_input, nothing = run(gradient, spikes, weight, True, False, "cpu")
    assert_same_bits(of_input, found[0])
    assert not nothing.numel()
    nothing, of_weight = run(gradient, spikes, weight, False, True, "cpu")
    assert_same_bits(of_weight, found[1])
    assert not nothing.numel()
    product = ops.linear(spikes, weight, backend="cpu")
    if product.numel():
        assert_close(product, (spikes.double() @ weight.double()).to(dtype), "product")


def _product(rows, inputs, outputs, of_spikes, of_gradient, dtype):
    generator = torch.Generator().manual_seed(rows)

    def sparse(part, *shape):
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (values * (torch.rand(*shape, generator=generator) < part)).to(dtype)

    return sparse(of_spikes, rows, inputs), sparse(1.0, inputs, outputs), sparse(of_gradient, rows, outputs)


@needs_cpu
@each("neuron", DEFAULT_NEURONS)
def test_gradients_are_the_same_bits_whatever_the_number_of_threads(neuron):
    layer = random_layer(Dynamics(neuron, 9), Size(70, 700))
    gradient = random_gradient(layer, False)
    spikes, weight, _ = _product(700, 130, 260, 0.2, 0.2, torch.float32)
    of_product = torch.randn(700, 260, generator=torch.Generator().manual_seed(1)) * (ops.linear(spikes, weight) > 9)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(
                [
                    *by_operator(layer, gradient, "triangle", "cpu").values(),
                    ops.linear(spikes, weight, backend="cpu"),
                    *torch.ops.snnkern.linear_gradients(of_product, spikes, weight, True, True, "cpu"),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        for one, wanted in zip(other, found[0], strict=True):
            assert_same_bits(one, wanted)


WRONG_PRODUCTS = {
    "other-rows": (torch.zeros(3, 4), r"gradient must be \[…, out\] = \[2, 4\], got shape \[3, 4\]"),
    "other-width": (torch.zeros(2, 5), r"gradient must be \[…, out\] = \[2, 4\], got shape \[2, 5\]"),
    "float64": (torch.zeros(2, 4).double(), "gradient is torch.float64, but input is torch.float32"),
}


@backend
@each("case", WRONG_PRODUCTS)
def test_a_gradient_that_does_not_fit_its_product_is_refused(case, backend):
    gradient, message = case
    with pytest.raises(InputError, match=message):
        torch.ops.snnkern.linear_gradients(gradient, torch.zeros(2, 5), torch.zeros(5, 4), True, True, backend)


@backend
def test_gradients_cannot_be_differentiated_again(backend):
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5)).map(lambda tensor: tensor.requires_grad_())
    spikes, *_ = ops.neuron_spikes(
        layer.current, layer.threshold, layer.carry, layer.dynamics, surrogate="triangle", backend=backend
    )
    (gradient,) = torch.autograd.grad(spikes.square().sum(), layer.current, create_graph=True)
    with pytest.raises(InputError, match="cannot be differentiated again"):
        gradient.sum().backward()


def of_mean(current, layer):
    rest = (layer.threshold, layer.carry, layer.dynamics)
    return ops.neuron_mean(current, *rest, bias=layer.bias, surrogate="sigmoid")[0]


@each("neuron", DEFAULT_NEURONS)
def test_torch_func_maps_and_differentiates_a_layer(neuron):
    layer = random_layer(Dynamics(neuron, 3), Size(2, 5))
    several = torch.stack([layer.current, layer.current.flip(0), layer.current * 2])

    def loss(current):
        return of_mean(current, layer).square().sum()

    def gradient(current):
        tracked = current.clone().requires_grad_()
        loss(tracked).backward()
        return tracked.grad

    mapped = torch.func.vmap(lambda current: of_mean(current, layer))(several)
    assert torch.equal(mapped, torch.stack([of_mean(current, layer) for current in several]))
    assert torch.equal(torch.func.grad(loss)(layer.current), gradient(layer.current))
    each_own = torch.func.vmap(torch.func.grad(loss))(several)
    assert torch.equal(each_own, torch.stack([gradient(current) for current in several]))
    assert each_own.any()
    wanted = torch.autograd.functional.jacobian(lambda current: of_mean(current, layer), layer.current)
    assert torch.equal(torch.func.jacrev(lambda current: of_mean(current, layer))(layer.current), wanted)


def test_torch_func_maps_nothing_at_all():
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    mapped = torch.func.vmap(lambda current: of_mean(current, layer))(layer.current.new_zeros(0, *layer.current.shape))
    assert mapped.shape == (0, *layer.carry.shape)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # torch's own
def test_torch_func_has_no_second_derivative_and_no_forward_mode_of_spikes():
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    weight = torch.rand(5, 2)

    def first(current):
        return torch.func.grad(lambda current: of_mean(current, layer).square().sum())(current).sum()

    with pytest.raises(InputError, match="cannot be differentiated again"):
        torch.func.grad(first)(layer.current)
    for function in (lambda x: of_mean(x, layer), lambda x: ops.linear(x, weight, trainable=True)):
        with pytest.raises(InputError, match="no forward-mode derivative"):
            torch.func.jvp(function, (layer.current,), (layer.current,))


def test_a_product_alone_can_be_differentiated_again():
    inputs, bias = torch.rand(4, 5), torch.rand(2)
    hessian = [
        torch.func.jacrev(torch.func.jacrev(lambda weight, product=product: product(weight).pow(3).sum()))(
            torch.ones(5, 2)
        )
        for product in (lambda weight: ops.linear(inputs, weight, bias, trainable=True), lambda w: inputs @ w + bias)
    ]
    torch.testing.assert_close(*hessian)


@backend
def test_a_product_without_outputs_has_gradients(backend):
    inputs = torch.rand(3, 5, requires_grad=True)
    ops.linear(inputs, torch.rand(5, 0), torch.rand(0), trainable=True, backend=backend).sum().backward()
    assert torch.equal(inputs.grad, torch.zeros(3, 5))


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(
    "compiler", ["aot_eager", pytest.param("inductor", marks=[needs_compiler, pytest.mark.thorough])]
)
@each("neuron", DEFAULT_NEURONS)
def test_training_compiles_into_one_graph(neuron, compiler):
    layer = random_layer(Dynamics(neuron, 3), Size(2, 5))
    weight = torch.rand(5, 5) - 0.3

    def loss(current, threshold, weight):
        tensors = {"bias": layer.bias, "surrogate": "sigmoid"}
        spikes, *_ = ops.neuron_spikes(current * 2, threshold, layer.carry, layer.dynamics, **tensors)
        mixed = ops.linear(spikes, weight, trainable=True)
        mean, *_ = ops.neuron_mean(mixed, threshold, layer.carry, layer.dynamics, **tensors)
        return mean.square().sum()

    def gradients(function):
        tensors = [tensor.clone().requires_grad_() for tensor in (layer.current, layer.threshold, weight)]
        function(*tensors).backward()
        return [tensor.grad for tensor in tensors]

    for name, actual, wanted in zip(
        ("current", "threshold", "weight"),
        gradients(torch.compile(loss, fullgraph=True, backend=compiler)),
        gradients(loss),
        strict=True,
    ):
        assert_close(actual, wanted, name)
        assert wanted.any()


@backend
@each("neuron", DEFAULT_NEURONS)
def test_autocast_computes_neurons_and_their_products_in_float32(neuron, backend):
    layer = random_layer(Dynamics(neuron, 3), Size(2, 5))
    gradient = random_gradient(layer, False)
    tracked = layer.current.bfloat16().requires_grad_()
    weight = torch.rand(5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        spikes, carry, _ = ops.neuron_spikes(
            tracked,
            layer.threshold,
            layer.carry,
            layer.dynamics,
            bias=layer.bias,
            surrogate="triangle",
            backend=backend,
        )
        product = ops.linear(spikes.bfloat16(), weight, trainable=True, backend=backend)
    assert spikes.dtype == carry.dtype == product.dtype == torch.float32
    spikes.backward(gradient)
    rounded = replace(layer, current=layer.current.bfloat16().float())
    wanted = by_operator(rounded, gradient, "triangle", backend)["current"]
    assert_same_bits(tracked.grad, wanted.bfloat16())


# Refusals.


@pytest.mark.parametrize("name", ["Triangle", "rectangle", "", 1, True], ids=repr)
@pytest.mark.parametrize("operator", [ops.neuron_spikes, ops.neuron_mean], ids=["spikes", "mean"])
def test_an_unknown_surrogate_is_refused_with_the_choices(operator, name):
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    with pytest.raises(InputError, match=r"unknown surrogate .*: choose one of triangle, sigmoid, atan"):
        operator(layer.current, layer.threshold, layer.carry, layer.dynamics, surrogate=name)
    with pytest.raises(InputError, match="unknown surrogate"):
        reference.neuron(layer.current, layer.threshold, layer.carry, layer.dynamics, surrogate=name)


@pytest.mark.parametrize("operator", [ops.neuron_spikes, ops.neuron_mean], ids=["spikes", "mean"])
def test_alpha_has_no_gradient(operator):
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    alpha = torch.zeros(2, requires_grad=True)
    with pytest.raises(InputError, match="row_alpha requires grad"):
        operator(layer.current, layer.threshold, layer.carry, layer.dynamics, row_alpha=alpha, surrogate="atan")


WRONG_GRADIENTS = {
    "other-T": (torch.zeros(2, 2, 5), r"gradient must be \[T, B, N\] = \[3, 2, 5\], got shape \[2, 2, 5\]"),
    "other-B": (torch.zeros(3, 5), r"gradient must be \[B, N\] = \[2, 5\], got shape \[3, 5\]"),
    "1d": (torch.zeros(5), r"gradient must be \[T, B, N\] = \[3, 2, 5\], got shape \[5\]"),
    "float64": (torch.zeros(2, 5).double(), "gradient is torch.float64, but current is torch.float32"),
    "meta": (torch.zeros(2, 5, device="meta"), "gradient is on meta, but current is on cpu"),
}


@backend
@each("case", WRONG_GRADIENTS)
def test_a_gradient_that_does_not_fit_is_refused(case, backend):
    gradient, message = case
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    arguments = (layer.current, layer.threshold, layer.carry, None, layer.dynamics.numbers, 0, backend)
    with pytest.raises(InputError, match=message):
        torch.ops.snnkern.neuron_gradients(gradient, *arguments)


@pytest.mark.parametrize("name", ["current", "threshold", "carry", "bias"])
def test_what_is_no_tensor_is_refused_by_name(name):
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    given = {"current": layer.current, "threshold": layer.threshold, "carry": layer.carry} | {name: 5}
    with pytest.raises(InputError, match=f"{name} must be a tensor, got int"):
        ops.neuron_mean(dynamics=layer.dynamics, surrogate="atan", **given)
    with pytest.raises(InputError, match="weight must be a tensor, got list"):
        ops.linear(layer.current, [1.0], trainable=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"surrogate": 9}, "surrogate must be one of"), ({"numbers": [1.0, 2.0]}, r"dynamics must be the numbers")],
)
def test_numbers_that_no_layer_has_are_refused(change, message):
    layer = random_layer(Dynamics(IF(), 3), Size(2, 5))
    rest = {"numbers": layer.dynamics.numbers, "surrogate": 0} | change
    tensors = (torch.zeros(2, 5), layer.current, layer.threshold, layer.carry, None)
    with pytest.raises(InputError, match=message):
        torch.ops.snnkern.neuron_gradients(*tensors, rest["numbers"], rest["surrogate"], "cpu")


def test_surrogates_are_named_as_kernels_number_them():
    assert [int(parse_surrogate(name)) for name in SURROGATES] == [0, 1, 2]


# As a module.


@backend
@each("neuron", DEFAULT_NEURONS)
def test_an_activation_with_a_surrogate_trains_what_is_in_front_of_it(neuron, backend):
    layer = random_layer(Dynamics(neuron, 4), Size(3, 17), torch.float64)
    activation = SpikingActivation(neuron, layer.threshold, 4, bias=layer.bias, backend=backend, surrogate="atan")
    activation.threshold = nn.Parameter(activation.threshold)
    tracked = layer.current.clone().requires_grad_()
    spikes = activation(tracked)
    gradient = random_gradient(layer, False)
    spikes.backward(gradient)
    fresh = replace(layer, carry=torch.zeros_like(layer.carry))
    wanted = by_autograd(fresh, gradient, "atan")
    assert_close(tracked.grad, wanted["current"], "current")
    assert_close(activation.threshold.grad, wanted["threshold"], "threshold")


def test_an_activation_without_a_surrogate_is_for_inference():
    with pytest.raises(InputError, match="current requires grad"):
        SpikingActivation(IF(), torch.ones(5), 3)(torch.zeros(3, 2, 5, requires_grad=True))
    with pytest.raises(InputError, match="unknown surrogate 'cube'"):
        SpikingActivation(IF(), torch.ones(5), 3, surrogate="cube")


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_training_goes_on_after_an_evaluation_under_inference_mode(alpha):
    activation = SpikingActivation(IF(), torch.ones(5), 3, alpha=alpha, surrogate="triangle")
    with torch.inference_mode():
        activation(torch.rand(3, 2, 5))
    current = torch.rand(3, 2, 5, requires_grad=True)
    activation(current).sum().backward()
    assert current.grad.any()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
def test_a_compiled_activation_takes_batches_of_other_sizes():
    activation = SpikingActivation(IF(), torch.ones(5), 3, surrogate="triangle")
    compiled = torch.compile(activation, fullgraph=True, backend="eager")
    for batch in (4, 4, 2):
        current = torch.rand(3, batch, 5, requires_grad=True)
        compiled(current).sum().backward()
        assert current.grad.any()


def test_activation_checkpointing_is_refused_where_there_is_a_carry():
    from torch.utils.checkpoint import checkpoint

    for alpha in (0.0, 0.5):
        activation = SpikingActivation(IF(), torch.ones(5), 3, alpha=alpha, surrogate="triangle")
        spikes = checkpoint(activation, torch.rand(3, 2, 5, requires_grad=True), use_reentrant=False)
        if not alpha:
            spikes.sum().backward()
            continue
        with pytest.raises(InputError, match="activation checkpointing"):
            spikes.sum().backward()


@needs_cpu
@each("neuron", DEFAULT_NEURONS)
def test_a_threshold_below_zero_never_fires(neuron):
    layer = random_layer(Dynamics(neuron, 3), Size(2, 5))
    layer.threshold[1] = -0.5
    rest = (layer.current, layer.threshold, layer.carry, layer.dynamics)
    found = [ops.neuron_spikes(*rest, bias=layer.bias, backend=name) for name in ("cpu", "reference")]
    for spikes, carry, counts in found:
        assert not spikes[..., 1].any()
        assert torch.equal(carry, found[0][1])
        assert torch.equal(counts, found[0][2])
