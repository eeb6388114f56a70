"""Cases that tests and benchmarks share: neurons, sizes, inputs that are hard on purpose, random actors.

Dictionaries map a readable id to a case; `each` turns one into a parametrisation.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import snnkern
from snnkern import DC, IF, LIF, MT, SNM, Actor, Dynamics, Interface, Neuron
from snnkern.kernels.backends import ActorParts, HiddenPart
from snnkern.kernels.neurons import Kind

NEURONS: dict[str, Neuron] = {
    "if": IF(),
    "lif": LIF(),
    "lif-half": LIF(leak=0.5, initial_fraction=0.0),
    "snm": SNM(),
    "snm-original": SNM.original(),
    "mt-L1": MT(levels=1),
    "mt-L4": MT(levels=4),
    "mt-L7": MT(levels=7),
    "mt-L24": MT(levels=24),
    "dc-L1": DC(levels=1),
    "dc-L4": DC(levels=4),
    "dc-L7": DC(levels=7),
    "dc-L24": DC(levels=24),
}
# Their levels are multiples of 1/8 of the threshold: in small numbers, exact in every dtype.
NEURONS_ON_GRID = {name: NEURONS[name] for name in ("if", "snm", "snm-original", "mt-L1", "mt-L4", "dc-L1", "dc-L4")}
DEFAULT_NEURONS: dict[str, Neuron] = {"if": IF(), "lif": LIF(), "snm": SNM(), "mt": MT(), "dc": DC()}

CARRYING = {"alpha": 0.7, "memory": 0.6}
# Of the carry, at the ends of their ranges.
PARAMETERS: dict[str, dict[str, float]] = {
    "plain": {},
    "alpha-1": {"alpha": 1.0},
    "memory-1": {"memory": 1.0},
    "no-clip": {"alpha": 1.0, "memory": 1.0, "clip": 0.0},
    "odd-fractions": {"alpha": 1 / 3, "memory": 0.1, "clip": 0.7},
    "huge-clip": {"alpha": 1.0, "memory": 1.0, "clip": 1e30},
}
TIMESTEPS = {f"T{t}": t for t in (1, 2, 5, 16)}
NATIVE_DTYPES = {"float32": torch.float32, "float64": torch.float64}
ALL_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, **NATIVE_DTYPES}


class Size(NamedTuple):
    """Rows and neurons of a layer."""

    batch: int
    neurons: int


# No width but 256 is a multiple of a vector or a block.
SIZES = {
    f"B{batch}-N{neurons}": Size(batch, neurons)
    for batch, neurons in ((1, 1), (3, 3), (1, 17), (3, 63), (1, 256), (3, 257), (0, 17), (3, 0), (0, 0))
}

_STATUS = {status.name: status for status in snnkern.backends()}
needs_cpu = pytest.mark.skipif(not _STATUS["cpu"].available, reason=_STATUS["cpu"].detail)
LAYER_BACKENDS = [pytest.param("reference", id="reference"), pytest.param("cpu", id="cpu", marks=needs_cpu)]


def _why_nothing_can_be_compiled() -> str:
    if sys.platform == "win32":
        return "torch.compile needs MSVC set up on Windows"
    if shutil.which(os.environ.get("CXX", "g++")) is None and shutil.which("clang++") is None:
        return "torch.compile needs a C++ compiler, and none was found"
    return ""


needs_compiler = pytest.mark.skipif(bool(_why_nothing_can_be_compiled()), reason=_why_nothing_can_be_compiled())


def each(name: str, cases: Mapping[str, object]) -> pytest.MarkDecorator:
    """Runs a test once per case, under the case's id."""
    return pytest.mark.parametrize(name, list(cases.values()), ids=list(cases))


@dataclass(frozen=True)
class Layer:
    """The inputs of one decision step of one layer, as `snnkern.ops.neuron_spikes` takes them."""

    current: Tensor
    threshold: Tensor
    carry: Tensor
    dynamics: Dynamics
    bias: Tensor | None = None
    row_alpha: Tensor | None = None

    def constant(self) -> Layer:
        """The same layer with the current of the first step as a constant current."""
        return replace(self, current=self.current[0])

    def rows(self, index: Tensor | slice) -> Layer:
        """Some rows of the batch."""
        row_alpha = None if self.row_alpha is None else self.row_alpha[index]
        return replace(self, current=self.current[..., index, :], carry=self.carry[index], row_alpha=row_alpha)

    def with_row_alpha(self) -> Layer:
        """The same layer with an α for every row, from 1 down."""
        return replace(self, row_alpha=torch.linspace(1, 0, len(self.carry)).to(self.carry))

    def to(self, dtype: torch.dtype) -> Layer:
        """The same values, as far as the dtype has them."""
        return self.map(lambda tensor: tensor.to(dtype))

    def map(self, change: Callable[[Tensor], Tensor]) -> Layer:
        """The layer with each of its tensors changed."""
        return replace(
            self,
            current=change(self.current),
            threshold=change(self.threshold),
            carry=change(self.carry),
            bias=None if self.bias is None else change(self.bias),
            row_alpha=None if self.row_alpha is None else change(self.row_alpha),
        )


class LayerResult(NamedTuple):
    """Everything that the operators say about one decision step."""

    spikes: Tensor
    mean: Tensor
    carry: Tensor
    counts: Tensor


def run_layer(layer: Layer, backend: str, device: torch.device | str = "cpu") -> LayerResult:
    """Runs both neuron operators on a device; they must agree on carry and counts. The result is on the CPU."""
    layer = layer.map(lambda tensor: tensor.to(device))
    arguments = (layer.current, layer.threshold, layer.carry, layer.dynamics)
    options = {"bias": layer.bias, "row_alpha": layer.row_alpha, "backend": backend}
    spikes, carry, counts = snnkern.ops.neuron_spikes(*arguments, **options)
    mean, mean_carry, mean_counts = snnkern.ops.neuron_mean(*arguments, **options)
    assert_same_bits(mean_carry, carry)
    assert_same_bits(mean_counts, counts)
    return LayerResult(spikes.cpu(), mean.cpu(), carry.cpu(), counts.cpu())


def assert_is_reference(layer: Layer, backend: str, device: torch.device | str = "cpu") -> None:
    """Spikes, mean, carry and counts, bit for bit: for the sequence and for its first current as a constant one."""
    for form in [layer] if layer.current.dim() == 2 else [layer, layer.constant()]:
        for actual, wanted in zip(run_layer(form, backend, device), run_layer(form, "reference"), strict=True):
            assert_same_bits(actual, wanted)


def assert_decisions_are_the_reference(
    dynamics: Dynamics, size: Size, backend: str, device: torch.device | str = "cpu", decisions: int = 6
) -> None:
    """Every decision from the carry that the one before it left."""
    layer = random_layer(dynamics, size)
    for seed in range(decisions):
        layer = replace(layer, current=random_layer(dynamics, size, seed=seed).current)
        assert_is_reference(layer, backend, device)
        layer = replace(layer, carry=run_layer(layer, backend, device).carry)


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    """Every bit is the same, the sign of zeros too; which NaN a NaN is does not count."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if not actual.dtype.is_floating_point:
        assert torch.equal(actual, expected)
        return
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[actual.element_size()]
    same = actual.contiguous().view(integer) == expected.contiguous().view(integer)
    same |= actual.isnan() & expected.isnan()
    if not bool(same.all()):
        first = tuple((~same).nonzero()[0].tolist())
        raise AssertionError(
            f"{int((~same).sum())} of {same.numel()} values differ, the first at {first}: "
            f"{actual[first].item()!r} instead of {expected[first].item()!r}"
        )


def random_layer(
    dynamics: Dynamics, size: Size, dtype: torch.dtype = torch.float32, *, seed: int = 0, current_scale: float = 1.0
) -> Layer:
    """A layer whose neurons mostly fire now and then: θ in 0.5 … 1.5, currents about 0.3 ± 0.7 of it."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    threshold = 0.5 + torch.rand(size.neurons, generator=generator, dtype=torch.float64)
    current = (0.3 + 0.7 * normal(dynamics.timesteps, *size)) * threshold * current_scale
    carry = (0.3 * normal(*size)).clamp(-0.5, 0.5) * threshold
    bias = (0.2 * normal(size.neurons) * threshold).to(dtype) if dynamics.neuron.kind is Kind.DC else None
    return Layer(current.to(dtype), threshold.to(dtype), carry.to(dtype), dynamics, bias)


def neighbours(values: Tensor) -> Tensor:
    """Each value, and the floating-point numbers next to it."""
    up, down = torch.full_like(values, torch.inf), torch.full_like(values, -torch.inf)
    return torch.cat([values, torch.nextafter(values, up), torch.nextafter(values, down)])


def _plant(tensor: Tensor, values: list[float], every: int = 4) -> Tensor:
    """A copy in which every `every`-th entry is one of the values in turn."""
    planted = tensor.clone().flatten()
    places = torch.arange(0, planted.numel(), every)
    planted[places] = torch.tensor(values, dtype=tensor.dtype)[torch.arange(len(places)) % len(values)]
    return planted.reshape(tensor.shape)


def _on_boundaries(layer: Layer) -> Layer:
    """Every quantity a multiple of θ/32 with θ = 1 or 2, so that potentials land exactly on the comparisons."""

    def snap(tensor: Tensor) -> Tensor:
        return (tensor * 32).round() / 32

    threshold = _plant(torch.ones_like(layer.threshold), [2.0], every=3)
    return replace(layer.map(snap), threshold=threshold)


def _scaled(layer: Layer, factor: float) -> Layer:
    return layer.map(lambda tensor: tensor * factor)


def _zero_thresholds(layer: Layer) -> Layer:
    threshold = _plant(layer.threshold, [0.0], every=2)
    return replace(layer, threshold=threshold, carry=torch.where(threshold > 0, layer.carry, 0.0))


def _denormal_thresholds(layer: Layer) -> Layer:
    smallest = torch.finfo(layer.threshold.dtype).smallest_normal * torch.finfo(layer.threshold.dtype).eps
    denormal = _scaled(layer, smallest * 1000)
    return replace(denormal, threshold=_plant(denormal.threshold, [smallest, 3 * smallest], every=3))


def _huge_thresholds(layer: Layer) -> Layer:
    return _scaled(layer, 1e38 if layer.threshold.dtype == torch.float32 else 1e307)


def _with_currents(values: Callable[[torch.finfo], list[float]]) -> Callable[[Layer], Layer]:
    def plant(layer: Layer) -> Layer:
        chosen = values(torch.finfo(layer.current.dtype))
        bias = None if layer.bias is None else _plant(layer.bias, chosen, every=11)
        return replace(layer, current=_plant(layer.current, chosen, every=7), bias=bias)

    return plant


def _nan_carry(layer: Layer) -> Layer:
    return replace(layer, carry=_plant(layer.carry, [float("nan")], every=5))


# Each changes an ordinary layer of normal numbers.
INPUTS: dict[str, Callable[[Layer], Layer]] = {
    "ordinary": lambda layer: layer,
    "on-boundaries": _on_boundaries,
    "zero-thresholds": _zero_thresholds,
    "denormal-thresholds": _denormal_thresholds,
    "huge-thresholds": _huge_thresholds,
    "denormal-currents": _with_currents(
        lambda info: [info.smallest_normal * info.eps, -info.smallest_normal / 2, 0.0, -0.0]
    ),
    "small-currents": _with_currents(lambda info: [info.smallest_normal * 3, -info.smallest_normal / info.eps, 0.0]),
    "negative-zeros": lambda layer: replace(layer.map(lambda tensor: tensor * -0.0), threshold=layer.threshold),
    "huge-currents": _with_currents(lambda info: [info.max / 3, -info.max / 3, info.max, -info.max]),
    "infinite-currents": _with_currents(lambda info: [float("inf"), float("-inf")]),
    "nan-currents": _with_currents(lambda info: [float("nan")]),
    "nan-carries": _nan_carry,
}


ACTOR_WIDTHS = {"one-layer": (3, 7, 2), "two-layers": (11, 33, 17, 3), "five-layers": (5, 9, 16, 8, 9, 7, 4)}


NORMALISING: dict[str, Any] = {
    "squash": False,
    "observation_mean": torch.linspace(-1, 1, 5),
    "observation_std": torch.linspace(0.5, 2, 5),
    "observation_clip": 1.5,
}


def random_actor(
    widths: tuple[int, ...], dtype: torch.dtype = torch.float32, *, seed: int = 0, **interface: Any
) -> tuple[Actor, list[Tensor]]:
    """An actor with random weights, an action scale and a bias, and thresholds near its largest activations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    layers = [(normal(wide, narrow) * (2 / narrow) ** 0.5, 0.1 * normal(wide)) for narrow, wide in pairwise(widths)]
    between = Interface(widths[0], widths[-1], action_scale=2.0, action_bias=0.25, dtype=torch.float64, **interface)
    actor = Actor(layers[:-1], layers[-1], between)
    observations = normal(256, widths[0])
    thresholds = [activation.amax(dim=0) * 0.9 + 0.05 for activation in actor.hidden_activations(observations)]
    return actor.to(dtype), [threshold.to(dtype) for threshold in thresholds]


def actor_parts(widths: tuple[int, ...], dynamics: Dynamics) -> ActorParts:
    """A random actor as an engine gets it."""
    actor, thresholds = random_actor(widths)
    layers = [(layer.weight.T.contiguous(), layer.bias) for layer in [*actor.hidden, actor.output]]
    hidden = [HiddenPart(*layer, threshold) for layer, threshold in zip(layers[:-1], thresholds, strict=True)]
    return ActorParts(hidden, layers[-1], actor.interface.parts(), dynamics)


def random_observations(
    decisions: int, batch: int, width: int, dtype: torch.dtype = torch.float32, *, seed: int = 1
) -> Tensor:
    """`[decisions, batch, width]`, of unit variance."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(decisions, batch, width, generator=generator, dtype=torch.float64).to(dtype)
