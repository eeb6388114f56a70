"""The CUDA kernel of a layer's gradients, as the reference and the CPU's kernel: on the host, and on a GPU."""

from __future__ import annotations

import ctypes
import math
from dataclasses import replace

import pytest
import torch
from support.cases import (
    DEFAULT_NEURONS,
    INPUTS,
    NATIVE_DTYPES,
    NEURONS,
    SIZES,
    Layer,
    Size,
    assert_same_bits,
    each,
    needs_cpu,
    random_layer,
)
from support.cuda_on_host import ORDERS, take_turns
from support.gradients import (
    NAMES,
    assert_close,
    assert_gradients_are_the_references,
    by_operator,
    one_for,
    random_gradient,
)
from support.layouts import CUDA_LAYOUTS, strided, transposed, unaligned
from torch import Tensor

from snnkern import Dynamics
from snnkern.kernels.backends import Gradients, Problem, choice, cpu, cuda
from snnkern.kernels.backends.triton import launch
from snnkern.kernels.neurons import Kind
from snnkern.kernels.surrogates import SURROGATES, Surrogate

surrogates = pytest.mark.parametrize("surrogate", SURROGATES)
FEW = {name: NEURONS[name] for name in ("if", "lif-half", "snm", "snm-original", "mt-L1", "mt-L24", "dc-L7", "dc-L24")}
# Steps that shared memory holds; one more; so many that segments have the same length, and that they have not.
MOST_STEPS = 16
TIMESTEPS = {f"T{timesteps}": timesteps for timesteps in (1, 2, 5, MOST_STEPS, MOST_STEPS + 1, 33, 50)}
# Of two neurons per thread, and of one; several warps beside each other, and several blocks below each other.
WIDE = {"B9-N132": Size(9, 132), "B5-N131": Size(5, 131)}


@pytest.fixture
def surrogate(request):
    return one_for(request, SURROGATES)


def found(
    layer: Layer, gradient: Tensor, backend=cuda, device: torch.device | str = "cpu", surrogate: str = "atan"
) -> Gradients:
    """By a backend itself; what comes out is on the CPU."""
    layer, gradient = layer.map(lambda tensor: tensor.to(device)), gradient.to(device)
    problem = Problem(
        layer.current, layer.threshold, layer.carry, layer.dynamics, layer.bias, None, wants_spikes=gradient.dim() == 3
    )
    gradients = backend.neuron_gradients(problem, gradient, Surrogate[surrogate.upper()])
    return Gradients(*(tensor.cpu() for tensor in gradients))


def assert_same(actual: Gradients, wanted: Gradients, names: tuple[str, ...] = NAMES) -> None:
    for name in names:
        assert_same_bits(getattr(actual, name), getattr(wanted, name))


def forms(layer: Layer):
    """A sequence and a constant current, each with the gradient of the spikes and of the mean."""
    for form in (layer, layer.constant()):
        for of_mean in (False, True):
            yield form, random_gradient(form, of_mean)


@each("dtype", NATIVE_DTYPES)
@each("size", {name: size for name, size in (SIZES | WIDE).items() if size.batch and size.neurons})
@each("neuron", NEURONS)
def test_gradients_of_every_size_are_the_references(cuda_device, neuron, size, surrogate, dtype):
    assert_gradients_are_the_references(random_layer(Dynamics(neuron, 5), size, dtype), surrogate, "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("timesteps", TIMESTEPS)
@each("neuron", FEW)
def test_gradients_of_every_number_of_timesteps_are_the_references(cuda_device, neuron, timesteps, surrogate, dtype):
    layer = random_layer(Dynamics(neuron, timesteps), Size(3, 22), dtype)
    assert_gradients_are_the_references(layer, surrogate, "cuda", cuda_device)


@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@each("neuron", FEW)
def test_gradients_of_hard_inputs_are_the_references(cuda_device, neuron, change, surrogate, dtype):
    for timesteps in (2, MOST_STEPS + 2):
        layer = change(random_layer(Dynamics(neuron, timesteps), Size(3, 64), dtype, seed=timesteps))
        assert_gradients_are_the_references(layer, surrogate, "cuda", cuda_device)


@surrogates
@each("neuron", NEURONS)
def test_other_fractions_than_the_default_have_the_references_gradients(cuda_device, neuron, surrogate):
    changes = {"initial_fraction": 0.3} | ({"negative_fraction": -0.7} if neuron.kind is Kind.SNM else {})
    layer = random_layer(Dynamics(replace(neuron, **changes), 5), Size(3, 17), torch.float64)
    assert_gradients_are_the_references(layer, surrogate, "cuda", cuda_device)


# To the bit, as the CPU's: both run the same source (csrc/surrogate.h). Sums over the batch have another order.


@needs_cpu
@each("dtype", NATIVE_DTYPES)
@each("change", INPUTS)
@each("neuron", NEURONS)
def test_gradients_of_every_row_are_those_of_the_cpu(cuda_device, neuron, change, surrogate, dtype):
    for timesteps in (3, 2 * MOST_STEPS + 1):
        layer = change(random_layer(Dynamics(neuron, timesteps), Size(3, 64), dtype, seed=timesteps))
        for form, gradient in forms(layer):
            mine = found(form, gradient, cuda, cuda_device, surrogate)
            assert_same(mine, found(form, gradient, cpu, surrogate=surrogate), ("current", "carry"))
        alone = layer.rows(slice(0, 1))
        for form, gradient in forms(alone):
            mine = found(form, gradient, cuda, cuda_device, surrogate)
            assert_same(mine, found(form, gradient, cpu, surrogate=surrogate))


@needs_cpu
@each("kind", {kind: kind for kind in ("mt", "dc")})
def test_so_many_timesteps_that_divisions_take_longer(cuda_device, kind):
    """Some neurons fire at every step."""
    layer = random_layer(Dynamics(DEFAULT_NEURONS[kind], 2**16 + 1), Size(1, 3))
    layer = replace(layer, current=layer.current + torch.tensor([0.0, 0.0, 3.0]))
    for form, gradient in forms(layer):
        assert_same(found(form, gradient, cuda, cuda_device), found(form, gradient, cpu))


@needs_cpu
@each("strip", {"one-row": 1, "three-rows": 3, "all-rows": 16})
@each("neurons", {"two-per-thread": 130, "one-per-thread": 129})
@each("neuron", DEFAULT_NEURONS)
def test_sums_over_the_batch_follow_the_rows(cuda_device, neuron, neurons, strip, monkeypatch):
    """A strip's rows are added one after the other, and then strips: which ones, the shape alone decides."""
    layer = random_layer(Dynamics(neuron, 3), Size(7, neurons), torch.float64)
    gradient = random_gradient(layer, False)
    monkeypatch.setattr(cuda, "MANY_NEURONS", 1)
    monkeypatch.setattr(cuda, "LONGEST_STRIP", strip)
    together = found(layer, gradient, cuda, cuda_device)
    rows = [found(layer.rows(slice(row, row + 1)), gradient[:, row : row + 1], cpu) for row in range(7)]
    for name in ("threshold", "bias"):
        strips = [sum(getattr(row, name) for row in rows[at : at + strip]) for at in range(0, 7, strip)]
        wanted = torch.stack(strips).to(cuda_device).sum(dim=0).cpu()
        assert_same_bits(getattr(together, name), wanted)
    for name, dim in (("current", 1), ("carry", 0)):
        assert_same_bits(getattr(together, name), torch.cat([getattr(row, name) for row in rows], dim=dim))


def test_strips_grow_with_the_layer(monkeypatch):
    monkeypatch.setattr(cuda, "MANY_NEURONS", 100)
    monkeypatch.setattr(cuda, "LONGEST_STRIP", 4)
    lengths = [cuda.strip_length(batch, 10) for batch in (0, 1, 19, 20, 39, 40, 1000)]
    assert lengths == [1, 1, 1, 2, 3, 4, 4]


@surrogates
@each("neuron", NEURONS)
def test_a_threshold_of_zero_has_no_gradient(cuda_device, neuron, surrogate):
    layer = random_layer(Dynamics(neuron, 4), Size(3, 17), current_scale=9.0)
    silent = replace(layer, threshold=torch.zeros(17))
    for form, gradient in forms(silent):
        assert not any(bool(one.any()) for one in found(form, gradient, cuda, cuda_device, surrogate))


@surrogates
@each("neuron", DEFAULT_NEURONS)
def test_gradients_stop_at_a_nan_and_stay_finite(cuda_device, neuron, surrogate):
    layer = random_layer(Dynamics(neuron, MOST_STEPS + 1), Size(2, 6))
    layer.current[1, 0, 2] = math.nan
    for one in found(layer, random_gradient(layer, False), cuda, cuda_device, surrogate):
        assert bool(one.isfinite().all())


@each("dtype", NATIVE_DTYPES)
@each("layout", CUDA_LAYOUTS)
@each("neuron", DEFAULT_NEURONS)
def test_currents_may_have_any_strides(cuda_device, neuron, layout, dtype):
    layer = random_layer(Dynamics(neuron, 5), Size(3, 20), dtype)
    viewed = replace(layer, current=layout(layer.current))
    packed = replace(layer, current=viewed.current.clone(memory_format=torch.contiguous_format))
    gradient = random_gradient(layer, False)
    wanted = found(packed, gradient, cuda, cuda_device)
    for given in (gradient, strided(gradient, 2), transposed(gradient, 0, 1), unaligned(gradient)):
        assert_same(found(viewed, given, cuda, cuda_device), wanted)


@each("neuron", DEFAULT_NEURONS)
def test_other_tensors_need_no_alignment(cuda_device, neuron):
    layer = random_layer(Dynamics(neuron, 5), Size(3, 20))
    for name in ("threshold", "carry", "bias"):
        if getattr(layer, name) is not None:
            moved = replace(layer, **{name: unaligned(getattr(layer, name))})
            for (form, gradient), (other, _) in zip(forms(moved), forms(layer), strict=True):
                assert_same(found(form, gradient, cuda, cuda_device), found(other, gradient, cuda, cuda_device))
    gradient = random_gradient(layer, True)
    assert_same(found(layer, unaligned(gradient), cuda, cuda_device), found(layer, gradient, cuda, cuda_device))


@each("neuron", DEFAULT_NEURONS)
@pytest.mark.parametrize(("batch", "neurons"), [(0, 17), (3, 0), (0, 0)], ids=["B0", "N0", "B0-N0"])
def test_empty_layers_have_empty_gradients(cuda_device, neuron, batch, neurons):
    layer = random_layer(Dynamics(neuron, 3), Size(batch, neurons))
    for form, gradient in forms(layer):
        gradients = found(form, gradient, cuda, cuda_device)
        assert not any(bool(one.any()) for one in gradients)
        assert gradients.current.shape == form.current.shape
        assert gradients.carry.shape == (batch, neurons)
        assert gradients.threshold.shape == gradients.bias.shape == (neurons,)


@each("order", {name: name for name in ORDERS})
@each("neuron", DEFAULT_NEURONS)
def test_the_order_of_threads_does_not_matter(cuda_on_host, cuda_device, neuron, order):
    """On the host, where it can be chosen."""
    if cuda_device.type != "cpu":
        pytest.skip("a GPU chooses for itself")
    layer = random_layer(Dynamics(neuron, 5), Size(9, 130))
    wanted = [found(form, gradient) for form, gradient in forms(layer)]
    take_turns(cuda_on_host, order)
    try:
        for (form, gradient), one in zip(forms(layer), wanted, strict=True):
            assert_same(found(form, gradient), one)
    finally:
        take_turns(cuda_on_host, "forward")


class Guarded:
    """The module, but all that is written goes to memory with guards around it, and from there to where it should."""

    def __init__(self, module) -> None:
        self.module = module
        self.gradient_scratch = module.gradient_scratch
        self.calls = 0

    def neuron_gradients_float32(self, dynamics, layer, gradients, strip, **place) -> None:
        size, strips = layer.batch * layer.neurons, -(-layer.batch // strip)
        timesteps = int(dynamics.timesteps)
        sizes = {
            "current": size if layer.constant else timesteps * size,
            "threshold": strips * layer.neurons,
            "carry": size,
            "bias": strips * layer.neurons,
            "scratch": self.gradient_scratch(dynamics) * size,
        }
        buffers = {name: torch.full((count + 64,), 1e30) for name, count in sizes.items()}
        inner = {name: buffer[32:-32] for name, buffer in buffers.items()}
        guarded = gradients._replace(**{name: one.data_ptr() for name, one in inner.items()})
        self.module.neuron_gradients_float32(dynamics, layer, guarded, strip=strip, **place)
        self.calls += 1
        for name, buffer in buffers.items():
            outside = torch.cat([buffer[:32], buffer[-32:]])
            assert bool((outside == outside[0]).all()), f"{name} was written outside"
            if name != "bias" or dynamics.kind == Kind.DC:
                ctypes.memmove(getattr(gradients, name), inner[name].data_ptr(), inner[name].nbytes)


@each("timesteps", {"T3": 3, "T20": 20})
@each("size", {"B3-N20": Size(3, 20), "B5-N33": Size(5, 33), "B2-N132": Size(2, 132)})
@each("neuron", DEFAULT_NEURONS)
def test_nothing_is_written_outside_of_the_gradients(cuda_on_host, cuda_device, monkeypatch, neuron, size, timesteps):
    if cuda_device.type != "cpu":
        pytest.skip("guards are watched on the host")
    guarded = Guarded(cuda_on_host)
    layer = random_layer(Dynamics(neuron, timesteps), size)
    wanted = [found(form, gradient) for form, gradient in forms(layer)]
    monkeypatch.setattr(cuda, "_cuda", guarded)
    for (form, gradient), one in zip(forms(layer), wanted, strict=True):
        assert_same(found(form, gradient), one)
    assert guarded.calls == len(wanted)


@each("neuron", DEFAULT_NEURONS)
def test_an_expanded_gradient_is_that_of_a_sum(cuda_device, neuron):
    layer = random_layer(Dynamics(neuron, 5), Size(3, 20))
    one = torch.ones(())
    for form, gradient in forms(layer):
        expanded = found(form, one.expand(gradient.shape), cuda, cuda_device)
        assert_same(expanded, found(form, torch.ones(gradient.shape), cuda, cuda_device))


def test_more_timesteps_than_a_kernel_counts_are_refused(cuda_on_host):
    layer = (1, 1, *[0] * 12)
    dynamics = Dynamics(DEFAULT_NEURONS["if"], 2**29).numbers
    with pytest.raises(ValueError, match="timesteps 2\\^29 - 1"):
        cuda_on_host.neuron_gradients_float32(dynamics, layer, (0, 0, False, *[0] * 5), strip=1, device=0, stream=0)


@pytest.mark.parametrize(
    ("dtype", "named", "why_no_triton", "chosen"),
    [
        (torch.float32, "auto", "", "triton"),
        (torch.float32, "auto", "not installed", "cuda"),
        (torch.float32, "cuda", "", "cuda"),
        (torch.float32, "triton", "", "triton"),
        (torch.float64, "auto", "", "cuda"),
        (torch.bfloat16, "auto", "", "triton"),
        (torch.bfloat16, "auto", "not installed", "reference"),
    ],
)
def test_auto_takes_triton_for_gradients_and_then_cuda(monkeypatch, dtype, named, why_no_triton, chosen):
    """For what is computed forward, CUDA comes first all the same."""
    device = torch.device("cuda", 0)
    monkeypatch.setattr(cuda, "unavailable", lambda: "")
    monkeypatch.setattr(launch, "unavailable", lambda: why_no_triton)
    monkeypatch.setattr(launch, "serves", lambda device, dtype: dtype in launch._DTYPES)
    assert chosen == choice.choose(named, device, dtype, gradients=True).NAME
    if named == "auto" and dtype != torch.bfloat16:
        assert choice.choose(named, device, dtype).NAME == "cuda"


@pytest.mark.usefixtures("cuda_device")
@each("dtype", NATIVE_DTYPES)
def test_the_operator_takes_the_kernel(cuda_on_host, cuda_device, dtype, monkeypatch):
    if cuda_device.type != "cpu":
        pytest.skip("calls are counted on the host")
    calls = []
    run = cuda.neuron_gradients
    monkeypatch.setattr(cuda, "neuron_gradients", lambda *given: (calls.append(given), run(*given))[1])
    layer = random_layer(Dynamics(DEFAULT_NEURONS["dc"], 3), Size(2, 5), dtype)
    gradient = random_gradient(layer, False)
    mine = by_operator(layer, gradient, "triangle", "cuda")
    assert len(calls) == 1
    for name, one in by_operator(layer, gradient, "triangle", "reference").items():
        assert_close(mine[name], one, name)
