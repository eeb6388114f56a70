"""Fits thresholds to a neuron and a T, layer by layer, and corrects the remaining errors in the layer above.

`rules` computes thresholds from the activations alone; here the neurons themselves run. A layer is fitted on the spikes
that the layers below it really send, which are fitted already. Only observations are used: no reward, no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.conversion.activations import as_tensor, batches, check_given, check_observations, chunk_rows
from snnkern.conversion.regression import least_squares, matching
from snnkern.conversion.rewriting import Rewritten
from snnkern.conversion.rules import Fitted
from snnkern.conversion.sensitivity import Sensitivity, relative, sensitivity, squared_slope
from snnkern.conversion.states import OBSERVATIONS, Walk, decoded, sample
from snnkern.errors import InputError
from snnkern.kernels import ops
from snnkern.kernels.neurons import Dynamics, Neuron, parse_neuron
from snnkern.policies.actor import Actor, check_actor

# Candidates for θ as fractions of the largest activation: geometric, since an error of θ counts by its ratio.
CANDIDATES = tuple(float(fraction) for fraction in np.geomspace(0.2, 1.3, 20))
_ITERATIONS = 100
_ROWS = 30_000  # what `collect` gives: with a third of them, returns depend on which ones they are
_FEW = 10_000  # as many as one number per neuron needs
_FIRST_GUESS = 0.2  # of z's deviation: how large its errors may be
# A drive lower than this many deviations below 0 counts this much, where others count about 1.
_NEAR, _FAR = 0.5, 0.01
_PLAIN = Fitted()
_APART = 4  # a first fit, which tells how large errors are, takes every fourth observation


@dataclass(frozen=True)
class Fit:
    """The result of `fit`.

    Attributes:
        actor: the dense actor, with corrected weights and biases if a correction was asked for.
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
    how: Fitted = _PLAIN,
    *,
    neuron: str | Neuron = "mt",
    timesteps: int = 4,
) -> Fit:
    """Fits thresholds layer by layer, every layer on the spikes that the layers below it send.

    Args:
        actor: the dense actor.
        observations: `[S, observation_dim]`, finite, or an iterable of such batches; at most 30,000 of them are used
            (12,000 where a neuron has five ramps), taken at even distances.
        how: the rule and its parameters.
        neuron: as for `convert`.
        timesteps: T.

    Raises:
        InputError: observations do not fit, are empty, or hold a NaN or an infinity; or T is out of range.

    Source: fitting on the converted layers' own output, and folding its mean error into the next bias: Li et al., "A
    Free Lunch From ANN: Towards Efficient, Accurate Spiking Neural Networks Calibration", ICML 2021, section 4.
    """
    settings = _Settings(Dynamics(parse_neuron(neuron), timesteps), how)
    if not check_actor(actor).is_plain:
        return _fit_by_parts(actor, sample(actor, observations, OBSERVATIONS), settings)
    signal = _gather(actor, observations)
    activations = actor.hidden_activations(signal)
    if not all(bool(torch.isfinite(activation).all()) for activation in activations):
        raise InputError("calibration observations are so large that activations overflow")
    signal = actor.interface.normalize(signal)
    exact = actor.exact_drives(signal) if isinstance(actor, Rewritten) else None
    counted = None
    if how.weighted:
        # The slope of tanh is taken over the errors that are there: a first fit, uncorrected, tells how large they are.
        few = [_thin(activation) for activation in activations]
        z = actor.output(few[-1])
        guess = sensitivity(actor, few, _FIRST_GUESS * z.std(dim=0, unbiased=False), how.floor)
        _, output = _fit(actor, _thin(signal), few, settings.uncorrected(), guess)
        deviation = (actor.output(output) - z).square().mean(dim=0).sqrt()
        counted = sensitivity(actor, activations, deviation, how.floor)
    return _fit(actor, signal, activations, settings, counted, exact)[0]


@dataclass(frozen=True)
class _Settings:
    """How layers are fitted: what `fit` is given, checked."""

    plain: Dynamics
    how: Fitted

    def uncorrected(self) -> _Settings:
        """The same without a correction."""
        return replace(self, how=replace(self.how, correction="none", matched=False))


def _fit(
    actor: Actor,
    signal: Tensor,
    activations: Sequence[Tensor],
    settings: _Settings,
    counted: Sensitivity | None,
    exact: Sequence[Tensor] | None = None,
) -> tuple[Fit, Tensor]:
    """The fit, and the mean output `[S, N]` of the last hidden layer.

    Corrections aim at `exact`, `[S, out]` for each layer, where it is given, else at what follows from `activations`.
    """
    kind = settings.plain.neuron
    dense: list[tuple[Tensor, Tensor]] = [(layer.weight, layer.bias) for layer in (*actor.hidden, actor.output)]
    layers, sent = list(dense), signal
    thresholds, errors = [], []
    for index, activation in enumerate(activations):
        weight, bias = layers[index]
        own_bias = bias if kind.differential else None
        current = ops.linear(sent, weight.T.contiguous(), None if own_bias is not None else bias)
        maximum = activation.amax(dim=0)
        if settings.how.rule == "mse":
            importance = _thin(counted.hidden[index]) if counted else None
            threshold = least_error_threshold(
                _thin(current), _thin(activation), settings.plain, bias=own_bias, importance=importance
            )
        else:
            mean = decoded(sent, kind)
            threshold = gaussian_threshold(mean @ weight.T + bias, kind.levels, settings.plain.timesteps)
            threshold = actor.activate(index, threshold)  # no higher than a ceiling
        threshold = torch.where(maximum > 0, threshold, 0.0)
        carry = torch.zeros_like(activation)
        output, _, _ = ops.neuron_mean(current, threshold, carry, settings.plain, bias=own_bias)
        sent, _, _ = ops.neuron_spikes(current, threshold, carry, settings.plain, bias=own_bias)
        thresholds.append(threshold)
        errors.append(_relative_error(output, activation))
        if settings.how.correction != "none":
            weight, bias = dense[index + 1]
            wanted = activation @ weight.T + bias if exact is None else exact[index + 1]
            importance = [*counted.hidden, counted.output][index + 1] if counted else None
            layers[index + 1] = _corrected(
                actor, index + 1, output, wanted, weight, bias, settings.how, importance, actor.ramps
            )
    fitted = Actor(layers[:-1], layers[-1], actor.interface, actor.metadata)
    return Fit(fitted, thresholds, errors), output


def _fit_by_parts(actor: Actor, observations: Tensor, settings: _Settings) -> Fit:
    """The fit of an actor with convolutions or bridges."""
    if not settings.how.weighted:
        return _walked(Walk(actor, observations, settings.plain), settings)[0]
    few = observations[::_APART]
    z = _dense_output(actor, few)
    guess = _slopes(actor, z, _FIRST_GUESS * z.std(dim=0, unbiased=False))
    _, found = _walked(Walk(actor, few, settings.plain, guess), settings.uncorrected())
    deviation = (found - z).square().mean(dim=0).sqrt()
    slopes = _slopes(actor, _dense_output(actor, observations), deviation)
    return _walked(Walk(actor, observations, settings.plain, slopes), settings)[0]


def _walked(walk: Walk, settings: _Settings) -> tuple[Fit, Tensor]:
    """The fit of the layers of a walk, one after the other, and the output layer's z `[S, action_dim]`."""
    actor, dynamics = walk.actor, settings.plain
    pairs, thresholds, errors = [], [], []
    for index, layer in enumerate((*actor.hidden, actor.output)):
        states = walk.states(index)
        importance = None if states.squares is None else relative(states.squares, settings.how.floor)
        weight, bias = layer.weight.flatten(1), layer.bias
        if index or "0" in actor.bridges:  # what the observation gives is exact
            weight, bias = _corrected(actor, index, states.mean, states.drive, weight, bias, settings.how, importance)
        pairs.append((weight.reshape(layer.weight.shape), bias))
        if index == len(actor.hidden):
            break
        own_bias = bias if dynamics.neuron.differential else None
        current = walk.currents(index, pairs[-1][0], None if own_bias is not None else bias)
        wanted = actor.activate(index, states.drive)
        if settings.how.rule == "mse":
            threshold = least_error_threshold(current, wanted, dynamics, bias=own_bias, importance=importance)
        else:
            drive = states.mean @ weight.T + bias
            threshold = gaussian_threshold(drive, dynamics.neuron.levels, dynamics.timesteps)
            threshold = actor.activate(index, threshold)  # no higher than a ceiling
        threshold = torch.where(wanted.amax(dim=0) > 0, threshold, 0.0)
        output, _, _ = ops.neuron_mean(current, threshold, torch.zeros_like(wanted), dynamics, bias=own_bias)
        errors.append(_relative_error(output, wanted))
        thresholds.append(threshold)
        walk.add(*pairs[-1], threshold, current, states.drive)
    z = states.mean @ weight.T + bias
    return Fit(actor.replaced(pairs=pairs), thresholds, errors), z


def _corrected(
    actor: Actor,
    index: int,
    output: Tensor,
    wanted: Tensor,
    weight: Tensor,
    bias: Tensor,
    how: Fitted,
    importance: Tensor | None,
    beside: int = 1,
) -> tuple[Tensor, Tensor]:
    """The weight and bias with which a layer comes closest to `wanted` `[S, out]`, given `output` `[S, in]`.

    `beside` receivers beside each other count alike: with as many as a neuron has ramps, that is several times as fast.
    """
    if how.correction == "none":
        return weight, bias
    if how.correction == "bias":
        return weight, bias + (wanted - (output @ weight.T + bias)).double().mean(dim=0).to(bias)
    spikes = index < len(actor.hidden)
    if importance is not None and spikes:
        importance = _near(wanted, importance)
        if beside > 1:
            importance = importance.unflatten(1, (-1, beside)).mean(dim=2)
    found = least_squares(output, wanted, weight, bias, how.ridge, importance)
    if spikes or not (how.matched and actor.interface.squash):
        return found
    return matching(output, wanted, weight, bias, how.ridge, found)


def _near(drive: Tensor, importance: Tensor) -> Tensor:
    """The importance of a spiking layer's drive: one far below zero stays silent, whatever its error."""
    return importance * (drive > -_NEAR * drive.std(dim=0, unbiased=False)) + _FAR


def _relative_error(output: Tensor, activation: Tensor) -> float:
    return float((output - activation).square().mean() / activation.square().mean().clamp(min=1e-30))


def _dense_output(actor: Actor, observations: Tensor) -> Tensor:
    """z `[S, action_dim]` of the dense actor, some observations at a time."""
    parts = observations.split(chunk_rows(actor))
    last = len(actor.hidden)
    return torch.cat([actor.output(actor.arriving(last, actor.hidden_activations(part)[-1])) for part in parts])


def _slopes(actor: Actor, z: Tensor, deviation: Tensor) -> Tensor:
    return squared_slope(z, deviation).sqrt() if actor.interface.squash else torch.ones_like(z)


def least_error_threshold(
    current: Tensor,
    activation: Tensor,
    dynamics: Dynamics,
    *,
    bias: Tensor | None,
    importance: Tensor | None,
) -> Tensor:
    """Threshold with which each neuron's T-step response comes closest to its activation, `[N]`.

    Every candidate is tried with the kernels, so that whatever the neuron does (rounding, clipping, spikes that come
    too early or are taken back) counts as it happens. 0 for a neuron that is never active.

    Args:
        current: `[S, N]`, constant over a decision, or `[T, S, N]`.
        activation: what the mean output should be, `[S, N]`, ≥ 0.
        dynamics: neuron and T; every row starts with an empty carry.
        bias: of a DC layer, `[N]`; None of other neurons.
        importance: what a squared error counts, `[S, N]`; None where all count alike.
    """
    maximum = activation.amax(dim=0)
    carry = torch.zeros_like(activation)
    best = torch.full_like(maximum, math.inf)
    threshold = torch.zeros_like(maximum)
    for fraction in CANDIDATES:
        trial = maximum * fraction
        output, _, _ = ops.neuron_mean(current, trial, carry, dynamics, bias=bias)
        squares = (output - activation).square()
        error = (squares if importance is None else squares * importance).mean(dim=0)
        better = (error < best) & (maximum > 0)
        best = torch.where(better, error, best)
        threshold = torch.where(better, trial, threshold)
    return threshold


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
    dtype, drive = drive.dtype, drive.double()
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
    return torch.where(usable, theta, maximum).to(dtype)


def _thin(states: Tensor) -> Tensor:
    """At most about `_FEW` of the states in `[…, S, N]`, at even distances."""
    return states[..., :: -(-states.shape[-2] // _FEW), :]


def _gather(
    actor: Actor, observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor]
) -> Tensor:
    """At most `_ROWS` observations `[S, observation_dim]`, in the actor's dtype."""
    checked = []
    for batch in batches(observations):
        check_observations(actor, batch)
        checked.append(as_tensor(batch).to(actor.output.weight))
    rows = torch.cat(checked) if checked else torch.empty(0)
    check_given(len(rows))
    most = 2 * _ROWS // max(2, actor.ramps)  # the time of a correction grows as the square of the ramps
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), most), dtype=torch.float64).round().long()
    return rows[chosen.to(rows.device)]
