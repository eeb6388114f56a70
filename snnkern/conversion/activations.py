"""Observations in batches, and statistics of the activations that they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from snnkern.errors import InputError
from snnkern.policies.actor import Actor, Policy

# Rows that pass through the actor at once while recording, and numbers that their activations may be: both bound what
# memory recording takes.
_CHUNK = 4096
_NUMBERS = 2**22
_BINS = 4096


class Statistics:
    """The maximum and, where percentiles are wanted, the distribution of the activations of several layers.

    Gathered batch by batch in memory that does not grow: per neuron, or per channel of images, the maximum and a
    histogram of the positive activations whose range is a power of two and doubles when it is exceeded.

    Args:
        like: a tensor `[N]` for every layer, or `[C]` for images, whose dtype and device the maximum has.
        percentiles: whether `percentile` will be asked for; the maximum alone is several times faster.
    """

    def __init__(self, like: Sequence[Tensor], percentiles: bool = True) -> None:
        self.observations = 0
        self._maximum = [torch.zeros_like(tensor) for tensor in like]
        self._histograms = [_Histogram(len(tensor)) for tensor in like if percentiles]

    def record(self, activations: Sequence[Tensor]) -> None:
        """Takes in the activations of every layer, `[rows, N]` or `[rows, C, …]` each.

        Raises:
            InputError: an activation is not finite.
        """
        check_activations(activations)
        for index, activation in enumerate(map(by_channel, activations)):
            self._maximum[index] = torch.maximum(self._maximum[index], activation.amax(dim=0))
            if self._histograms:
                self._histograms[index].update(activation.double().cpu().numpy())
        self.observations += len(activations[0])

    def maximum(self) -> list[Tensor]:
        """The largest activation of every neuron or channel, `[N]` or `[C]` per hidden layer; 0 where none was above 0.

        Raises:
            InputError: nothing has been recorded.
        """
        check_given(self.observations)
        return [maximum.clone() for maximum in self._maximum]

    def percentile(self, percentile: float) -> list[Tensor]:
        """A percentile of the positive activations of every neuron or channel; at most the maximum.

        Taken over positive activations alone, so that a neuron that is rarely active is not silenced. Within 1/2048 of
        the maximum of the smallest activation that so many percent do not exceed. 0 for a neuron that was never active.

        Raises:
            InputError: nothing has been recorded.
        """
        check_given(self.observations)
        return [
            torch.minimum(torch.from_numpy(histogram.percentile(percentile)).to(maximum), maximum)
            for histogram, maximum in zip(self._histograms, self._maximum, strict=True)
        ]


class ActivationRecorder(Statistics):
    """Statistics of the hidden activations of a dense actor.

    But for the rounding of the actor's own products, the result depends on the observations alone, not on their order
    or on how they were split.

    Args:
        actor: the dense actor.
        percentiles: as for `Statistics`.
    """

    def __init__(self, actor: Actor, percentiles: bool = True) -> None:
        super().__init__([layer.bias for layer in actor.hidden], percentiles)
        self.actor = actor

    @torch.no_grad()
    def update(self, observations: NDArray[np.floating] | Tensor) -> None:
        """Records the activations on observations `[N, *observation_shape]`.

        Raises:
            InputError: wrong shape or dtype, or a NaN or infinity.
        """
        check_observations(self.actor, observations)
        rows = chunk_rows(self.actor)
        for start in range(0, len(observations), rows):
            chunk = as_tensor(observations[start : start + rows])
            self.record(self.actor.hidden_activations(received(self.actor, chunk)))


def check_activations(activations: Sequence[Tensor]) -> None:
    """Refuses activations with an infinity or a NaN.

    Raises:
        InputError: says what they come from.
    """
    if not all(bool(torch.isfinite(activation).all()) for activation in activations):
        raise InputError("calibration observations are so large that activations overflow")


def by_channel(activation: Tensor) -> Tensor:
    """Activations `[B, C, …]` as `[B·…, C]`, a row for every place; `[B, N]` as they are."""
    return activation if activation.dim() == 2 else activation.movedim(1, -1).flatten(0, -2)


def chunk_rows(actor: Actor) -> int:
    """How many observations may pass through an actor at once."""
    layers = zip(actor.hidden, actor.convolutions, strict=True)
    neurons = (math.prod(geometry.output_shape) if geometry else len(layer.bias) for layer, geometry in layers)
    return rows_at_once(actor.interface.observation_dim + sum(neurons))


def rows_at_once(numbers: int) -> int:
    """How many rows may be recorded at once where each makes so many numbers."""
    return max(1, min(_CHUNK, _NUMBERS // max(numbers, 1)))


def received(actor: Actor, chunk: Tensor) -> Tensor:
    """Checked observations in the form in which the actor takes them: floating-point ones in its dtype."""
    weight = actor.output.weight
    return chunk.to(weight) if actor.interface.observation_dtype.is_floating_point else chunk.to(weight.device)


class _Histogram:
    """Counts of positive values per neuron, in `_BINS` bins over [0, 2^exponent) with an exponent for each neuron."""

    def __init__(self, neurons: int) -> None:
        self.counts = np.zeros((neurons, _BINS), dtype=np.int64)
        self.exponent = np.full(neurons, -1100)  # below every double's

    def update(self, values: NDArray[np.float64]) -> None:
        """Counts values `[B, N]`."""
        largest = values.max(axis=0)
        _, exponent = np.frexp(largest)  # largest < 2^exponent
        self._widen(np.where(largest > 0, np.maximum(exponent, self.exponent), self.exponent))
        bins = (np.ldexp(values, -self.exponent) * _BINS).astype(np.int64)
        rows, neurons = np.nonzero(values > 0)
        counted = np.bincount(neurons * _BINS + bins[rows, neurons], minlength=self.counts.size)
        self.counts += counted.reshape(self.counts.shape)

    def _widen(self, exponent: NDArray[np.int64]) -> None:
        for neuron in np.flatnonzero(exponent > self.exponent):
            merged = np.arange(_BINS) >> min(exponent[neuron] - self.exponent[neuron], 63)
            self.counts[neuron] = np.bincount(merged, self.counts[neuron], minlength=_BINS)
        self.exponent = exponent

    def percentile(self, percentile: float) -> NDArray[np.float64]:
        """The percentile of every neuron's values, linear inside a bin; 0 where there are none."""
        cumulative = self.counts.cumsum(axis=1)
        wanted = cumulative[:, -1] * (percentile / 100.0)
        index = (cumulative < wanted[:, None]).sum(axis=1)
        inside = np.take_along_axis(self.counts, index[:, None], axis=1)[:, 0]
        below = np.take_along_axis(cumulative, index[:, None], axis=1)[:, 0] - inside
        value: NDArray[np.float64] = np.ldexp((index + (wanted - below) / np.maximum(inside, 1)) / _BINS, self.exponent)
        return value


def check_given(observations: int) -> None:
    """Refuses calibration data of no observation.

    Raises:
        InputError: there is none.
    """
    if not observations:
        raise InputError("calibration data is empty: give at least one observation")


def check_observations(actor: Policy, observations: NDArray[np.floating] | Tensor) -> None:
    """Refuses what is not a batch of observations for the actor, `[N, *observation_shape]` and finite.

    Raises:
        InputError: wrong shape or dtype, or a NaN or infinity.
    """
    shape, dtype = actor.interface.observation_shape, actor.interface.observation_dtype
    kind = check_numeric(observations)
    fits = kind.is_floating_point if dtype.is_floating_point else kind == dtype
    if observations.ndim != 1 + len(shape) or observations.shape[1:] != shape or not fits:
        wanted = "floating-point" if dtype.is_floating_point else str(dtype).removeprefix("torch.")
        raise InputError(
            f"calibration observations must be {wanted} [N, {', '.join(map(str, shape))}], "
            f"got {kind} {actor.interface.misshapen(tuple(observations.shape), 'of')}"
        )
    if not kind.is_floating_point:
        return
    chunks = (observations[start : start + _CHUNK] for start in range(0, len(observations), _CHUNK))
    if not all(bool(torch.isfinite(as_tensor(chunk)).all()) for chunk in chunks):
        raise InputError("calibration observations hold NaN or infinity")


def batches(
    observations: NDArray[np.floating] | Tensor | Iterable[NDArray[np.floating] | Tensor],
) -> Iterator[NDArray[np.floating] | Tensor]:
    """The batches that calibration data comes in: one, or many.

    Raises:
        InputError: it is neither.
    """
    if isinstance(observations, np.ndarray | Tensor):
        yield observations
    elif isinstance(observations, Iterable) and not isinstance(observations, str | bytes | Mapping):
        yield from observations
    else:
        raise InputError(
            f"calibration observations must be an array or batches, got {type(observations).__name__}: snnkern.collect "
            "gathers some in an environment"
        )


def check_numeric(observations: object) -> torch.dtype:
    """The dtype of numeric observations, as torch names it.

    Raises:
        InputError: they are neither an array of numbers nor a tensor.
    """
    if isinstance(observations, Tensor):
        return observations.dtype
    if isinstance(observations, np.ndarray) and observations.dtype.kind in "biufc":
        return as_tensor(np.empty(0, observations.dtype)).dtype
    kind = f"array of {observations.dtype}" if isinstance(observations, np.ndarray) else type(observations).__name__
    raise InputError(f"calibration observations must be numeric arrays or tensors, got {kind}")


def as_tensor(chunk: NDArray[np.floating] | Tensor) -> Tensor:
    """A chunk as a tensor. An array is copied: it may be read-only, strided backwards, or of another byte order."""
    if isinstance(chunk, Tensor):
        return chunk
    plain = np.float64 if chunk.dtype == np.longdouble else chunk.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(chunk, dtype=plain, order="C"))
