"""The semantics page in float64, one neuron and one step at a time, written from `docs/semantics.md` alone.

Nothing here comes from `snnkern.reference`, so a mistake in either shows as a difference between the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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
