"""A whole actor on CUDA that sums currents between hidden layers as integers: for large batches.

With the sender's θ in the weights, a spike is an integer times 2^-(L-1): 0, ±1, ±2, …, ±2^(L-1). A receiver's weights
are rounded to whole multiples of a unit, a power of two of its own, and these are split into three int8 digits. Tensor
cores sum them exactly, in whatever order, so results are the same every time. What is rounded is a weight, once, and
the sum, once: `rounding` says how much. `csrc/cuda/integer_kernel.cu` has the kernel, `decide_slowly` what it must
give, docs/gpu.md the rest.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from snnkern.errors import InputError
from snnkern.kernels import backends, reference
from snnkern.kernels.backends import ActorInterface, ActorParts, cuda
from snnkern.kernels.backends.native import interface_arguments

BASE = 256
LARGEST = 127 * (BASE**2 + BASE + 1)  # of three digits from -128 to 127, of either sign
MOST_LEVELS = 7  # the largest spike is 2^(L-1), at most 64
# The most that rounding a receiver's weights may change its current, as a share of the sum of their sizes.
LARGEST_ROUNDING = 2.0**-17
_SMALLEST_SIZE = 2.0**-84  # of that sum: below, a current moves no potential near a threshold that the kernel serves
_LARGEST_SIZE = 2.0**100
_LEAST_EXPONENT = -90  # of a receiver's largest weight, so that what its sums are scaled by is normal in float32
_OLDEST = (8, 0)  # compute capability: the first with this product, and with copies that nobody waits for


class Digits(NamedTuple):
    """Weights between two hidden layers as integers.

    Attributes:
        slices: the digits, the highest first, int8 `[3, in, out]`.
        unit: what an integer of a receiver stands for, float64 `[out]`.
    """

    slices: Tensor
    unit: Tensor

    @property
    def value(self) -> Tensor:
        """The weights that they stand for, exactly: float64 `[in, out]`."""
        high, middle, low = self.slices.double()
        return ((high * BASE + middle) * BASE + low) * self.unit


def folded(actor: ActorParts, index: int) -> Tensor:
    """The weights `[in, out]` of a hidden layer in units of its sender's θ, exactly: in float64."""
    return actor.hidden[index - 1].threshold.double()[:, None] * actor.hidden[index].weight.double()


def split(weight: Tensor) -> Digits:
    """Float64 weights `[in, out]`, rounded to the nearest multiples of the smallest units that three digits allow."""
    most = weight.abs().amax(dim=0)
    exponent = torch.frexp(most).exponent.long().clamp(min=_LEAST_EXPONENT) - 23  # most / 2^exponent is below 2^23
    exponent += (most / _power_of_two(exponent)).round() > LARGEST
    unit = _power_of_two(exponent)
    rest = (weight / unit).round().long()
    slices: list[Tensor] = []
    for _ in range(3):
        digit = (rest + BASE // 2) % BASE - BASE // 2
        slices.insert(0, digit.to(torch.int8))
        rest = (rest - digit) // BASE
    return Digits(torch.stack(slices), unit)


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, exactly on every device."""
    return ((exponent + 1023) << 52).view(torch.float64)


def rounding(weight: Tensor, digits: Digits) -> float:
    """By how much rounding the weights can change a receiver's current at most, as a share of the sum of their sizes."""
    size = weight.abs().sum(dim=0)
    error = (digits.value - weight).abs().sum(dim=0)
    return float((error / size.clamp(min=_SMALLEST_SIZE)).max())


def fragments(slices: Tensor, receivers: int, senders: int) -> Tensor:
    """Digits `[3, in, out]` of whole tiles in the order in which lanes multiply them.

    `[tiles of receivers, steps of senders, slices, 32 lanes, 16]`: of its 16, a lane has four neighbouring senders of a
    receiver, the same of the receiver 8 further, and both of the senders 16 further.
    """
    parts, inputs, outputs = slices.shape
    places = slices.view(parts, inputs // senders, 2, 4, 4, outputs // receivers, 2, 8)
    return places.permute(5, 1, 0, 7, 3, 2, 6, 4).contiguous()


class Decided(NamedTuple):
    """What a decision gives: the action `[B, out]`, and of every hidden layer the carry `[B, N]` and the counts `[B]`."""

    action: Tensor
    carries: list[Tensor]
    counts: Tensor


def decide_slowly(
    actor: ActorParts, observation: Tensor, carries: list[Tensor], row_alpha: Tensor | None = None
) -> Decided:
    """What the kernel must give, by torch: hidden layers in every bit, the action up to the rounding of its sum."""
    current = _first_current(actor, _observed(actor.interface, observation))
    differential, unit = actor.dynamics.neuron.differential, 2.0 ** (1 - actor.dynamics.neuron.levels)
    after, counts = [], []
    for index, (layer, carry) in enumerate(zip(actor.hidden, carries, strict=True)):
        if index:
            sums = (spikes.double() @ part.double() for part in split(folded(actor, index)).slices)
            high, middle, low = sums  # whole numbers: exact
            scale = split(folded(actor, index)).unit * unit
            current = ((high * BASE**2 + (middle * BASE + low).float().double()) * scale).float()
            if not differential:
                current = current + layer.bias
        bias = layer.bias if differential else None
        decision = reference.neuron(current, layer.threshold, carry, actor.dynamics, bias, row_alpha)
        spikes = torch.where(layer.threshold > 0, decision.spikes / (layer.threshold * unit), 0.0)
        after.append(decision.carry)
        counts.append(decision.counts)
    weight, bias = actor.output
    z = linear(decision.mean, weight.T, bias)
    interface = actor.interface
    action = interface.action_scale * (torch.tanh(z) if interface.squash else z) + interface.action_bias
    return Decided(action, after, torch.stack(counts))


def _observed(interface: ActorInterface, observation: Tensor) -> Tensor:
    """What the first layer receives."""
    if interface.observation_mean is None or interface.observation_std is None:
        return observation
    clip = interface.observation_clip
    return ((observation - interface.observation_mean) / interface.observation_std).clamp(-clip, clip)


def _first_current(actor: ActorParts, value: Tensor) -> Tensor:
    """The first layer's, summed from the bias on, two inputs at a time, as by the CPU's engine."""
    weight, bias, *_ = actor.hidden[0]
    start = torch.zeros_like(bias) if actor.dynamics.neuron.differential else bias
    current = start.expand(len(value), -1)
    for k in range(0, len(weight), 2):
        pair = value[:, k, None] * weight[k]
        other = value[:, k + 1, None] * weight[k + 1] if k + 1 < len(weight) else torch.zeros_like(pair)
        current = current + (pair + other)
    return current


def serves(actor: ActorParts) -> bool:
    """Whether the kernel computes this actor as exactly as `LARGEST_ROUNDING` says; it may still not fit a device."""
    neuron, dtype, device = actor.dynamics.neuron, actor.output[0].dtype, actor.output[0].device
    if not actor.is_plain or dtype != torch.float32 or cuda.unavailable() or not cuda.serves(device, dtype):
        return False
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    widest = max(_padded(layer.weight.shape[1]) for layer in actor.hidden)
    if (
        not 2 <= len(actor.hidden) <= cuda._cuda.most_hidden
        or neuron.levels > MOST_LEVELS
        or widest << (neuron.levels - 1) > cuda._cuda.most_sum
        or any(cuda._is_tiny(layer.threshold, actor.dynamics) for layer in actor.hidden)
    ):
        return False
    return all(_is_exact(folded(actor, index)) for index in range(1, len(actor.hidden)))


def _is_exact(weight: Tensor) -> bool:
    return bool((weight.abs().sum(dim=0) < _LARGEST_SIZE).all()) and rounding(weight, split(weight)) <= LARGEST_ROUNDING


def _padded(width: int) -> int:
    return width + -width % cuda._cuda.padding


class Engine(backends.Engine):
    """A whole actor in one launch (`csrc/cuda/integer.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        weight, bias = actor.output
        self._actor = actor
        self._packed: list[Tensor] = []  # keeps alive what the kernel has the addresses of
        self._bound: list[Tensor] = []
        self._outputs = weight.shape[1]
        self._groups = 0  # of a block: as many as there can be
        self._native = cuda._cuda.IntegerEngine(
            device=cuda._place(weight)["device"],
            dynamics=actor.dynamics.numbers,
            layers=self._layers(),
            digits=[self._digits(index) for index in range(1, len(actor.hidden))],
            output=(self._outputs, self._keep(weight.T), self._keep(bias)),
            interface=interface_arguments(actor.interface, self._keep),
        )
        self.fits = self._native.fits

    def _layers(self) -> list[tuple[int, ...]]:
        """Sizes and addresses of the layers; weights are the first one's alone."""
        layers = []
        for index, (weight, bias, threshold, *_) in enumerate(self._actor.hidden):
            inputs, outputs = weight.shape
            width = _padded(outputs)
            tensors = [None if index else weight, bias, threshold]
            padded = [None if tensor is None else pad(tensor, (0, width - outputs)) for tensor in tensors]
            layers.append((inputs, outputs, width, *map(self._keep, padded)))
        return layers

    def _digits(self, index: int) -> tuple[int, int]:
        """Addresses of a layer's digits and of what its sums are scaled by."""
        weight = folded(self._actor, index)
        inputs, outputs = (_padded(width) - width for width in weight.shape)
        digits = split(pad(weight, (0, outputs, 0, inputs)))
        scale = digits.unit * 2.0 ** (1 - self._actor.dynamics.neuron.levels)
        order = fragments(digits.slices, cuda._cuda.tile_receivers, cuda._cuda.step_senders)
        return self._keep(order), self._keep(scale.float())

    def _keep(self, tensor: Tensor | None) -> int:
        """The address of a copy of its own: what it was made from may change or go."""
        if tensor is None:
            return 0
        self._packed.append(tensor.detach().clone(memory_format=torch.contiguous_format))
        return self._packed[-1].data_ptr()

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._rows = counts.shape[1]
        scratch = counts.new_empty(self._native.scratch(self._rows, self._groups), dtype=torch.uint8)
        self._bound = [*carries, counts, scratch] if row_alpha is None else [*carries, counts, scratch, row_alpha]
        addresses = [carry.data_ptr() for carry in carries]
        of_rows = counts.data_ptr(), cuda._address(row_alpha), scratch.data_ptr()
        self._native.bind(self._rows, addresses, *of_rows, self._groups)

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        if check_finite and not bool(torch.isfinite(observation).all()):  # waits for the device
            return None
        observation = observation.contiguous()
        action = observation.new_empty(self._rows, self._outputs)
        self._native.decide(cuda._place(observation)["stream"], observation.data_ptr(), action.data_ptr())
        return action


def engine(actor: ActorParts) -> Engine | None:
    """The actor, packed; None where the kernel does not serve it, or not on its device."""
    if not serves(actor):
        return None
    made = Engine(actor)
    return made if made.fits() else None
