"""The semantics page in float64, one neuron and one step at a time, written from `docs/semantics.md` alone.

Nothing here comes from `snnkern.reference`, so a mistake in either shows as a difference between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from snnkern.kernels.neurons import Dynamics, Kind


@dataclass
class NeuronDecision:
    """One decision step of one neuron.

    `closest` is how near any comparison of the potential came to its boundary, as a fraction of the threshold. What was
    transmitted is compared too, but follows from the spikes alone, so rounding of the currents cannot turn it.
    """

    spikes: list[float]
    mean: float
    residual: float
    carry: float
    closest: float


def decide(
    current: list[float], threshold: float, carry: float, dynamics: Dynamics, bias: float = 0.0
) -> NeuronDecision:
    """One decision step of one neuron for its T currents; for DC they are W·s_t, without the bias."""
    runs = {Kind.IF: _run_if, Kind.LIF: _run_if, Kind.SNM: _run_snm, Kind.MT: _run_mt, Kind.DC: _run_dc}
    run = runs[dynamics.neuron.kind]
    start = dynamics.neuron.initial_fraction * threshold + carry
    spikes, end, transmitted, mean, closest = run(current, threshold, start, dynamics, bias)
    residual = max(end - start, -transmitted)
    limit = dynamics.clip * threshold
    kept = dynamics.memory * carry + dynamics.alpha * residual
    return NeuronDecision(spikes, mean, residual, min(max(kept, -limit), limit), closest)


def constant_code(value: float, dynamics: Dynamics) -> list[float]:
    """The T currents of a constant current: differential coding sends it once, the others receive it at every step."""
    if dynamics.neuron.kind is Kind.DC:
        return [value] + [0.0] * (dynamics.timesteps - 1)
    return [value] * dynamics.timesteps


def decide_layer(
    current: np.ndarray, threshold: np.ndarray, carry: np.ndarray, dynamics: Dynamics, bias: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`decide` for currents `[T, B, N]`: spikes `[T, B, N]`, mean, residual and carry `[B, N]`, closest `[B]`."""
    spikes = np.zeros_like(current)
    mean, residual, next_carry = np.zeros_like(carry), np.zeros_like(carry), np.zeros_like(carry)
    closest = np.full(len(carry), math.inf)
    for b, n in np.ndindex(*carry.shape):
        one = decide(
            [float(x) for x in current[:, b, n]],
            float(threshold[n]),
            float(carry[b, n]),
            dynamics,
            0.0 if bias is None else float(bias[n]),
        )
        spikes[:, b, n] = one.spikes
        mean[b, n], residual[b, n], next_carry[b, n] = one.mean, one.residual, one.carry
        closest[b] = min(closest[b], one.closest)
    return spikes, mean, residual, next_carry, closest


@dataclass
class LoopActor:
    """A spiking actor as loops: hidden layers of weight `[out, in]`, bias, threshold; an output layer; carries."""

    hidden: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
    output: tuple[np.ndarray, np.ndarray]
    dynamics: Dynamics
    scale: float = 1.0
    shift: float = 0.0
    carries: list[np.ndarray] | None = None

    def act(self, observation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Actions `[B, out]` of one decision, and how near each row `[B]` came to a comparison's boundary."""
        batch = len(observation)
        if self.carries is None:
            self.carries = [np.zeros((batch, len(threshold))) for _, _, threshold in self.hidden]
        differential = self.dynamics.neuron.kind is Kind.DC
        timesteps = range(self.dynamics.timesteps)
        signal = np.zeros((len(timesteps), *observation.shape))
        for b, n in np.ndindex(*observation.shape):
            signal[:, b, n] = constant_code(float(observation[b, n]), self.dynamics)
        mean, closest = observation, np.full(batch, math.inf)
        for index, (weight, bias, threshold) in enumerate(self.hidden):
            current = np.zeros((len(timesteps), batch, len(threshold)))
            for t, b, n in np.ndindex(*current.shape):
                product = sum(float(w) * float(s) for w, s in zip(weight[n], signal[t, b], strict=True))
                current[t, b, n] = product if differential else product + float(bias[n])
            signal, mean, _, self.carries[index], near = decide_layer(
                current, threshold, self.carries[index], self.dynamics, bias if differential else None
            )
            closest = np.minimum(closest, near)
        weight, bias = self.output
        action = np.zeros((batch, len(bias)))
        for b, n in np.ndindex(*action.shape):
            z = sum(float(w) * float(q) for w, q in zip(weight[n], mean[b], strict=True)) + float(bias[n])
            action[b, n] = self.scale * math.tanh(z) + self.shift
        return action, closest


@dataclass
class LoopLayer:
    """A layer of a `LoopVisualActor`: Linear, weight `[out, in]`, or where it has a stride a convolution.

    `threshold` is one number for each neuron, channel or place, which `[N]`, `[C]` and `[C, H, W]` say. `bridge` is a
    list of ("linear", weight, bias), ("norm", weight, bias, eps) and ("tanh",).
    """

    weight: np.ndarray
    bias: np.ndarray
    threshold: np.ndarray | None = None
    stride: tuple[int, int] | None = None
    padding: tuple[int, int] = (0, 0)
    bridge: list[tuple] = field(default_factory=list)


@dataclass
class LoopVisualActor:
    """A spiking actor of convolutions, Linear layers and bridges as loops, one row at a time. The last layer is the
    output layer. `carries` are `[B, N]` or `[B, C, H, W]`."""

    layers: list[LoopLayer]
    dynamics: Dynamics
    carries: list[np.ndarray] | None = None

    def decide(self, images: np.ndarray) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """z `[B, out]`, spikes of each hidden layer `[B, T, …]`, and how near each row came to a boundary, `[B]`."""
        rows = [self._row(image, row) for row, image in enumerate(images)]
        self.carries = [np.stack(parts) for parts in zip(*(carries for *_, carries in rows), strict=True)]
        spikes = [np.stack(parts) for parts in zip(*(sent for _, sent, *_ in rows), strict=True)]
        return np.stack([z for z, *_ in rows]), spikes, np.array([closest for _, _, closest, _ in rows])

    def _row(self, image, row):
        timesteps = range(self.dynamics.timesteps)
        differential = self.dynamics.neuron.kind is Kind.DC
        signal, mean, closest = None, image, math.inf  # no spikes yet: what comes first is constant
        after, sent = [], []
        for index, layer in enumerate(self.layers):
            if layer.bridge:
                signal, mean = None, self._bridge(mean.flatten(), layer.bridge)
            if layer.threshold is None:
                return self._product(layer, mean) + layer.bias, sent, closest, after
            products = [self._product(layer, mean if signal is None else signal[t]) for t in timesteps]
            shape = products[0].shape
            if signal is None and differential:
                products[1:] = [np.zeros(shape)] * (len(products) - 1)
            before = np.zeros(shape) if self.carries is None else self.carries[index][row]
            signal = np.zeros((len(products), *shape))
            mean, carry = np.zeros(shape), np.zeros(shape)
            for place in np.ndindex(*shape):
                bias = float(layer.bias[place[0]])
                threshold = float(layer.threshold[place if layer.threshold.ndim == len(shape) else place[0]])
                current = [float(product[place]) + (0.0 if differential else bias) for product in products]
                one = decide(current, threshold, float(before[place]), self.dynamics, bias if differential else 0.0)
                signal[(slice(None), *place)] = one.spikes
                mean[place], carry[place] = one.mean, one.carry
                closest = min(closest, one.closest)
            after.append(carry)
            sent.append(signal)
        raise AssertionError("the last layer is the output layer")

    @staticmethod
    def _product(layer, values):
        if layer.stride is None:
            flat = values.flatten()
            return np.array([sum(float(w) * float(x) for w, x in zip(row, flat, strict=True)) for row in layer.weight])
        out, channels, tall, wide = layer.weight.shape
        (down, right), (top, left) = layer.stride, layer.padding
        _, height, width = values.shape
        rows, columns = (height + 2 * top - tall) // down + 1, (width + 2 * left - wide) // right + 1
        total = np.zeros((out, rows, columns))
        for o, y, x in np.ndindex(*total.shape):
            for c, i, j in np.ndindex(channels, tall, wide):
                v, h = y * down - top + i, x * right - left + j
                if 0 <= v < height and 0 <= h < width:
                    total[o, y, x] += float(layer.weight[o, c, i, j]) * float(values[c, v, h])
        return total

    @staticmethod
    def _bridge(values, steps):
        for kind, *numbers in steps:
            if kind == "linear":
                weight, bias = numbers
                values = (
                    np.array([sum(float(w) * float(x) for w, x in zip(row, values, strict=True)) for row in weight])
                    + bias
                )
            elif kind == "norm":
                weight, bias, eps = numbers
                middle = sum(values) / len(values)
                variance = sum((value - middle) ** 2 for value in values) / len(values)
                values = (values - middle) / math.sqrt(variance + eps) * weight + bias
            else:
                values = np.array([math.tanh(value) for value in values])
        return values


class _Closest:
    """The smallest distance between a potential and a boundary, as a fraction of the threshold."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.value = math.inf

    def see(self, potential: float, boundary: float) -> None:
        if self.threshold > 0:
            self.value = min(self.value, abs(potential - boundary) / self.threshold)


def _run_if(current, threshold, start, dynamics, bias):
    u, n, spikes, closest = start, 0, [], _Closest(threshold)
    for x in current:
        u = (1 - dynamics.neuron.leak) * u + x
        closest.see(u, threshold)
        spike = threshold if u > threshold else 0.0
        u = u - spike
        n += spike > 0
        spikes.append(spike)
    return spikes, u, n * threshold, n * threshold / len(current), closest.value


def _run_snm(current, threshold, start, dynamics, bias):
    lower = dynamics.neuron.negative_fraction * threshold
    u, n, spikes, closest = start, 0, [], _Closest(threshold)
    for x in current:
        u = u + x
        closest.see(u, threshold)
        if n >= 1:
            closest.see(u, lower)
        spike = 0.0
        if u > threshold:
            spike = threshold
        elif u < lower and n >= 1:
            spike = -threshold
        u = u - spike
        n += (spike > 0) - (spike < 0)
        spikes.append(spike)
    return spikes, u, n * threshold, n * threshold / len(current), closest.value


def _run_mt(current, threshold, start, dynamics, bias):
    levels = dynamics.neuron.levels
    u, m, spikes, closest = start, 0, [], _Closest(threshold)
    for x in current:
        u = u + x
        spike, units = 0.0, 0
        for j in reversed(range(levels)):  # the last that fits is the largest
            level, unit = threshold / 2**j, 2 ** (levels - 1 - j)
            if level == 0:
                continue
            closest.see(u, 0.75 * level)
            if u >= 0.75 * level:
                spike, units = level, unit
            if m >= unit:
                closest.see(u, -0.75 * level)
                if u <= -0.75 * level:
                    spike, units = -level, -unit
        u = u - spike
        m += units
        spikes.append(spike)
    smallest = threshold / 2 ** (levels - 1)
    return spikes, u, m * smallest, m * smallest / len(current), closest.value


def _run_dc(current, threshold, start, dynamics, bias):
    levels = dynamics.neuron.levels
    u, current_mean, output_mean, spikes, closest = start, bias, 0.0, [], _Closest(threshold)
    for t, x in enumerate(current, start=1):
        u = u + x + current_mean - output_mean
        promised = t * output_mean
        spike = 0.0
        for j in reversed(range(levels)):
            level = threshold / 2**j
            if level == 0:
                continue
            closest.see(u, 0.75 * level)
            if u >= 0.75 * level:
                spike = level
            if output_mean > 0:
                closest.see(u, -0.75 * level)
            if promised >= level and u <= -0.75 * level:
                spike = -level
        u = u - spike
        current_mean = current_mean + x / t
        output_mean = output_mean + spike / t
        spikes.append(spike)
    return spikes, u, len(current) * output_mean, output_mean, closest.value
