"""Thresholds fitted to a neuron and a T, layer by layer, and what errors are left, corrected in the layer above.

`snnkern.calibration` reads thresholds off the activations alone; here the neurons themselves run. A layer is fitted on
the spikes that the layers below it, fitted already, really send. Only observations are used: no reward, no gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern import ops
from snnkern.actors import Actor
from snnkern.calibration import Correction, Rule, as_tensor, batches, check_observations
from snnkern.errors import InputError
from snnkern.neurons import Dynamics, Kind, Neuron, parse_neuron

_RULES = ("max", "mse", "gaussian")
_CORRECTIONS = ("none", "bias", "linear")
# Candidates for θ as fractions of the largest activation: geometric, since an error of θ counts by its ratio.
CANDIDATES = tuple(float(fraction) for fraction in np.geomspace(0.2, 1.3, 20))
# Candidates for a shift of the bias, in θ/T from the one that rounds to the nearest spike count. Mostly downwards: an
# IF neuron that has fired too early cannot take it back, one that starts lower fires later.
SHIFTS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25)
_ITERATIONS = 100
_ROWS = 3000  # more observations make fitting slower and no better


@dataclass(frozen=True)
class Fit:
    """What fitting found.

    Attributes:
        actor: the dense actor, its weights and biases corrected where that was asked for.
        thresholds: θ of every hidden layer, `[N]` each.
        error: mean squared error of every hidden layer's mean output against the dense actor's activation, before the
            layer above is corrected, as a fraction of that activation's mean square.
    """

    actor: Actor
    thresholds: list[Tensor]
    error: list[float]


@torch.no_grad()
def fit(
    actor: Actor,
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
    rule: Rule = "mse",
    scale: float = 1.0,
    noise: float = 0.0,
    shift: bool = False,
    correction: Correction = "none",
    ridge: float = 0.1,
) -> Fit:
    """Fits thresholds layer by layer, every layer on the spikes that the layers below it send.

    Args:
        actor: the dense actor.
        observations: `[S, observation_dim]`, finite, or an iterable of such batches; at most 3000 of them are used,
            taken at even distances.
        neuron: as for `convert`.
        timesteps: T.
        rule: "max", "mse" (`least_error_threshold`) or "gaussian" (`gaussian_threshold`).
        scale: every threshold is multiplied by it.
        noise: where above 0, every observation is used a second time with normal noise, its deviation this fraction of
            each entry's. What the dense actor answers there is known as well, and a spiking actor soon sees states that
            the dense one never does.
        shift: whether the mse rule also chooses a shift of each neuron's own bias, together with the threshold; for IF,
            which cannot take back a spike that came too early.
        correction: "none"; "bias", the mean error of every layer's output is taken out of the next layer's bias; or
            "linear", the next layer's weights and bias are those that answer best to the spikes (`least_squares`).
        ridge: for "linear", how strongly weights are held where they are.

    Raises:
        InputError: a parameter is out of range, or observations do not fit, are none, or hold a NaN or an infinity.

    Source: fitting on the converted layers' own output, and folding its mean error into the next bias: Li et al., "A
    Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration", ICML 2021, section 4.
    """
    kind = parse_neuron(neuron)
    plain = Dynamics(kind, timesteps)
    _check_choice("rule", rule, _RULES)
    _check_choice("correction", correction, _CORRECTIONS)
    _check_positive("scale", scale)
    _check_positive("ridge", ridge)
    if noise != 0:
        _check_positive("noise", noise)
    if shift and (rule != "mse" or kind.kind is not Kind.IF):
        raise InputError(f"shift is for IF neurons and the mse rule, got {kind.label} and {rule}")
    if not isinstance(actor, Actor):
        raise InputError(f"actor must be an Actor (see load_actor), got {type(actor).__name__}")
    signal = _gather(actor, observations)
    if noise:
        signal = torch.cat([signal, _noisy(signal, noise)])
    activations = actor.hidden_activations(signal)
    if not all(bool(torch.isfinite(activation).all()) for activation in activations):
        raise InputError("calibration observations are so large that activations overflow")

    layers: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in (*actor.hidden, actor.output)]
    sent = actor.interface.normalize(signal)
    thresholds, errors = [], []
    for index, activation in enumerate(activations):
        weight, bias = layers[index]
        differential = kind.kind is Kind.DC
        current = ops.linear(sent, weight.T.contiguous(), None if differential else bias)
        own_bias = bias if differential else None
        maximum = activation.amax(dim=0)
        nearest = 0.5 - kind.initial_fraction
        shifts: tuple[float, ...] = (0.0,)
        if shift:  # a constant current, the first layer's, is best rounded; later ones come unevenly
            shifts = (nearest,) if index == 0 else tuple(nearest + part for part in SHIFTS)
        moved = torch.zeros_like(maximum)
        if rule == "mse":
            threshold, moved = least_error_threshold(current, activation, plain, bias=own_bias, shifts=shifts)
        elif rule == "gaussian":
            mean = sent if sent.dim() == 2 else _decode(sent, kind)
            threshold = gaussian_threshold(mean @ weight.T + bias, kind.levels, timesteps)
        else:
            threshold = maximum
        threshold = torch.where(maximum > 0, threshold * scale, 0.0)
        if shift:
            layers[index] = weight, bias + moved * scale
            current = current + moved * scale
        carry = torch.zeros_like(activation)
        output, _, _ = ops.neuron_mean(current, threshold, carry, plain, bias=own_bias)
        sent, _, _ = ops.neuron_spikes(current, threshold, carry, plain, bias=own_bias)
        thresholds.append(threshold)
        errors.append(float((output - activation).square().mean() / activation.square().mean().clamp(min=1e-30)))
        if correction != "none":
            layers[index + 1] = _corrected(layers[index + 1], output, activation, correction, ridge)
    corrected = Actor(layers[:-1], layers[-1], actor.interface, actor.metadata)
    return Fit(corrected, thresholds, errors)


def least_error_threshold(
    current: Tensor,
    activation: Tensor,
    dynamics: Dynamics,
    *,
    bias: Tensor | None = None,
    candidates: Sequence[float] = CANDIDATES,
    shifts: Sequence[float] = (0.0,),
) -> tuple[Tensor, Tensor]:
    """Threshold and bias shift with which each neuron's T-step response comes closest to its activation, `[N]` each.

    Every pair of candidates is tried with the kernels, so that whatever the neuron does (rounding, clipping, spikes
    that come too early or are taken back) counts as it happens. 0 for a neuron that is never active.

    Args:
        current: `[S, N]`, constant over a decision, or `[T, S, N]`.
        activation: what the mean output should be, `[S, N]`, ≥ 0.
        dynamics: neuron and T; every row starts with an empty carry.
        bias: of a DC layer, `[N]`.
        candidates: fractions of the largest activation.
        shifts: of the current at every step, as fractions of θ/T.
    """
    maximum = activation.amax(dim=0)
    carry = torch.zeros_like(activation)
    best = torch.full_like(maximum, math.inf)
    threshold, moved = torch.zeros_like(maximum), torch.zeros_like(maximum)
    for fraction, part in itertools.product(candidates, shifts):
        trial = maximum * fraction
        shift = trial * (part / dynamics.timesteps)
        output, _, _ = ops.neuron_mean(current + shift if part else current, trial, carry, dynamics, bias=bias)
        error = (output - activation).square().mean(dim=0)
        better = (error < best) & (maximum > 0)
        best = torch.where(better, error, best)
        threshold = torch.where(better, trial, threshold)
        moved = torch.where(better, shift, moved)
    return threshold, moved


def gaussian_threshold(drive: Tensor, levels: int, timesteps: int) -> Tensor:
    """The threshold iteration for a normally distributed drive, `[N]`.

    With X ~ N(m, σ²) and n = T·2^(L−1) equal steps up to θ, a neuron answers θ·q(X/θ), q the rounding to a multiple of
    1/n in 0 … 1. For given q the least E(X − θq)² is at θ = E[Xq] / E[q²]; that changes q, and so on, 100 times.

    Args:
        drive: input of the ReLU, `[S, N]`.
        levels: L; 1 for IF and SNM.
        timesteps: T.

    Returns:
        θ; the largest drive where the iteration has no positive, finite answer, 0 for a neuron that is never active.

    Source: Huang et al., "Differential Coding for Training-Free ANN-to-SNN Conversion", ICML 2025, "threshold
    iteration method".
    """
    drive = drive.double()
    mean, deviation = drive.mean(dim=0), drive.std(dim=0, unbiased=False)
    maximum = drive.amax(dim=0).clamp(min=0.0)
    steps = min(timesteps << (levels - 1), 1024)  # finer ones change θ by less than its own uncertainty
    step = torch.arange(1, steps + 1, dtype=drive.dtype, device=drive.device)[:, None]
    theta = maximum.clone()
    for _ in range(_ITERATIONS):
        distance = ((step - 0.5) / steps * theta - mean) / deviation  # of the boundary below the step
        above = 0.5 * torch.erfc(distance / math.sqrt(2.0))
        density = torch.exp(-0.5 * distance.square()) / math.sqrt(2.0 * math.pi)
        product = (mean * above + deviation * density).sum(dim=0) / steps
        square = ((2.0 * step - 1.0) * above).sum(dim=0) / steps**2
        theta = product / square
    usable = torch.isfinite(theta) & (theta > 0) & (maximum > 0)
    return torch.where(usable, theta, maximum).float()


def least_squares(output: Tensor, wanted: Tensor, weight: Tensor, bias: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The weight and bias that come closest to `wanted`, given what the layer below really sends.

    min over W', b' of E|W'·output + b' − wanted|² + λ·|W' − W|², λ = `ridge` · mean variance of the outputs.

    Args:
        output: mean output of the layer below, `[S, in]`.
        wanted: what this layer's dense original computes from the dense activations, `[S, out]`.
        weight: W, `[out, in]`.
        bias: b, `[out]`.
        ridge: above 0.

    Returns:
        W' and b', in the dtype of W.

    Source: ridge regression towards W; a layer's reconstruction from quantised inputs as in Nagel et al., "Up or Down?
    Adaptive Rounding for Post-Training Quantization", ICML 2020, here in closed form.
    """
    inputs, targets = output.double(), wanted.double()
    centred = inputs - inputs.mean(dim=0)
    missing = targets - inputs @ weight.double().T
    covariance = centred.T @ centred / len(inputs)
    strength = max(ridge * float(covariance.diagonal().mean()), 1e-12)
    covariance.diagonal().add_(strength)
    cross = centred.T @ (missing - missing.mean(dim=0)) / len(inputs)
    change = torch.linalg.solve(covariance, cross).T
    fitted = weight.double() + change
    offset = (targets - inputs @ fitted.T).mean(dim=0)
    return fitted.to(weight), offset.to(bias)


def _corrected(
    layer: tuple[Tensor, Tensor], output: Tensor, activation: Tensor, correction: Correction, ridge: float
) -> tuple[Tensor, Tensor]:
    weight, bias = layer
    if correction == "bias":
        return weight, bias + (activation - output).double().mean(dim=0).to(weight) @ weight.T
    return least_squares(output, activation @ weight.T + bias, weight, bias, ridge)


def _decode(spikes: Tensor, neuron: Neuron) -> Tensor:
    """The mean `[S, N]` that spikes `[T, S, N]` stand for."""
    if neuron.kind is not Kind.DC:
        return spikes.mean(dim=0)
    steps = torch.arange(1, len(spikes) + 1, dtype=spikes.dtype, device=spikes.device)
    return (spikes / steps[:, None, None]).sum(dim=0)


def _noisy(signal: Tensor, noise: float) -> Tensor:
    """Observations with normal noise, its deviation a fraction of each entry's; the same every time."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(signal.shape, generator=generator).to(signal)
    return signal + noise * signal.std(dim=0, unbiased=False) * drawn


def _gather(
    actor: Actor, observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor]
) -> Tensor:
    """At most `_ROWS` observations `[S, observation_dim]`, in the actor's dtype."""
    checked = []
    for batch in batches(observations):
        check_observations(actor, batch)
        checked.append(as_tensor(batch).to(actor.output.weight))
    rows = torch.cat(checked) if checked else torch.empty(0)
    if not len(rows):
        raise InputError("calibration data is empty: give at least one observation")
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), _ROWS), dtype=torch.float64).round().long()
    return rows[chosen.to(rows.device)]


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}: choose {', '.join(choices)}")


def _check_positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} must be a finite number above 0, got {value!r}")
