"""The operators: registered properly, clear about what they refuse, over backends that are chosen in one place."""

from dataclasses import replace

import pytest
import torch
from support.cases import (
    DEFAULT_NEURONS,
    LAYER_BACKENDS,
    Size,
    assert_same_bits,
    each,
    needs_compiler,
    needs_cpu,
    random_layer,
)

import snnkern
from snnkern import IF, MT, Dynamics, InputError
from snnkern.kernels import ops
from snnkern.kernels.backends import choice, cpu
from snnkern.kernels.neurons import Kind

CARRYING = {"alpha": 0.7, "memory": 0.6}
OPERATORS = {"neuron_spikes": ops.neuron_spikes, "neuron_mean": ops.neuron_mean}
backend = pytest.mark.parametrize("backend", LAYER_BACKENDS)


def call(operator, layer, **options):
    tensors = {"bias": layer.bias, "row_alpha": layer.row_alpha}
    return operator(layer.current, layer.threshold, layer.carry, layer.dynamics, **tensors, **options)


def layer_of(neuron=None, dtype=torch.float32):
    return random_layer(Dynamics(neuron or MT(), 3, **CARRYING), Size(2, 5), dtype)


# What PyTorch asks of an operator.


@backend
@each("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize("constant", [False, True], ids=["sequence", "constant"])
@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck_of_the_neuron_operators(name, constant, neuron, backend):
    layer = layer_of(neuron)
    layer = layer.constant() if constant else layer
    operator = getattr(torch.ops.snnkern, name).default
    tensors = (layer.current, layer.threshold, layer.carry, layer.bias)
    for row_alpha in (None, torch.tensor([0.0, 0.5])):
        torch.library.opcheck(operator, (*tensors, row_alpha, *layer.dynamics.numbers, backend))


@backend
@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", [(3, 5), (5,), (2, 3, 5), (0, 5)], ids=str)
def test_opcheck_of_linear(shape, has_bias, backend):
    bias = torch.rand(4) if has_bias else None
    torch.library.opcheck(torch.ops.snnkern.linear.default, (torch.rand(shape), torch.rand(5, 4), bias, backend))


@pytest.mark.parametrize("grad", [False, True])
def test_the_check_for_finite_numbers_is_registered_in_full(grad):
    torch.library.opcheck(torch.ops.snnkern.finite.default, (torch.rand(3, 5, requires_grad=grad),))


@each("operator", OPERATORS)
@each("neuron", DEFAULT_NEURONS)
def test_fake_tensors_tell_the_shapes_of_real_ones(neuron, operator):
    layer = layer_of(neuron)
    real, fake = call(operator, layer), call(operator, layer.map(lambda tensor: tensor.to("meta")))
    assert [(one.shape, one.dtype) for one in fake] == [(one.shape, one.dtype) for one in real]
    assert {one.device.type for one in fake} == {"meta"}


COMPILED = [
    *(pytest.param(name, "aot_eager", id=f"{name}-traced") for name in DEFAULT_NEURONS),
    pytest.param("dc", "inductor", id="dc-compiled", marks=[needs_compiler, pytest.mark.thorough]),
]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own compiler
@pytest.mark.parametrize(("name", "compiler"), COMPILED)
def test_operators_compile_into_one_graph_with_the_code_around_them(name, compiler):
    layer = layer_of(DEFAULT_NEURONS[name])
    weight, bias = torch.rand(5, 5) - 0.3, torch.rand(5)

    def network(current, threshold, carry):
        spikes, next_carry, counts = ops.neuron_spikes(current * 2, threshold, carry, layer.dynamics, bias=layer.bias)
        mixed = ops.linear(spikes, weight, bias)
        mean, _, _ = ops.neuron_mean(mixed, threshold, carry, layer.dynamics, bias=layer.bias)
        return mean + 1, next_carry, counts

    arguments = (layer.current, layer.threshold, layer.carry)
    compiled = torch.compile(network, fullgraph=True, backend=compiler)(*arguments)
    for actual, expected in zip(compiled, network(*arguments), strict=True):
        assert_same_bits(actual, expected)


# Refusals.


def changed(**changes):
    """A change of the layer that makes it wrong."""
    return lambda layer: replace(layer, **{name: change(getattr(layer, name)) for name, change in changes.items()})


WRONG_LAYERS = {
    "carry-is-3d": (changed(carry=lambda c: c[None]), r"carry must be \[B, N\], got shape \[1, 2, 5\]"),
    "carry-is-1d": (changed(carry=lambda c: c[0]), r"carry must be \[B, N\], got shape \[5\]"),
    "current-has-other-T": (
        changed(current=lambda x: x[:2]),
        r"current must be \[T, B, N\] = \[3, 2, 5\], got shape \[2, 2, 5\]",
    ),
    "current-has-other-B": (changed(current=lambda x: x[:, :1]), r"current must be \[T, B, N\] = \[3, 2, 5\], got"),
    "current-has-other-N": (changed(current=lambda x: x[..., :4]), r"current must be \[T, B, N\] = \[3, 2, 5\], got"),
    "constant-current-has-other-N": (
        changed(current=lambda x: x[0, :, :4]),
        r"current must be \[B, N\] = \[2, 5\], got shape \[2, 4\]",
    ),
    "current-is-1d": (
        changed(current=lambda x: x[0, 0]),
        r"current must be \[T, B, N\] = \[3, 2, 5\], got shape \[5\]",
    ),
    "current-is-4d": (changed(current=lambda x: x[None]), r"current must be \[T, B, N\] = \[3, 2, 5\], got"),
    "threshold-is-a-scalar": (changed(threshold=lambda h: h[0]), r"threshold must be \[N\] = \[5\], got shape \[\]"),
    "threshold-has-other-N": (changed(threshold=lambda h: h[:4]), r"threshold must be \[N\] = \[5\], got shape \[4\]"),
    "row_alpha-has-other-B": (
        lambda layer: replace(layer, row_alpha=torch.zeros(3)),
        r"row_alpha must be \[B\] = \[2\], got shape \[3\]",
    ),
    "row_alpha-is-float64": (
        lambda layer: replace(layer, row_alpha=torch.zeros(2, dtype=torch.float64)),
        r"row_alpha is torch.float64, but current is torch.float32",
    ),
    "threshold-is-float64": (
        changed(threshold=torch.Tensor.double),
        r"threshold is torch.float64, but current is torch.float32",
    ),
    "carry-is-float16": (changed(carry=torch.Tensor.half), r"carry is torch.float16, but current is torch.float32"),
    "current-is-whole-numbers": (
        changed(current=torch.Tensor.long),
        r"current must be a floating-point tensor, got torch.int64",
    ),
    "current-is-complex": (
        changed(current=lambda x: x.to(torch.complex64)),
        r"current must be a floating-point tensor, got torch.complex64",
    ),
    "threshold-on-another-device": (
        changed(threshold=lambda h: h.to("meta")),
        r"threshold is on meta, but current is on cpu",
    ),
    "carry-on-another-device": (changed(carry=lambda c: c.to("meta")), r"carry is on meta, but current is on cpu"),
}


@each("operator", OPERATORS)
@each("case", WRONG_LAYERS)
def test_a_layer_that_does_not_fit_is_refused_by_what_was_given_and_wanted(case, operator):
    change, message = case
    with pytest.raises(InputError, match=message):
        call(operator, change(layer_of()))


@each("operator", OPERATORS)
def test_a_bias_of_the_wrong_width_is_refused(operator):
    layer = layer_of(DEFAULT_NEURONS["dc"])
    with pytest.raises(InputError, match=r"bias must be \[N\] = \[5\], got shape \[4\]"):
        call(operator, replace(layer, bias=layer.bias[:4]))


@each("operator", OPERATORS)
@each("neuron", {name: neuron for name, neuron in DEFAULT_NEURONS.items() if neuron.kind is not Kind.DC})
def test_a_bias_is_for_dc_alone(neuron, operator):
    with pytest.raises(InputError, match=f"bias is for DC neurons; the current of {neuron.label} neurons contains it"):
        call(operator, replace(layer_of(neuron), bias=torch.zeros(5)))


WRONG_PRODUCTS = {
    "weight-is-1d": ((2, 5), (5,), None, r"weight must be \[in, out\], got shape \[5\]"),
    "weight-is-transposed": ((2, 5), (4, 5), None, r"input must be \[\.\.\., 4\] to fit weight \[4, 5\], got"),
    "input-is-a-scalar": ((), (5, 4), None, r"input must be \[\.\.\., 5\] to fit weight \[5, 4\], got shape \[\]"),
    "bias-is-of-the-inputs": ((2, 5), (5, 4), (5,), r"bias must be \[out\] = \[4\], got shape \[5\]"),
    "bias-is-2d": ((2, 5), (5, 4), (1, 4), r"bias must be \[out\] = \[4\], got shape \[1, 4\]"),
}


@each("case", WRONG_PRODUCTS)
def test_a_product_that_does_not_fit_is_refused_by_what_was_given_and_wanted(case):
    signal, weight, bias, message = case
    with pytest.raises(InputError, match=message):
        ops.linear(torch.rand(signal), torch.rand(weight), None if bias is None else torch.rand(bias))


def test_a_product_of_mixed_dtypes_or_devices_is_refused():
    signal, weight = torch.rand(2, 5), torch.rand(5, 4)
    with pytest.raises(InputError, match=r"weight is torch.float64, but input is torch.float32"):
        ops.linear(signal, weight.double())
    with pytest.raises(InputError, match=r"bias is torch.float16, but input is torch.float32"):
        ops.linear(signal, weight, torch.rand(4).half())
    with pytest.raises(InputError, match=r"weight is on meta, but input is on cpu"):
        ops.linear(signal, weight.to("meta"))
    with pytest.raises(InputError, match=r"input must be a floating-point tensor, got torch.int64"):
        ops.linear(signal.long(), weight.long())


@each("operator", OPERATORS)
@pytest.mark.parametrize("name", ["current", "threshold", "carry", "bias", "row_alpha"])
def test_a_tensor_that_requires_grad_is_refused_by_name_unless_grad_is_off(name, operator):
    layer = layer_of(DEFAULT_NEURONS["dc"]).with_row_alpha()
    wanted = call(operator, layer)
    tracked = replace(layer, **{name: getattr(layer, name).clone().requires_grad_()})
    with pytest.raises(InputError, match=rf"^{name} requires grad.*under torch.no_grad\(\), or detach"):
        call(operator, tracked)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            results = call(operator, tracked)
        assert not any(result.requires_grad for result in results)
        for result, expected in zip(results, wanted, strict=True):
            assert_same_bits(result, expected)


@pytest.mark.parametrize("name", ["input", "weight", "bias"])
def test_a_product_that_requires_grad_is_refused_by_name_unless_grad_is_off(name):
    tensors = {"input": torch.rand(2, 5), "weight": torch.rand(5, 4), "bias": torch.rand(4)}
    tensors[name].requires_grad_()
    with pytest.raises(InputError, match=rf"^{name} requires grad.*under torch.no_grad\(\), or detach"):
        ops.linear(**tensors)
    with torch.no_grad():
        result = ops.linear(**tensors)
    assert not result.requires_grad


# Backends.


def test_backends_are_listed_in_order_of_preference_with_a_detail_each():
    found = snnkern.backends()
    names = [status.name for status in found]
    assert names[-1] == "reference"
    assert "cpu" in names
    assert len(set(names)) == len(names)
    assert found[-1].available
    assert all(status.detail for status in found)


@pytest.mark.parametrize("name", ["gpu", "", "CPU"], ids=repr)
def test_an_unknown_backend_is_refused_with_the_choices(name):
    choices = ", ".join(["auto", *(status.name for status in snnkern.backends())])
    message = f"^unknown backend {name!r}: choose one of {choices}$"
    layer, weight = layer_of(), torch.rand(5, 4)
    with pytest.raises(InputError, match=message):
        ops.neuron_spikes(layer.current, layer.threshold, layer.carry, layer.dynamics, backend=name)
    with pytest.raises(InputError, match=message):
        ops.linear(layer.carry, weight, backend=name)


@needs_cpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_dtypes_without_native_kernels_are_the_references(dtype):
    layer = layer_of(dtype=dtype)
    for actual, expected in zip(
        call(ops.neuron_spikes, layer), call(ops.neuron_spikes, layer, backend="reference"), strict=True
    ):
        assert_same_bits(actual, expected)
    with pytest.raises(InputError, match=f"backend 'cpu' does not compute {dtype} tensors on cpu"):
        call(ops.neuron_spikes, layer, backend="cpu")


class Recorder:
    """Stands in for the native module and notes what is called."""

    def __init__(self, module) -> None:
        self.module, self.called = module, []

    def __getattr__(self, name):
        self.called.append(name)
        return getattr(self.module, name)


@needs_cpu
def test_auto_runs_the_native_kernels_and_reference_does_not(monkeypatch):
    recorder = Recorder(cpu._cpu)
    monkeypatch.setattr(cpu, "_cpu", recorder)
    layer = layer_of()
    call(ops.neuron_mean, layer, backend="reference")
    ops.linear(layer.carry, torch.rand(5, 4), backend="reference")
    assert recorder.called == []
    call(ops.neuron_mean, layer)
    ops.linear(layer.carry, torch.rand(5, 4))
    assert recorder.called == ["neuron_float32", "linear_float32"]


@pytest.fixture
def no_native_code(monkeypatch):
    """As on a machine where the native kernels were not built."""
    monkeypatch.setattr(cpu, "_cpu", None)
    monkeypatch.setattr(cpu, "_reason", "the native CPU kernels were not built", raising=False)
    monkeypatch.setattr(choice, "_warned", False)


@pytest.mark.usefixtures("no_native_code")
def test_without_native_code_auto_falls_back_to_the_reference_and_says_so_once():
    layer, weight = layer_of(), torch.rand(5, 4)
    call(ops.neuron_spikes, layer, backend="reference")  # which is meant so
    call(ops.neuron_spikes, layer.to(torch.float16))  # which the native kernels do not compute either
    with pytest.warns(snnkern.SlowBackendWarning, match="the native CPU kernels were not built"):
        call(ops.neuron_spikes, layer)
    for actual, expected in zip(
        call(ops.neuron_spikes, layer), call(ops.neuron_spikes, layer, backend="reference"), strict=True
    ):
        assert_same_bits(actual, expected)
    assert_same_bits(ops.linear(layer.carry, weight), ops.linear(layer.carry, weight, backend="reference"))


@pytest.mark.usefixtures("no_native_code")
def test_without_native_code_the_cpu_backend_says_why_it_is_missing():
    message = "backend 'cpu' is not available: the native CPU kernels were not built"
    layer = layer_of()
    with pytest.raises(InputError, match=message):
        call(ops.neuron_spikes, layer, backend="cpu")
    with pytest.raises(InputError, match=message):
        ops.linear(layer.carry, torch.rand(5, 4), backend="cpu")
    with pytest.raises(InputError, match=message):
        snnkern.SpikingActivation(IF(), torch.ones(5), 4, backend="cpu")
    status = {one.name: one for one in snnkern.backends()}["cpu"]
    assert not status.available
    assert status.detail == "the native CPU kernels were not built"


@needs_cpu
def test_steps_beyond_memory_are_one_clear_error():
    numbers = torch.zeros(1, 20_000)  # spikes are more bytes than a processor can address
    with pytest.raises(
        InputError, match=r"2,147,483,647 timesteps \(T\) of 1 rows of 20,000 neurons need more memory than there is"
    ):
        ops.neuron_spikes(numbers, numbers[0], numbers, Dynamics(IF(), 2**31 - 1), backend="cpu")
