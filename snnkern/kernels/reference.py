"""The executable specification: `docs/semantics.md` as PyTorch, any float dtype, any device.

Written to be read. Every loop over the T simulation steps is in the open, and the order of the floating-point
operations in a neuron's update and in the carry is part of the contract: kernels repeat it bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from snnkern.kernels.backends import BridgeStep, Gradients, LinearStep, NormStep, divide
from snnkern.kernels.layers import Convolution, spread
from snnkern.kernels.neurons import Dynamics, Kind, Neuron
from snnkern.kernels.surrogates import Surrogate, parse_surrogate


class Decision(NamedTuple):
    """What one layer did in one decision step.

    Attributes:
        spikes: what was sent at every step, in activation units, `[T, B, N]`.
        mean: mean output over the decision step, Q_T / T (for DC: e_T), `[B, N]`.
        carry: what the next decision step starts with, `[B, N]`.
        counts: number of spikes that each row sent, int64 `[B]`.
        margin: how close a potential came to a comparison's boundary, as a fraction of θ, `[B]`. A row with a small
            margin is one where rounding may decide whether a neuron fires.
        potentials: u_t at the end of every step, without what it sent, `[T, B, N]`.
    """

    spikes: Tensor
    mean: Tensor
    carry: Tensor
    counts: Tensor
    margin: Tensor
    potentials: Tensor


class _IF:
    """s_t = θ if u > θ. The comparison is strict, as in the published code."""

    def __init__(self, neuron: Neuron, threshold: Tensor, start: Tensor, bias: Tensor | None) -> None:
        self.neuron = neuron
        self.threshold = threshold.expand_as(start)
        self.potential = start
        self.count = torch.zeros_like(start, dtype=torch.int64)

    def integrate(self, current: Tensor) -> None:
        self.potential = self.potential + current

    def fire(self, t: int) -> Tensor:
        up = (self.potential > self.threshold) & (self.threshold > 0)  # a threshold below 0 is as good as 0
        self.count = self.count + up
        return torch.where(up, self.threshold, 0.0)

    def reset(self, spike: Tensor, current: Tensor, t: int) -> None:
        self.potential = self.potential - spike

    def slope(self, t: int, surrogate: Surrogate) -> Tensor:
        """f'(w) at the potential, before the neuron fires."""
        return _surrogate(surrogate, self.ratio() - 1)

    def ratio(self) -> Tensor:
        """w = u / θ; NaN where θ = 0, whose slope is 0."""
        return torch.where(self.threshold > 0, self.potential.detach() / self.threshold.detach(), torch.nan)

    def units(self, before: Tensor) -> Tensor:
        """f(w) of the spike that was fired last, from the count before it: exact, also where a level was rounded."""
        wide = torch.promote_types(self.threshold.dtype, torch.float32)  # float16 cannot hold the count
        units = (self.count - before).to(wide) / 2 ** (self.neuron.levels - 1)
        return units.to(self.threshold.dtype)

    def distances(self, t: int) -> list[Tensor]:
        """How far the potential is from where each comparison turns; infinite for comparisons that do not matter."""
        return [(self.potential - self.threshold).abs()]

    def transmitted(self, timesteps: int) -> Tensor:
        return self.count.to(self.threshold.dtype) * self.threshold

    def mean(self, timesteps: int) -> Tensor:
        return divide(self.transmitted(timesteps), timesteps)


class _LIF(_IF):
    """IF that loses a part of its potential before the current arrives."""

    def integrate(self, current: Tensor) -> None:
        self.potential = (1 - self.neuron.leak) * self.potential + current


class _SNM(_IF):
    """IF, and s_t = −θ if u < η·θ and something was sent that can be taken back."""

    def fire(self, t: int) -> Tensor:
        alive = self.threshold > 0
        up = alive & (self.potential > self.threshold)
        down = alive & (self.potential < self.neuron.negative_fraction * self.threshold) & (self.count >= 1)
        self.count = self.count + up.long() - down.long()
        return torch.where(up, self.threshold, torch.where(down, -self.threshold, 0.0))

    def slope(self, t: int, surrogate: Surrogate) -> Tensor:
        down = _surrogate(surrogate, self.neuron.negative_fraction - self.ratio())
        return super().slope(t, surrogate) + torch.where(self.count >= 1, down, 0.0)

    def distances(self, t: int) -> list[Tensor]:
        down = (self.potential - self.neuron.negative_fraction * self.threshold).abs()
        return [*super().distances(t), torch.where(self.count >= 1, down, torch.inf)]


class _MT(_IF):
    """s_t = ±λ_j, the largest level that the potential reaches; a negative one only takes back what was sent.

    `count` is m: what was sent, in units of the smallest level.
    """

    def levels(self) -> list[tuple[Tensor, int]]:
        """λ_j and what it counts for, 2^{L−1−j}; j = 0 … L−1."""
        number = self.neuron.levels
        return [(self.threshold / 2**j, 2 ** (number - 1 - j)) for j in range(number)]

    def can_take_back(self, level: Tensor, unit: int, t: int) -> Tensor:
        return self.count >= unit

    def fire(self, t: int) -> Tensor:
        spike = torch.zeros_like(self.potential)
        sent = torch.zeros_like(self.count)
        for level, unit in reversed(self.levels()):  # from the smallest: a larger level overrules it
            alive = level > 0  # not so where θ = 0, or where θ / 2^j underflows
            up = alive & (self.potential >= 0.75 * level)
            down = alive & (self.potential <= -0.75 * level) & self.can_take_back(level, unit, t)
            spike = torch.where(up, level, torch.where(down, -level, spike))
            sent = torch.where(up, unit, torch.where(down, -unit, sent))
        self.count = self.count + sent
        return spike

    def slope(self, t: int, surrogate: Surrogate) -> Tensor:
        ratio, number = self.ratio(), self.neuron.levels
        slope = torch.zeros_like(ratio)
        for j, (level, unit) in enumerate(self.levels()):
            height = 2.0 ** -min(j + 1, number - 1)
            up = _surrogate(surrogate, (ratio - 0.75 * 2.0**-j) / height)
            down = _surrogate(surrogate, (-ratio - 0.75 * 2.0**-j) / height)
            steps = up + torch.where(self.can_take_back(level, unit, t), down, 0.0)
            slope = slope + torch.where(level > 0, steps, 0.0)
        return slope

    def distances(self, t: int) -> list[Tensor]:
        distances = []
        for level, unit in self.levels():
            down = (self.potential + 0.75 * level).abs()
            allowed = self.can_take_back(level, unit, t)
            distances += [(self.potential - 0.75 * level).abs(), torch.where(allowed, down, torch.inf)]
        return distances

    def transmitted(self, timesteps: int) -> Tensor:
        # As a multiple of θ first: the smallest level may underflow, and float16 cannot hold the count.
        wide = torch.promote_types(self.threshold.dtype, torch.float32)
        sent = self.count.to(wide) / 2 ** (self.neuron.levels - 1)
        return sent.to(self.threshold.dtype) * self.threshold


class _DC(_MT):
    """MT thresholds on differential coding: spikes carry changes of a rate, which the receiver integrates.

    `current_mean` and `output_mean` are e^x and e of the semantics page.
    """

    def __init__(self, neuron: Neuron, threshold: Tensor, start: Tensor, bias: Tensor | None) -> None:
        super().__init__(neuron, threshold, start, bias)
        self.output_mean = torch.zeros_like(start)
        self.current_mean = self.output_mean if bias is None else bias.expand_as(start)

    def integrate(self, current: Tensor) -> None:
        self.potential = self.potential + current + self.current_mean - self.output_mean

    def can_take_back(self, level: Tensor, unit: int, t: int) -> Tensor:
        return self.transmitted(t) >= level

    def reset(self, spike: Tensor, current: Tensor, t: int) -> None:
        super().reset(spike, current, t)
        self.current_mean = self.current_mean + divide(current, t)
        self.output_mean = self.output_mean + divide(spike, t)

    def distances(self, t: int) -> list[Tensor]:
        distances = super().distances(t)
        for level, _ in self.levels():
            wanted = self.potential <= -0.75 * level
            distances.append(torch.where(wanted, (self.transmitted(t) - level).abs(), torch.inf))
        return distances

    def transmitted(self, timesteps: int) -> Tensor:
        return timesteps * self.output_mean

    def mean(self, timesteps: int) -> Tensor:
        return self.output_mean


_STATES: dict[Kind, type[_IF]] = {Kind.IF: _IF, Kind.LIF: _LIF, Kind.SNM: _SNM, Kind.MT: _MT, Kind.DC: _DC}


def neuron(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    dynamics: Dynamics,
    bias: Tensor | None = None,
    row_alpha: Tensor | None = None,
    surrogate: str | None = None,
) -> Decision:
    """One decision step of one layer (`docs/semantics.md`, "One decision step of one neuron" and "Residual carry").

    Args:
        current: x_t in activation units, `[T, B, N]`, or `[B, N]` where it is constant over the decision step.
            A DC layer receives W·s_t without the bias; a constant current is coded as x_1 = current, x_2 = … = 0.
        threshold: θ, `[N]`.
        carry: c, what the last decision step left, `[B, N]`.
        dynamics: neuron, T, α, μ, κ.
        bias: e^x_0 of a DC layer, `[N]`; the current of the other kinds contains it.
        row_alpha: α of every row, `[B]`, in place of `dynamics.alpha`.
        surrogate: "triangle", "sigmoid" or "atan": then autograd differentiates by it spikes, mean and the carry that
            comes out. The numbers are the same.
    """
    spec, timesteps = dynamics.neuron, dynamics.timesteps
    chosen = None if surrogate is None else parse_surrogate(surrogate)
    start = spec.initial_fraction * threshold + carry
    state = _STATES[spec.kind](spec, threshold, start, bias)
    sent: list[Tensor] = []
    potentials: list[Tensor] = []
    margin = torch.full_like(start, torch.inf)

    for t in range(1, timesteps + 1):
        x = _current_at(current, t, spec)
        state.integrate(x)
        for distance in state.distances(t):
            margin = torch.minimum(margin, distance)
        slope, before = None if chosen is None else state.slope(t, chosen), state.count
        spike = state.fire(t)
        if slope is not None:
            spike = _staircase(state.potential, state.threshold, spike, slope, state.units(before))
        state.reset(spike, x, t)
        sent.append(spike)
        potentials.append(state.potential)

    gained = state.potential - start
    spikes, transmitted, mean = torch.stack(sent), state.transmitted(timesteps), state.mean(timesteps)
    if chosen is not None and not spec.differential:  # they are counted in whole numbers, which have no gradient
        total = spikes.sum(dim=0)
        transmitted, mean = _along(total, transmitted), _along(total / timesteps, mean)
    margin = torch.where(threshold > 0, margin / threshold, torch.inf)
    return Decision(
        spikes=spikes,
        mean=mean,
        carry=residual_carry(gained, transmitted, carry, threshold, dynamics, row_alpha),
        counts=(spikes != 0).sum(dim=(0, 2)),
        margin=torch.cat([margin, start.new_full((len(start), 1), torch.inf)], dim=1).amin(dim=1),
        potentials=torch.stack(potentials),
    )


def neuron_gradients(
    current: Tensor,
    threshold: Tensor,
    carry: Tensor,
    dynamics: Dynamics,
    gradient: Tensor,
    surrogate: Surrogate,
    bias: Tensor | None = None,
) -> Gradients:
    """The gradients of one layer, by the recursion of `docs/semantics.md`, "Gradients".

    Args:
        current: as for `neuron`, and so are the next three.
        threshold: θ, `[N]`.
        carry: c, `[B, N]`.
        dynamics: neuron, T.
        gradient: ∂L/∂s_t of the spikes, `[T, B, N]`, or ∂L/∂ of the mean output, `[B, N]`.
        surrogate: what stands for a step's derivative.
        bias: e^x_0 of a DC layer, `[N]`.
    """
    spec, timesteps = dynamics.neuron, dynamics.timesteps
    start = spec.initial_fraction * threshold + carry
    state = _STATES[spec.kind](spec, threshold, start, bias)
    slopes, rises = [], []
    for t in range(1, timesteps + 1):
        x = _current_at(current, t, spec)
        state.integrate(x)
        ratio, slope, before = state.ratio(), state.slope(t, surrogate), state.count
        spike = state.fire(t)
        slopes.append(slope)
        rises.append(_rise(state.units(before), ratio, slope))
        state.reset(spike, x, t)

    zero = torch.zeros_like(start)
    of_mean = gradient.dim() == 2
    of_potential = of_current_mean = of_output_mean = of_threshold = zero
    shared = zero if spec.differential else divide(gradient, timesteps)  # what every spike gets of the mean's
    if of_mean and spec.differential:
        of_output_mean = gradient
    each: list[Tensor] = []
    for t in range(timesteps, 0, -1):
        of_spike = (shared if of_mean else gradient[t - 1]) - of_potential
        if spec.differential:
            of_spike = of_spike + divide(of_output_mean, t)
        of_threshold = of_threshold + of_spike * rises[t - 1]
        of_potential = of_potential + of_spike * slopes[t - 1]
        if spec.differential:
            each.append(of_potential + divide(of_current_mean, t))
            of_current_mean = of_current_mean + of_potential
            of_output_mean = of_output_mean - of_potential
        else:
            each.append(of_potential)
            of_potential = (1 - spec.leak) * of_potential
    of_threshold = of_threshold + spec.initial_fraction * of_potential
    of_current = torch.stack(each[::-1])
    if current.dim() == 2:
        of_current = of_current[0] if spec.differential else of_current.sum(dim=0)
    return Gradients(of_current, of_threshold.sum(dim=0), of_potential, of_current_mean.sum(dim=0))


def _staircase(potential: Tensor, threshold: Tensor, spike: Tensor, slope: Tensor, units: Tensor) -> Tensor:
    """The spike, with the surrogate's derivatives."""
    result: Tensor = _Staircase.apply(potential, threshold, spike.detach(), slope, units)  # type: ignore[no-untyped-call]
    return result


def _along(way: Tensor, value: Tensor) -> Tensor:
    """The value, with the derivatives of another way to compute it."""
    result: Tensor = _Along.apply(way, value.detach())  # type: ignore[no-untyped-call]
    return result


def _surrogate(surrogate: Surrogate, z: Tensor) -> Tensor:
    """σ(z); 0 where z is NaN."""
    if surrogate is Surrogate.TRIANGLE:
        slope = 1 - z.abs()
    elif surrogate is Surrogate.SIGMOID:
        slope = 4 * torch.sigmoid(4 * z) * torch.sigmoid(-4 * z)
    else:
        slope = 1 / (1 + (math.pi * z).square())
    return torch.where(slope > 0, slope, 0.0)


def _rise(units: Tensor, ratio: Tensor, slope: Tensor) -> Tensor:
    """∂s/∂θ = f(w) − w·f'(w)."""
    return units - torch.where(slope > 0, ratio * slope, 0.0)


class _Staircase(torch.autograd.Function):
    """A spike as a function of potential and threshold."""

    @staticmethod
    def forward(ctx: Any, potential: Tensor, threshold: Tensor, spike: Tensor, slope: Tensor, units: Tensor) -> Tensor:
        ctx.save_for_backward(potential / threshold, slope, units)
        return spike.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        (gradient,), (ratio, slope, units) = gradients, ctx.saved_tensors
        return gradient * slope, gradient * _rise(units, ratio, slope), None, None, None


class _Along(torch.autograd.Function):
    """A value whose gradient is that of another way to compute it."""

    @staticmethod
    def forward(ctx: Any, way: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def residual_carry(
    gained: Tensor,
    transmitted: Tensor,
    carry: Tensor,
    threshold: Tensor,
    dynamics: Dynamics,
    row_alpha: Tensor | None = None,
) -> Tensor:
    """CRPI: r = max(u_T − u_0, −Q_T), then `next_carry`. The maximum is spelled out as the clamp is."""
    residual = torch.where(gained < -transmitted, -transmitted, gained)
    return next_carry(residual, carry, threshold, dynamics, row_alpha)[1]


def next_carry(
    residual: Tensor, carry: Tensor, threshold: Tensor, dynamics: Dynamics, row_alpha: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """c ← clamp(μ·c + α·r, −κ·θ, κ·θ), before and after the clamp. Rows may have an α each.

    The clamp is spelled out so that the sign of a zero is defined and a NaN stays visible in the carry.

    Source: Xu et al., ICML 2026; μ is ours.
    """
    unclamped = dynamics.memory * carry + (dynamics.alpha if row_alpha is None else row_alpha[:, None]) * residual
    bound = dynamics.clip * threshold
    clamped = torch.where(unclamped > bound, bound, unclamped)
    return unclamped, torch.where(clamped < -bound, -bound, clamped)


class Layer(NamedTuple):
    """A hidden layer of an actor, as the semantics page writes it.

    Attributes:
        weight: `[out, in]`; of a convolution `[out, in, ky, kx]`.
        bias: `[out]`.
        threshold: θ of every neuron `[N]`; of a convolution of every channel `[C]`, or of every neuron `[C, H, W]`.
        convolution: None for a Linear layer.
        bridge: what stands before it and does not spike.
    """

    weight: Tensor
    bias: Tensor
    threshold: Tensor
    convolution: Convolution | None = None
    bridge: tuple[BridgeStep, ...] = ()


def linear(spikes: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x = W·s + b for every row: spikes `[…, in]`, weight `[out, in]`, bias `[out]` → `[…, out]`."""
    product = spikes @ weight.T
    return product if bias is None else product + bias


def linear_gradients(
    gradient: Tensor, input: Tensor, weight: Tensor, of_input: bool = True, of_weight: bool = True
) -> tuple[Tensor, Tensor]:
    """∂L/∂ of the input, as rows `[rows, in]`, and of the weight `[in, out]` of `snnkern.ops.linear`.

    Empty tensors stand for those that are not wanted.
    """
    rows, inputs = (
        tensor.reshape(math.prod(tensor.shape[:-1]), tensor.shape[-1])  # not by -1: a dimension may be 0
        for tensor in (gradient, input)
    )
    nothing = gradient.new_empty(0)
    return rows @ weight.T if of_input else nothing, inputs.T @ rows if of_weight else nothing


def convolved(spikes: Tensor, weight: Tensor, geometry: Convolution, bias: Tensor | None = None) -> Tensor:
    """x = W ∗ s + b: spikes `[…, in, H, W]`, weight `[out, in, ky, kx]`, bias `[out]` → `[…, out, H', W']`.

    One product of channels for each place in the kernel.
    """
    (pad_y, pad_x), (stride_y, stride_x) = geometry.padding, geometry.stride
    _, height, width = geometry.output_shape
    padded = torch.nn.functional.pad(spikes, (pad_x, pad_x, pad_y, pad_y))
    total = spikes.new_zeros(*spikes.shape[:-3], *geometry.output_shape)
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            below, right = i + stride_y * (height - 1) + 1, j + stride_x * (width - 1) + 1
            seen = padded[..., i:below:stride_y, j:right:stride_x]
            total = total + torch.einsum("oc,...chw->...ohw", weight[:, :, i, j], seen)
    return total if bias is None else total + bias[:, None, None]


def bridged(signal: Tensor, bridge: Sequence[BridgeStep]) -> Tensor:
    """What a bridge makes of a mean output or an observation `[B, …]`: `[B, N]`."""
    signal = signal.flatten(1)
    for step in bridge:
        if isinstance(step, LinearStep):
            signal = linear(signal, step.weight.T, step.bias)
        elif isinstance(step, NormStep):
            centred = signal - signal.mean(dim=1, keepdim=True)
            variance = centred.square().mean(dim=1, keepdim=True)
            signal = centred / torch.sqrt(variance + step.eps) * step.weight + step.bias
        else:
            signal = torch.tanh(signal)
    return signal


class ActorDecision(NamedTuple):
    """What a spiking actor did in one decision step: output z `[B, out]` and the hidden layers' decisions.

    A convolution's decision has `[…, C, H, W]` where another one has `[…, N]`.
    """

    output: Tensor
    layers: list[Decision]


def actor(
    observation: Tensor,
    hidden: Sequence[Layer | tuple[Tensor, Tensor, Tensor]],
    output: tuple[Tensor, Tensor],
    carries: Sequence[Tensor],
    dynamics: Dynamics,
    row_alpha: Tensor | None = None,
    bridge: Sequence[BridgeStep] = (),
    surrogate: str | None = None,
) -> ActorDecision:
    """One decision of a spiking actor (`docs/semantics.md`, "Actor"), before tanh and scaling.

    Args:
        observation: `[B, in]` or `[B, C, H, W]`, as the first layer receives it.
        hidden: every hidden layer; of a Linear one, its weight, bias and threshold alone will do.
        output: weight and bias of the output layer, which does not spike.
        carries: c of every hidden layer, `[B, N]` or `[B, C, H, W]`.
        dynamics: neuron, T, α, μ, κ; the same for all layers.
        row_alpha: α of every row, `[B]`, in place of `dynamics.alpha`.
        bridge: what stands before the output layer.
        surrogate: as for `neuron`.
    """
    differential = dynamics.neuron.differential
    decisions: list[Decision] = []
    signal = mean = observation  # the first layer's current is constant over t
    for layer, carry in zip([Layer(*layer) for layer in hidden], carries, strict=True):
        if layer.bridge:
            signal = bridged(mean, layer.bridge)  # constant, too
        bias = None if differential else layer.bias
        if layer.convolution is None:
            shape = tuple(layer.bias.shape)
            current = linear(_flat(signal), layer.weight, bias)
        else:
            shape = layer.convolution.output_shape
            current = convolved(signal, layer.weight, layer.convolution, bias).flatten(-3)
        decision = neuron(
            current,
            spread(layer.threshold, shape),
            carry.flatten(1),
            dynamics,
            spread(layer.bias, shape) if differential else None,
            row_alpha,
            surrogate,
        )
        decisions.append(_shaped(decision, shape))
        signal, mean = decisions[-1].spikes, decisions[-1].mean
    return ActorDecision(linear(bridged(mean, bridge), *output), decisions)


def decoded(sent: Tensor, differential: bool) -> Tensor:
    """What spikes `[T, …]` stand for: their mean, or the mean of the values whose changes they are (DC)."""
    if not differential:
        return sent.mean(dim=0)
    steps = torch.arange(1, len(sent) + 1, dtype=sent.dtype, device=sent.device)
    return (sent / steps.reshape(-1, *[1] * (sent.dim() - 1))).sum(dim=0)


def _flat(signal: Tensor) -> Tensor:
    """Images `[B, C, H, W]` or `[T, B, C, H, W]` as vectors, in the order C, H, W; vectors as they are."""
    return signal.flatten(-3) if signal.dim() > 3 else signal


def _shaped(decision: Decision, shape: tuple[int, ...]) -> Decision:
    """A decision whose neurons stand in this shape."""
    if len(shape) == 1:
        return decision
    names = ("spikes", "mean", "carry", "potentials")
    return decision._replace(**{name: getattr(decision, name).unflatten(-1, shape) for name in names})


def _current_at(current: Tensor, t: int, neuron: Neuron) -> Tensor:
    if current.dim() == 3:
        return current[t - 1]
    if neuron.differential and t > 1:
        return torch.zeros_like(current)
    return current
