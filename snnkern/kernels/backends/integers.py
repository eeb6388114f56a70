"""A whole actor on CUDA that sums currents between hidden layers as integers: for large batches.

With the sender's θ in the weights, a spike is an integer times 2^-(L-1): 0, ±1, ±2, …, ±2^(L-1). A receiver's weights
are rounded to whole multiples of a unit, a power of two of its own, and these are split into three int8 digits; its
bias is rounded to whole multiples of what the smallest spike brings with a unit. Tensor cores sum them exactly, in
whatever order, to an integer of 32 bits, so results are the same every time. What is rounded is a weight, once, and the
sum, once: `rounding` says how much. `csrc/cuda/integer_kernel.cu` has the kernel, `decide_slowly` what it must
give, docs/gpu.md the rest.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear, pad

from snnkern.kernels import backends, reference
from snnkern.kernels.backends import ActorParts, cuda
from snnkern.kernels.backends.native import Packed, asked_for, cuda_build, interface_arguments
from snnkern.kernels.backends.tuning import Choices, bucket, milliseconds

BASE = 256
LARGEST = 127 * (BASE**2 + BASE + 1)  # of three digits from -128 to 127, of either sign
LARGEST_SUM = 2.0**31 - 2.0**16  # before rounding: that of 2^15 weights times spikes, and a bias, adds less than 2^15
MOST_LEVELS = 7  # the largest spike is 2^(L-1), at most 64
# The most that rounding a receiver's weights may change its current, as a share of the sum of their sizes.
LARGEST_ROUNDING = 2.0**-17
_SMALLEST_SIZE = 2.0**-84  # of that sum: below, a current moves no potential near a threshold that the kernel serves
_LARGEST_SIZE = 2.0**100
# Of a receiver's largest weight, so that `csrc/cuda/divisor.h` does not call small what its sums are scaled by.
_LEAST_EXPONENT = -54
_SETTING = "SNNKERN_INTEGERS"
_OLDEST = (8, 0)  # compute capability: the first with this product, and with copies that nobody waits for
_MEASURED = (9, 0)  # the GPUs on which large batches were found to be faster so


class Digits(NamedTuple):
    """Weights between two hidden layers as integers.

    Attributes:
        slices: the digits, the highest first, int8 `[3, in, out]`.
        unit: what an integer of a receiver stands for, float64 `[out]`.
        scale: what an integer in its sums stands for: the smallest spike times that.
        start: what its sums begin with, the bias, int32 `[out]`.
    """

    slices: Tensor
    unit: Tensor
    scale: Tensor
    start: Tensor

    @property
    def value(self) -> Tensor:
        """The weights that they stand for, exactly: float64 `[in, out]`."""
        high, middle, low = self.slices.double()
        return ((high * BASE + middle) * BASE + low) * self.unit


def folded(actor: ActorParts, index: int) -> Tensor:
    """The weights `[in, out]` of a hidden layer in units of its sender's θ, exactly: in float64."""
    return actor.hidden[index - 1].threshold.double()[:, None] * actor.hidden[index].weight.double()


def added(actor: ActorParts, index: int) -> Tensor:
    """What a hidden layer adds to its current at every step `[out]`: the bias, or 0 where neurons have it (DC)."""
    bias = actor.hidden[index].bias.double()
    return torch.zeros_like(bias) if actor.dynamics.neuron.differential else bias


def split(weight: Tensor, bias: Tensor, levels: int) -> Digits:
    """Float64 weights `[in, out]`, rounded to the nearest multiples of the smallest units that three digits allow, and
    32 bits for the sum of all weights times the largest spike, 2^(L-1), and the bias `[out]`.
    """
    spike = 2.0 ** (levels - 1)
    most, size = weight.abs().amax(dim=0), spike * (weight.abs().sum(dim=0) + bias.abs())
    exponent = torch.frexp(most).exponent.long().clamp(min=_LEAST_EXPONENT) - 23  # most / 2^exponent is below 2^23
    exponent += (most / _power_of_two(exponent)).round() > LARGEST
    exponent = exponent.maximum(torch.frexp(size / LARGEST_SUM).exponent.long())
    unit = _power_of_two(exponent)
    scale = unit / spike
    rest = (weight / unit).round().long()
    slices: list[Tensor] = []
    for _ in range(3):
        digit = (rest + BASE // 2) % BASE - BASE // 2
        slices.insert(0, digit.to(torch.int8))
        rest = (rest - digit) // BASE
    return Digits(torch.stack(slices), unit, scale, (bias / scale).round().int())


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent in float64, exactly on every device."""
    return ((exponent + 1023) << 52).view(torch.float64)


def rounding(weight: Tensor, bias: Tensor, digits: Digits) -> float:
    """The most that rounding weights and bias can change a current by, as a share of the sum of their sizes."""
    size = weight.abs().sum(dim=0) + bias.abs()
    error = (digits.value - weight).abs().sum(dim=0) + (digits.start * digits.scale - bias).abs()
    return float((error / size.clamp(min=_SMALLEST_SIZE)).max())


def fragments(slices: Tensor, receivers: int, senders: int) -> Tensor:
    """Digits `[3, in, out]` of whole tiles in the order in which lanes multiply them.

    `[tiles of receivers, steps of senders, slices, 32 lanes, 16]`: of its 16, a lane has four neighbouring senders of a
    receiver and the four that are 16 further, and the same of another receiver. Four lanes have a receiver; they are in
    such an order that each lane gets the sums of four neighbours.
    """
    parts, inputs, outputs = slices.shape
    places = slices.view(parts, inputs // senders, 2, 4, 4, outputs // receivers, 4, 2, 2)
    return places.permute(5, 1, 0, 6, 8, 3, 7, 2, 4).contiguous()


def first_weights(weight: Tensor, receivers: int) -> Tensor:
    """The first layer's weights `[in, out]` of whole tiles of receivers as `[tiles, in, receivers]`."""
    inputs, outputs = weight.shape
    return weight.view(inputs, outputs // receivers, receivers).transpose(0, 1).contiguous()


class Decided(NamedTuple):
    """What a decision gives: the action `[B, out]`, carries `[B, N]` and counts `[hidden layers, B]`."""

    action: Tensor
    carries: list[Tensor]
    counts: Tensor


def decide_slowly(
    actor: ActorParts, observation: Tensor, carries: list[Tensor], row_alpha: Tensor | None = None
) -> Decided:
    """What the kernel must give, by torch: hidden layers in every bit, the action up to the rounding of its sum."""
    current = _first_current(actor, actor.interface.normalize(observation))
    differential = actor.dynamics.neuron.differential
    decisions: list[reference.Decision] = []
    for index, (layer, carry) in enumerate(zip(actor.hidden, carries, strict=True)):
        if index:
            current = _current(actor, index, decisions[-1].spikes)
        bias = layer.bias if differential else None
        decisions.append(reference.neuron(current, layer.threshold, carry, actor.dynamics, bias, row_alpha))
    weight, bias = actor.output
    z = linear(decisions[-1].mean.double(), weight.T.double(), bias.double()).float()
    return Decided(
        actor.interface.action(z), [one.carry for one in decisions], torch.stack([one.counts for one in decisions])
    )


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


def _current(actor: ActorParts, index: int, spikes: Tensor) -> Tensor:
    """That of a later layer, from the spikes `[T, B, in]` of the one before: exact sums, rounded at last."""
    threshold, digits = actor.hidden[index - 1].threshold, _digits(actor, index)
    unit = 2.0 ** (1 - actor.dynamics.neuron.levels)
    sent = torch.where(threshold > 0, spikes / (threshold * unit), 0.0).double()
    high, middle, low = (sent @ part.double() for part in digits.slices)
    total = (high * BASE + middle) * BASE + low + digits.start
    return total.float() * digits.scale.float()


def _digits(actor: ActorParts, index: int) -> Digits:
    return split(folded(actor, index), added(actor, index), actor.dynamics.neuron.levels)


def serves(actor: ActorParts) -> bool:
    """Whether the kernel computes this actor as exactly as `LARGEST_ROUNDING` says; it may still not fit a device."""
    neuron, dtype, device = actor.dynamics.neuron, actor.output[0].dtype, actor.output[0].device
    if dtype != torch.float32 or not cuda.serves(device, dtype) or not actor.is_plain or cuda.unavailable():
        return False
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _OLDEST:
        return False
    widest = max(_padded(layer.weight.shape[1]) for layer in actor.hidden)
    if (
        not 2 <= len(actor.hidden) <= cuda.native().most_hidden
        or neuron.levels > MOST_LEVELS
        or actor.dynamics.timesteps > cuda.native().most_timesteps
        or widest << (neuron.levels - 1) > cuda.native().most_sum
        or any(cuda._is_tiny(layer.threshold, actor.dynamics) for layer in actor.hidden)
    ):
        return False
    return all(_is_exact(actor, index) for index in range(1, len(actor.hidden)))


def _is_exact(actor: ActorParts, index: int) -> bool:
    weight, bias = folded(actor, index), added(actor, index)
    is_small = bool((weight.abs().sum(dim=0) + bias.abs() < _LARGEST_SIZE).all())
    return is_small and rounding(weight, bias, _digits(actor, index)) <= LARGEST_ROUNDING


def _padded(width: int) -> int:
    return width + -width % cuda.native().padding


class Engine(backends.Engine):
    """A whole actor in one launch (`csrc/cuda/integer.h`). Weights are packed here, once."""

    def __init__(self, actor: ActorParts) -> None:
        weight, bias = actor.output
        inputs, self._outputs = weight.shape
        behind = 0, _padded(inputs) - inputs, 0, -self._outputs % cuda.native().actions
        self._actor = actor
        self._packed = Packed()
        self._bound: list[Tensor] = []
        self._rows, self._groups = 0, 0
        self._native = cuda.native().IntegerEngine(
            device=cuda._device_of(weight),
            dynamics=actor.dynamics.numbers,
            layers=self._layers(),
            digits=[self._digits(index) for index in range(1, len(actor.hidden))],
            output=(
                self._outputs,
                self._packed.keep(pad(weight.T, behind)),
                self._packed.keep(bias),
            ),
            interface=interface_arguments(actor.interface, self._packed.keep),
        )
        self.fits = self._native.fits

    def _layers(self) -> list[tuple[int, ...]]:
        """Sizes and addresses of the layers; weights are the first one's alone."""
        layers = []
        for index, (weight, bias, threshold, *_) in enumerate(self._actor.hidden):
            inputs, outputs = weight.shape
            width = _padded(outputs)
            first = None
            if index == 0:
                padded_weight = pad(weight, (0, width - outputs, 0, inputs % 2))
                first = first_weights(padded_weight, cuda.native().tile_receivers)
            padded = [pad(tensor, (0, width - outputs)) for tensor in (bias, threshold)]
            layers.append((inputs, outputs, width, *map(self._packed.keep, (first, *padded))))
        return layers

    def _digits(self, index: int) -> tuple[int, int, int]:
        """Addresses of a layer's digits, of what its sums are scaled by and of what they begin with."""
        digits = _digits(self._actor, index)
        inputs, outputs = (_padded(width) - width for width in digits.slices.shape[1:])
        slices = pad(digits.slices, (0, outputs, 0, inputs))
        order = fragments(slices, cuda.native().tile_receivers, cuda.native().step_senders)
        scale, start = pad(digits.scale.float(), (0, outputs), value=1.0), pad(digits.start, (0, outputs))
        return self._packed.keep(order), self._packed.keep(scale), self._packed.keep(start)

    def bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None) -> None:
        self._bind(carries, counts, row_alpha, _known(self._actor, counts.shape[1]).groups)

    def _bind(self, carries: list[Tensor], counts: Tensor, row_alpha: Tensor | None, groups: int) -> None:
        """With as many groups of warps in a block; 0 for as many as fit."""
        rows = counts.shape[1]
        scratch = counts.new_empty(self._native.scratch(rows, groups), dtype=torch.uint8)
        addresses = [carry.data_ptr() for carry in carries]
        of_rows = counts.data_ptr(), cuda._address(row_alpha), scratch.data_ptr()
        self._native.bind(rows, addresses, *of_rows, groups)
        # Not before: a thread that is still deciding refuses the others, and needs what it is bound to.
        self._rows, self._groups = rows, groups
        self._bound = [*carries, counts, scratch] if row_alpha is None else [*carries, counts, scratch, row_alpha]
        self.usual = cuda.decide_at_once(self._native, carries[0])

    def decide(self, observation: Tensor, check_finite: bool, threads: int) -> Tensor | None:
        return cuda.decide(self._native, observation, self._rows, self._outputs, check_finite)


def engine(actor: ActorParts) -> Engine | None:
    """The actor, packed; None where the kernel does not serve it, or not on its device."""
    if not serves(actor):
        return None
    made = Engine(actor)
    return made if made.fits() else None


class Tuned(NamedTuple):
    """What `measure` has found for actors and batches like one.

    Attributes:
        faster: whether the kernel is right, and faster than what was chosen before.
        groups: of warps in a block; 0 for as many as fit.
    """

    faster: bool = False
    groups: int = 0


NAMES = {
    f"{'integers' if faster else 'usual'}, {groups} groups": Tuned(faster, groups)
    for faster in (False, True)
    for groups in range(9)
}
_tuned = Choices(NAMES, cuda_build)


def _known(actor: ActorParts, rows: int) -> Tuned:
    return _tuned.find(_key(actor, rows)) or Tuned()


def taken(actor: ActorParts, rows: int, large: bool) -> bool:
    """Whether a batch like this is to be computed so: if the environment asks for it, or `measure` found it faster.

    Where neither says anything, large batches are, on the GPUs where that is known to be faster.
    """
    if (asked := asked_for(_SETTING)) is not None:
        return asked
    found = _tuned.find(_key(actor, rows))
    return large and are_usual(actor.output[0].device) if found is None else found.faster


def are_usual(device: torch.device) -> bool:
    """Whether large batches are computed so unasked: on Hopper, where it was measured (docs/gpu.md)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == _MEASURED


def are_wanted(device: torch.device) -> bool:
    """Whether large batches are computed so where nothing was measured: as the environment says, or as is usual."""
    asked = asked_for(_SETTING)
    return are_usual(device) if asked is None else asked


def is_open(actor: ActorParts, rows: int) -> bool:
    """Whether there is something to measure: the environment says nothing, and nothing is known from before."""
    return asked_for(_SETTING) is None and _tuned.find(_key(actor, rows)) is None


def measure(actor: ActorParts, usual: backends.Engine, rows: int, row_alpha: Tensor | None) -> bool:
    """Times the kernel beside the usual engine, and remembers which is to be taken for batches like this.

    It is to be taken only if it is faster, and if hidden layers are what `decide_slowly` says, in every bit.

    Returns:
        whether it was measured; then the usual engine is bound to other rows.
    """
    if (mine := engine(actor)) is None:
        return False
    trial = Trial.of(actor, rows, row_alpha)
    times = {}
    for groups in range(cuda.native().most_groups, 1, -1):
        mine._bind(trial.carries, trial.counts, row_alpha, groups)
        if trial.is_right(mine):
            times[groups] = trial.milliseconds(mine)
    usual.bind(trial.carries, trial.counts, row_alpha)
    usual.warmup()
    before = trial.milliseconds(usual)
    best = min(times, key=lambda groups: times[groups], default=0)
    _tuned.keep(_key(actor, rows), Tuned(best > 0 and times[best] < before, best))
    return True


class Trial(NamedTuple):
    """Rows on which an engine is tried.

    Attributes:
        actor: that is computed.
        observation: `[B, in]`.
        carries: that the engine is bound to; `[B, N]`.
        counts: the same.
        row_alpha: the same.
        checked: the rows that are looked at.
    """

    actor: ActorParts
    observation: Tensor
    carries: list[Tensor]
    counts: Tensor
    row_alpha: Tensor | None
    checked: Tensor

    @classmethod
    def of(cls, actor: ActorParts, rows: int, row_alpha: Tensor | None) -> Trial:
        """Random rows, most of which are not looked at."""
        output = actor.output[0]
        generator = torch.Generator().manual_seed(0)
        observation = torch.randn(rows, actor.interface.observation_dim, generator=generator).to(output)
        carries = [output.new_zeros(rows, layer.weight.shape[1]) for layer in actor.hidden]
        counts = torch.zeros(len(carries), rows, dtype=torch.int64, device=output.device)
        checked = torch.arange(0, rows, max(rows // _CHECKED, 1), device=output.device)
        return cls(actor, observation, carries, counts, row_alpha, checked)

    def is_right(self, engine: Engine) -> bool:
        """Whether the bound engine's decisions are right, two of them, the second one with a carry."""
        for carry in self.carries:
            carry.zero_()
        alpha = None if self.row_alpha is None else self.row_alpha[self.checked]
        for _ in range(2):
            before = [carry[self.checked] for carry in self.carries]
            wanted = decide_slowly(self.actor, self.observation[self.checked], before, alpha)
            action = engine.decide(self.observation, False, 1)
            right = [torch.equal(self.counts[:, self.checked], wanted.counts)]
            right += [torch.equal(a[self.checked], b) for a, b in zip(self.carries, wanted.carries, strict=True)]
            right.append(action is not None and torch.allclose(action[self.checked], wanted.action, 1e-4, 1e-4))
            if not all(right):
                return False
        return True

    def milliseconds(self, engine: backends.Engine) -> float:
        """The median time of a decision of the bound engine."""
        return milliseconds(lambda: engine.decide(self.observation, False, 1), self.observation.device)


_CHECKED = 500  # rows of a batch


def _key(actor: ActorParts, rows: int) -> tuple[object, ...]:
    """Alike for actors of one form on devices of one name, and batches up to the next power of two."""
    device = actor.output[0].device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    widths = tuple(tuple(weight.shape) for weight in actor.weights)
    return name, bucket(rows), widths, actor.dynamics.neuron, actor.dynamics.timesteps
