"""Statistics of episodes: errors over time, distances and distributions, with intervals from resampled episodes.

Each episode has one value, and the median over episodes is taken (of returns, the mean), since in one that has gone
wrong the errors may be so large that they would speak for all. Episodes are what is resampled for intervals: steps of
one episode are not independent. Arrays are `[steps, rows]` or
`[steps, rows, …]` with a row per episode, and `running` `[steps, rows]` says where an episode has not ended.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snnkern.control.intervals import Interval, bootstrap, bootstrap_many
from snnkern.errors import require
from snnkern.limits import Amount, Number

_RESAMPLES = 1000
_FEW_RESAMPLES = 100  # where each sorts all states anew
_STATES_PER_EPISODE = 100

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """A quantity at several places (steps, lags, frequencies), with 95 % bootstrap intervals where there are any.

    NaN, where no episode has a value, is None.
    """

    at: list[Number]
    value: list[Number | None]
    low: list[Number | None]
    high: list[Number | None]


def mean_over_episodes(values: Array) -> Interval:
    """The mean of one value per episode, `[rows]`."""
    return bootstrap(np.mean, values, resamples=_RESAMPLES)


def median_over_episodes(values: Array) -> Interval:
    """The median of one value per episode, `[rows]`; NaN is an episode without one."""
    return bootstrap(_median, values, resamples=_RESAMPLES)


def curve_over_steps(values: Array, running: Mask) -> Curve:
    """The median over the episodes that are running at each step, of values `[steps, rows]`.

    Every step up to 100, then every tenth.
    """
    steps = np.arange(len(values))
    steps = steps[(steps < 100) | (steps % 10 == 0)]
    return _curve(steps, np.where(running[steps], values[steps], np.nan))


def root_mean_square(errors: Array, running: Mask) -> Interval:
    """Of errors `[steps, rows, dimensions]` over steps and dimensions; the median over episodes."""
    return median_over_episodes(np.sqrt(np.array([(row**2).mean() for row in _episodes(errors, running)])))


def offset_share(errors: Array, running: Mask) -> Interval:
    """The share of an error's power that is its mean over the episode: 0 for errors that cancel, 1 for a constant."""
    shares = [_share((row.mean(axis=0) ** 2).sum(), (row**2).sum(axis=1).mean()) for row in _episodes(errors, running)]
    return median_over_episodes(np.array(shares))


def autocorrelation(errors: Array, running: Mask, lags: int = 50) -> Curve:
    """ρ(k) = mean of e_t · e_{t+k} over mean of e_t², all dimensions together; lags 0 … `lags`.

    The mean is not taken out: a constant error is an error again at every lag, and pushes the state in one direction.

    Args:
        errors: `[steps, rows, dimensions]`.
        running: `[steps, rows]`.
        lags: the largest lag; episodes with no more steps than a lag do not count for it.
    """
    lags = min(lags, len(errors) - 1)
    correlations = np.full((lags + 1, running.shape[1]), np.nan)
    for correlation, row in zip(correlations.T, _episodes(errors, running), strict=True):
        steps = len(row)
        transformed = np.fft.rfft(row, n=2 * steps, axis=0)
        products = np.fft.irfft((transformed * transformed.conj()).sum(axis=1), n=2 * steps)[: min(lags + 1, steps)]
        if products[0] > 0:
            correlation[: len(products)] = products / (steps - np.arange(len(products))) / (products[0] / steps)
    return _curve(np.arange(lags + 1), correlations)


def spectrum(errors: Array, running: Mask, bands: int = 50) -> Curve:
    """Power of the errors by frequency, relative to white noise of the same power, which is about 1 everywhere.

    Frequencies are in cycles per decision, 0 … 0.5, as the middles of `bands` bands. The mean is not taken out.
    """
    found = np.full((bands, running.shape[1]), np.nan)
    for relative, row in zip(found.T, _episodes(errors, running), strict=True):
        frequency, power = _periodogram(row)
        band = np.minimum((frequency * 2 * bands).astype(int), bands - 1)
        if len(row) >= 2 * bands and power.sum() > 0:  # a shorter one has bands without a frequency
            relative[:] = np.bincount(band, power, minlength=bands) * bands / power.sum()
    return _curve((np.arange(bands) + 0.5) * 0.5 / bands, found)


def low_frequency_share(errors: Array, running: Mask, below: float = 0.05) -> Interval:
    """The share of an error's power at frequencies below `below` cycles per decision; white noise has 2 · `below`."""
    shares = []
    for row in _episodes(errors, running):
        frequency, power = _periodogram(row)
        shares.append(_share(power[frequency < below].sum(), power.sum()))
    return median_over_episodes(np.array(shares))


def _episodes(values: Array, running: Mask) -> list[Array]:
    """Every episode's steps, `[its steps, …]`."""
    return [values[:, row][running[:, row]] for row in range(running.shape[1])]


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else np.nan


def _periodogram(errors: Array) -> tuple[Array, Array]:
    """Frequencies and power of errors `[steps, dimensions]`, all dimensions together; the power sums to Σ e²."""
    steps = len(errors)
    power = (np.abs(np.fft.rfft(errors, axis=0)) ** 2).sum(axis=1)
    power[1 : (steps + 1) // 2] *= 2  # the negative frequencies
    return np.fft.rfftfreq(steps).astype(np.float64), power / steps


def distances(first: Array, second: Array, scale: Array) -> Array:
    """How far two runs are apart, `[steps, rows]`: root mean square over dimensions of (s − s') / scale.

    Two independent draws from one distribution with this scale as its standard deviation are about √2 apart.

    Args:
        first: observations `[steps, rows, dimensions]`; the longer run is cut.
        second: the same.
        scale: `[dimensions]`; dimensions with scale 0 do not count.
    """
    steps, moving = min(len(first), len(second)), scale > 0
    apart = (first[:steps][..., moving] - second[:steps][..., moving]) / scale[moving]
    result: Array = np.sqrt((apart**2).mean(axis=2))
    return result


@dataclass(frozen=True)
class Shift:
    """How far a distribution of states lies from another one, dimension by dimension.

    Attributes:
        mean_difference: in units of the scale.
        deviation_ratio: standard deviation over the scale.
        wasserstein: Wasserstein-1 distance in units of the scale.
        average: of `wasserstein` over dimensions, with its interval.
    """

    mean_difference: list[Number]
    deviation_ratio: list[Amount]
    wasserstein: list[Amount]
    average: Interval


def state_shift(states: Array, running: Mask, base: Array, base_running: Mask, scale: Array) -> Shift:
    """How far the states of some episodes lie from those of others.

    The Wasserstein distance is that of about 100 states of every episode, evenly spaced; that of two samples of one
    distribution is above 0, the more so the fewer the episodes.

    Args:
        states: `[steps, rows, dimensions]`.
        running: `[steps, rows]`.
        base: the others, `[steps', rows', dimensions]`.
        base_running: `[steps', rows']`.
        scale: standard deviations that distances are measured in, `[dimensions]`; dimensions with 0 are left out.
    """
    moving = scale > 0
    one = _by_episode(states[..., moving] / scale[moving], running)
    two = _by_episode(base[..., moving] / scale[moving], base_running)
    every = np.arange(len(one)), np.arange(len(two))
    average = bootstrap(lambda *rows: _wasserstein(one, two, *rows).mean(), *every, resamples=_FEW_RESAMPLES)
    first, second = np.concatenate(one), np.concatenate(two)
    return Shift(
        mean_difference=(first.mean(axis=0) - second.mean(axis=0)).tolist(),
        deviation_ratio=first.std(axis=0).tolist(),
        wasserstein=_wasserstein(one, two, *every).tolist(),
        average=average,
    )


def _by_episode(states: Array, running: Mask) -> list[Array]:
    return [row[:: max(1, len(row) // _STATES_PER_EPISODE)] for row in _episodes(states, running)]


def _wasserstein(one: list[Array], two: list[Array], first: Rows, second: Rows) -> Array:
    distance = require("scipy.stats", "rl", "a Wasserstein distance").wasserstein_distance
    left, right = np.concatenate([one[row] for row in first]), np.concatenate([two[row] for row in second])
    return np.array([distance(left[:, index], right[:, index]) for index in range(left.shape[1])])


def _median(values: Array, axis: int = -1) -> Array:
    """The median over the last axis of the values that are numbers."""
    ordered = np.sort(values, axis=axis)  # NaN last
    numbers = (~np.isnan(ordered)).sum(axis=axis, keepdims=True)
    middles = [np.take_along_axis(ordered, np.maximum(at, 0), axis) for at in ((numbers - 1) // 2, numbers // 2)]
    medians: Array = np.where(numbers > 0, (middles[0] + middles[1]) / 2, np.nan).squeeze(axis)
    return medians


def _curve(at: NDArray[np.integer] | Array, values: Array) -> Curve:
    """The median over episodes of values `[places, rows]`."""
    ends = bootstrap_many(_median, values, resamples=_RESAMPLES)
    plain = ([None if np.isnan(number) else float(number) for number in end] for end in ends)
    return Curve([float(place) for place in at], *plain)
